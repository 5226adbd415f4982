"""Metrics: numbers from masks, without knowledge of any model."""
