"""Kedro hooks: what a run is given is fetched and checked first, every run is logged, what it makes
is sent where it belongs, and its end says where the results are."""

from diffground.adapters.hooks.checks import InputsHook, ParametersHook
from diffground.adapters.hooks.remote import RemoteHook
from diffground.adapters.hooks.results import ResultsHook
from diffground.adapters.hooks.runs import OneWriterHook, RunLogHook

__all__ = [
    "InputsHook",
    "OneWriterHook",
    "ParametersHook",
    "RemoteHook",
    "ResultsHook",
    "RunLogHook",
]
