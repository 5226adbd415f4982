"""Readers of the public layouts: files in, samples out. Knows no model."""
