"""The frozen diffusion model: loading, encoding, and the probe of its maps and features."""
