"""What comes with the package beside its code: configuration, and the mini diffusion model.

In a checkout they lie where the repository has them; a wheel carries them as data files, which pip
puts under ``share/diffground`` of the environment, in the same order of folders.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from diffground.errors import InputError

MINI_MODEL = "data/06_models/mini-sd"
CONF = "conf"

_SHARE = "share/diffground/"


def shipped(name: str) -> Path:
    """The folder that the repository has at ``name``, wherever the package was installed.

    Raises InputError where neither a checkout nor a wheel brought it.
    """
    checkout = Path(__file__).parents[2] / name
    if checkout.is_dir():
        return checkout
    try:
        installed = files("diffground") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        root, found, inner = file.as_posix().partition(_SHARE)
        if found and inner.startswith(f"{name}/"):
            return Path(str(file.locate())).resolve().parents[inner.count("/")] / name
    reason = "it is not there, neither in a checkout nor in what was installed; name a folder"
    raise InputError(name, "folder", reason)
