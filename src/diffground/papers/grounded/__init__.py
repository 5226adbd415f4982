"""Grounded generation (papers 003 and 004): an image, and the masks of what its prompt names."""
