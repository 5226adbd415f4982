"""Phrases in captions: found, aligned and kept whole. Text only: knows no model and no data."""
