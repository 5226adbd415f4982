"""Kedro's configuration loader, with the places of this machine known to every environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

from diffground.errors import InputError

LOCAL = "local"


class MachineConfigLoader(OmegaConfigLoader):
    """Reads ``local/globals.yml`` last whichever environment is asked for.

    Kedro reads base and one environment. Where models and data lie belongs to the machine and not
    to an experiment, so ``--env paper`` must see it too. Parameters and catalog entries of
    ``local/`` stay with the environment ``local``.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The configuration ``key``, as Kedro has it, and globals with this machine's.

        Raises :class:`InputError` for a local file that is something else.
        """
        content: dict[str, Any] = super().__getitem__(key)
        file = Path(self.conf_source) / LOCAL / "globals.yml"
        if key != "globals" or not file.is_file():
            return content
        places = OmegaConf.to_container(OmegaConf.load(file))
        if not isinstance(places, dict):
            raise InputError(file, "globals", "lines `name: place` are expected")
        return content | {str(name): place for name, place in places.items()}
