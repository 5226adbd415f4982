"""The frozen diffusion model: loading, encoding, generating, and the probe of maps and features."""
