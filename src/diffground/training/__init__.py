"""The one training loop, used by every model that diffground trains."""
