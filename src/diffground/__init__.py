"""diffground: frozen text-to-image diffusion models as open-vocabulary segmenters."""

__version__ = "0.1.0"
