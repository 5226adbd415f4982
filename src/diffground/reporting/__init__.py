"""Figures and tables: what a run looks like, without knowledge of how its numbers were made."""
