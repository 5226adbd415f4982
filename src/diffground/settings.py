"""Kedro's settings for the project. See conf/README.md for the configuration itself."""

import os

from diffground.adapters.config_loader import LOADER_ARGS, MachineConfigLoader
from diffground.adapters.hooks import (
    InputsHook,
    OneWriterHook,
    ParametersHook,
    RemoteHook,
    ResultsHook,
    RunLogHook,
)

# Models and datasets are local folders. Whoever wants the network says so in the environment.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Nobody is told of a run. MLflow understands only "true" and takes DO_NOT_TRACK=1 for a yes; an
# outright "false" is somebody's own choice.
for name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
    if os.environ.get(name, "").lower() not in ("false", "0"):
        os.environ[name] = "true"
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "0")  # conf/logging.yml decides

# Called last to first: what is given is fetched, then checked, before a run is opened in the log.
HOOKS = (
    ResultsHook(),
    RunLogHook(),
    OneWriterHook(),
    InputsHook(),
    RemoteHook(),
    ParametersHook(),
)

# Its hook writes a run status that takes every named pipeline for the whole project.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-viz",)

CONFIG_LOADER_CLASS = MachineConfigLoader
CONFIG_LOADER_ARGS = LOADER_ARGS
