"""Kedro hooks: what a run is given is checked first, every run is logged, and its end says where
the results are."""

from diffground.hooks.checks import InputsHook, ParametersHook
from diffground.hooks.results import ResultsHook
from diffground.hooks.runs import OneWriterHook, RunLogHook

__all__ = ["InputsHook", "OneWriterHook", "ParametersHook", "ResultsHook", "RunLogHook"]
