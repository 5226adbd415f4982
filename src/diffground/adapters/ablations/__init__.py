"""Ablations: a notebook over a grid of its parameters, resumed, logged, and shown on one page."""
