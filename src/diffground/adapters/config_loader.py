"""Kedro's configuration loader: what environments build on, and what belongs to a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf import OmegaConf

from diffground.adapters.remote import RemoteConfig, localised
from diffground.errors import InputError

DEFAULT_ENV = "mini"  # what a run takes that names none
LOCAL = "local"  # no environment, but what belongs to this machine
#: Folders of conf/ that are no environment; the other one has grids, see `adapters.ablations`.
NO_ENVIRONMENTS = (LOCAL, "ablations")
#: What lies between base and an environment: a longer recipe of the mini models, in their world.
BUILDS_ON = {"gpu": (DEFAULT_ENV,)}
#: What Kedro gives the loader, see :mod:`diffground.settings`.
LOADER_ARGS: dict[str, Any] = {
    "base_env": "base",
    "default_run_env": DEFAULT_ENV,
    "config_patterns": {"mlflow": ["mlflow.yml"], "remote": ["remote.yml"]},
    # An environment says only what differs from what it builds on, at any depth.
    "merge_strategy": {"parameters": "soft", "catalog": "soft", "mlflow": "soft", "remote": "soft"},
}


class ProjectConfigLoader(OmegaConfigLoader):
    """Reads ``base``, what the environment builds on (:data:`BUILDS_ON`), and the environment.

    Kedro reads base and one environment. This is the configuration as it is in the repository, the
    same on every machine.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The configuration ``key``; the last of :meth:`environments` has the last word.

        Of the catalog, with working copies in place of URLs (:mod:`diffground.adapters.remote`).
        Raises :class:`InputError` for a file that is no YAML.
        """
        try:
            content = self._laid_over(key, self.environments(key))
        except (yaml.YAMLError, AttributeError, TypeError, RecursionError):
            for file in sorted(Path(self.conf_source).rglob(f"{key}*.y*ml")):
                _check(file)
            raise
        return localised(content, self._cache) if key == "catalog" else content

    def _cache(self) -> Path:
        """The folder of working copies."""
        return RemoteConfig.model_validate(dict(self["remote"])).cache

    def environments(self, key: str) -> tuple[str, ...]:
        """The folders that are laid over base for ``key``, one over the other."""
        env = self.env or self.default_run_env
        return (*BUILDS_ON.get(env, ()), env)

    def _laid_over(self, key: str, environments: tuple[str, ...]) -> dict[str, Any]:
        lowest, *others = environments
        asked, self.env = self.env, lowest
        try:
            content: dict[str, Any] = super().__getitem__(key)
        except MissingConfigException:  # credentials are in `local` alone
            if not others or not (Path(self.conf_source) / lowest).is_dir():
                raise
            content = {}
        finally:
            self.env = asked
        for env in () if key in self else others:  # set by hand, it is what it is
            folder = self._get_conf_env_path(env)
            patterns, secret = self.config_patterns[key], key == "credentials"
            own = self.load_and_merge_dir_config(folder, patterns, key, set(), secret)
            content = self._merge_configs(content, own, key, folder)
        return content


def _check(file: Path) -> None:
    """InputError for a file that is no YAML, or has no names at its top: Kedro names few."""
    try:
        content = OmegaConf.load(file)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = "brackets are nested too deeply to be read"
        if not isinstance(error, RecursionError):
            reason = " ".join(str(error).split())
        raise InputError(file, "YAML", reason) from error
    if not OmegaConf.is_dict(content):
        raise InputError(file, "YAML", "lines `name: value` are expected")


class MachineConfigLoader(ProjectConfigLoader):
    """Reads what belongs to this machine, the folder ``local``, last.

    Where models and data lie belongs to the machine and not to an experiment, so its
    ``globals.yml`` is read whichever environment is asked for. Its parameters and catalog entries
    change the default environment alone.
    """

    def environments(self, key: str) -> tuple[str, ...]:
        """Those of the repository, and this machine's where it has a say.

        Raises :class:`InputError` for a ``local/globals.yml`` that is something else.
        """
        shared = super().environments(key)
        own = Path(self.conf_source) / LOCAL
        if not own.is_dir() or (key != "globals" and shared[-1] != self.default_run_env):
            return shared
        file = own / "globals.yml"
        if key == "globals" and file.is_file() and not OmegaConf.is_dict(OmegaConf.load(file)):
            raise InputError(file, "globals", "lines `name: place` are expected")
        return (*shared, LOCAL)

    def usual_parameters(self) -> dict[str, Any]:
        """The parameters without this machine's, and without those that the run was given."""
        given, self.runtime_params = self.runtime_params, {}
        try:
            return self._laid_over("parameters", super().environments("parameters"))
        finally:
            self.runtime_params = given
