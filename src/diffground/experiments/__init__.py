"""Experiments in general: what every result table is."""
