"""Readers of the public layouts and vocabularies: files in, samples out. Knows no model."""
