"""What a run is given, checked before its first node: names, folders, devices."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from kedro.config import AbstractConfigLoader, MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import AbstractDataset, DataCatalog
from kedro.pipeline import Pipeline

from diffground.adapters.config_loader import DEFAULT_ENV, LOCAL, NO_ENVIRONMENTS
from diffground.adapters.datasets import FolderDataset
from diffground.adapters.hooks.asked_splits import check_splits
from diffground.config import devices
from diffground.errors import InputError

PARAMS = "params:"


class ParametersHook:
    """Refuses an environment that there is not, and parameters that no pipeline reads.

    Kedro would pass over both in silence: what a typo was to change would run unchanged.
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Raises InputError for the first unknown name, with the nearest one that is known."""
        loader = context.config_loader
        assert isinstance(loader, AbstractConfigLoader)
        conf = Path(loader.conf_source)
        if context.env == LOCAL:
            reason = (
                f"is no environment: it is read last by a run that names none, over {DEFAULT_ENV}"
            )
            raise InputError("--env", LOCAL, reason)
        folders = sorted(path.name for path in conf.glob("*/"))
        there = [name for name in folders if name not in NO_ENVIRONMENTS]
        if context.env and folders and context.env not in there:
            reason = f"there is no such environment; {nearest(context.env, there)}"
            raise InputError("--env", context.env, reason)
        try:
            given = dict(loader["parameters"])
        except MissingConfigException:
            given = dict(loader.runtime_params or {})
        known = parameters_read()
        for name in given:
            if name not in known and PARAMS not in known and not str(name).startswith("_"):
                reason = f"no pipeline reads such a parameter; {nearest(str(name), sorted(known))}"
                raise InputError(_origin(loader, str(name)), str(name), reason)


class InputsHook:
    """Looks at what a pipeline needs and does not make, before its first node runs."""

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Raises InputError for the first device that this machine lacks, for the first folder or
        file that is missing or not whole, and for the first split or list that there is not.
        """
        from diffground.training.processes import check_device

        names = sorted(pipeline.inputs())
        for name in names:
            if name.startswith(PARAMS):
                for field, device in devices(catalog.load(name), name.removeprefix(PARAMS)):
                    check_device(device, field)
        for name in names:
            dataset = catalog.get(name)
            if isinstance(dataset, FolderDataset):
                dataset.check()
            elif dataset is not None and not dataset.exists() and not _for_report(name, pipeline):
                raise _not_made(name, dataset)
        check_splits(pipeline, catalog)


def _for_report(name: str, pipeline: Pipeline) -> bool:
    """Whether only nodes read it that say of what is missing that it is."""
    return all("report" in node.tags for node in pipeline.nodes if name in node.inputs)


def _not_made(name: str, dataset: AbstractDataset[Any, Any]) -> InputError:
    """What to run first, for an input that some pipeline makes."""
    makers = [key for key, whole in dict(pipelines).items() if name in whole.all_outputs()]
    remedy = f"begin earlier in the pipeline, or run one of {', '.join(makers)}" if makers else ""
    place = getattr(dataset, "_filepath", "memory")
    return InputError(str(place), name, f"it is not there; {remedy or 'put it there'}")


def parameters_read() -> set[str]:
    """The top-level parameters that registered pipelines read; "params:" if one reads them all."""
    inputs = {name for pipeline in dict(pipelines).values() for name in pipeline.inputs()}
    read = {
        name.removeprefix(PARAMS).partition(".")[0] for name in inputs if name.startswith(PARAMS)
    }
    return read | ({PARAMS} if "parameters" in inputs else set())


def nearest(name: str, known: list[str]) -> str:
    """What to do about a name that is not known, as the end of a sentence."""
    close = get_close_matches(name, known, n=1)
    there = f"there are {', '.join(known)}"
    return f"did you mean `{close[0]}`? ({there})" if close else there


def _origin(loader: AbstractConfigLoader, name: str) -> str | Path:
    """The file that names the parameter, or the option of the command line."""
    if name in (loader.runtime_params or {}):
        return "--params"
    for file in sorted(Path(loader.conf_source).rglob("parameters*.y*ml")):
        content: Any = yaml.safe_load(file.read_text("utf-8"))
        if isinstance(content, dict) and name in content:
            return file
    return "parameters"
