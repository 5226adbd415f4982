"""Kedro's configuration loader, with the places of this machine known to every environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf

LOCAL = "local"


class MachineConfigLoader(OmegaConfigLoader):
    """Reads ``local/globals.yml`` last whichever environment is asked for.

    Kedro reads base and one environment. Where models and data lie belongs to the machine and not
    to an experiment, so ``--env paper`` must see it too. Parameters and catalog entries of
    ``local/`` stay with the environment ``local``.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The configuration ``key``, as Kedro has it, and globals with this machine's."""
        content: dict[str, Any] = super().__getitem__(key)
        file = Path(self.conf_source) / LOCAL / "globals.yml"
        if key != "globals" or not file.is_file():
            return content
        places = OmegaConf.to_container(OmegaConf.load(file))
        return content | {str(name): place for name, place in dict(places or {}).items()}
