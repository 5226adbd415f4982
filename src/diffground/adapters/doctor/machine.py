"""What this machine is: packages, accelerators, memory and disk, and where runs are logged."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from diffground.adapters.doctor.findings import Finding
from diffground.adapters.run_store import look

_INSTALL = "`make install` installs what constraints.txt pins"
_ELSEWHERE = "name another root as `data` in conf/local/globals.yml"
_NAMED = 6  # packages of a finding that are named
_GIGA = 1e9
_LEAST = {"mini": 2.0, "paper": 60.0}  # gigabytes that a scale's features and runs take


def packages(constraints: Path) -> Iterator[Finding]:
    """Whether all that is needed is installed, in versions that it is written against.

    Args:
        constraints: the versions it is tested with; may be missing, as outside of a checkout.
    """
    yield Finding("ok", "Python", f"{platform.python_version()}, {sys.executable}")
    try:
        wanted = [Requirement(text) for text in requires("diffground") or ()]
    except PackageNotFoundError:
        yield Finding("wrong", "diffground", "it is not installed in this Python", _INSTALL)
        return
    needed = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    there = {each.name: _version(each.name) for each in needed}
    missing = [name for name, found in there.items() if found is None]
    if missing:
        yield Finding("wrong", "missing packages", _listed(missing), _INSTALL)
    other = [
        f"{each.name} {found} ({each.specifier})"
        for each in needed
        if (found := there[each.name]) and not each.specifier.contains(found, prereleases=True)
    ]
    if other:
        yield Finding(
            "wrong", "packages of other versions than are needed", _listed(other), _INSTALL
        )
    if not missing and not other:
        yield Finding("ok", "packages", f"all {len(needed)} that are needed, in their ranges")
    if constraints.is_file():
        yield _tested(constraints)
    if _version("pydensecrf2") or _version("pydensecrf"):
        yield Finding("ok", "dense CRF", "compiled")
    else:
        remedy = (
            "`pip install -c constraints.txt pydensecrf2` builds the compiled one, with a C++ "
            "compiler and below Python 3.13"
        )
        yield Finding("note", "dense CRF", "in torch: the same masks in twice the time", remedy)


def _tested(constraints: Path) -> Finding:
    """Which packages are of other versions than the tests saw."""
    lines = constraints.read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    other = []
    for pin in pins:
        found = _version(pin.name)
        if found and not pin.specifier.contains(Version(found).public, prereleases=True):
            other.append(f"{pin.name} {found} ({pin.specifier})")
    if other:
        what = "packages of other versions than the tested ones"
        return Finding("note", what, _listed(other), f"figures may differ; {_INSTALL}")
    return Finding("ok", constraints.name, "every package that is installed has the tested version")


def accelerators() -> Iterator[Finding]:
    """What torch computes on."""
    import torch

    build = torch.version.cuda or torch.version.hip
    about = f"torch {torch.__version__}"
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is not None and kind.type == "cuda":
        for index in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            memory = f"{free / _GIGA:.0f} of {whole / _GIGA:.0f} GB free"
            yield Finding("ok", f"cuda:{index}", f"{name}, {memory}; {about}")
    elif kind is not None:
        yield Finding("ok", kind.type, about)
    elif shutil.which("nvidia-smi"):
        reason = f"{about} sees none, though there is nvidia-smi"
        if build is None:
            remedy = (
                "torch is a build for the CPU: "
                '`make clean install TORCH_ARGS="--index-url <index of the build>"`'
            )
        else:
            remedy = f"see that the driver is new enough for CUDA {build}, and CUDA_VISIBLE_DEVICES"
        yield Finding("wrong", "GPU", reason, remedy)
    else:
        remedy = "enough for the mini world; the papers' settings want a GPU of 24 GB and more"
        yield Finding("note", "GPU", f"none; {about} computes on the CPU", remedy)
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", "CPU", f"{cores} cores, OMP_NUM_THREADS {threads}")


def disk(data: Path, scale: str) -> Finding:
    """Whether there is room in the root of the data layers, and the right to write there."""
    there = next(folder for folder in (data, *data.parents) if folder.is_dir())
    if not os.access(there, os.W_OK):
        remedy = f"give yourself the right to write there, or {_ELSEWHERE}"
        return Finding("wrong", "disk", f"{there} cannot be written", remedy)
    free, least = shutil.disk_usage(there).free / _GIGA, _LEAST[scale]
    found = f"{free:.0f} GB free in {there}"
    if free < least:
        remedy = f"this scale takes up to {least:.0f} GB: free some space, or {_ELSEWHERE}"
        return Finding("wrong" if free < 1 else "note", "disk", found, remedy)
    return Finding("ok", "disk", found)


def run_log(uri: str, project: Path) -> Finding:
    """Whether the store of runs answers."""
    try:
        return Finding("ok", "run log", f"{uri}: {look(uri, project)}")
    except Exception as error:  # of the database, the server or the network: it says what
        reason = str(error).partition("\n")[0]
        remedy = (
            "start the server, move a damaged database away, or name another store in "
            "conf/local/mlflow.yml or MLFLOW_TRACKING_URI; until then runs wait in mlruns/.open"
        )
        return Finding("wrong", "run log", f"{uri}: {reason}", remedy)


def _version(name: str) -> str | None:
    try:
        return version(canonicalize_name(name))
    except PackageNotFoundError:
        return None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return re.sub(r"\s+", " ", ", ".join(names[:_NAMED])) + more
