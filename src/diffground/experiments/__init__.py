"""Experiments in general: what papers report, one runner for all their tables, and its results."""
