"""Processes that a launcher starts are one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from diffground.config import AutoDevice, Config, Device, devices
from diffground.errors import InputError
from diffground.io.locks import held
from diffground.training.processes import check_device, processes

CODE = """
import atexit, json, os, sys
from pathlib import Path
import torch
from diffground.training.processes import processes
@atexit.register  # first, so that it is called last
def end() -> None:
    left = not torch.distributed.is_initialized()
    (Path(sys.argv[1]) / f"left-{os.environ['RANK']}.json").write_text(json.dumps(left))
state = processes()
state.wait_for_everyone()
assert processes().is_main_process == (state.process_index == 0)
from accelerate import Accelerator
view = [Accelerator().num_processes, state.num_processes, state.device.type]
(Path(sys.argv[1]) / f"{state.process_index}.json").write_text(json.dumps(view))
"""
EARLY = """
from accelerate import PartialState
PartialState()
"""


def start(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(code)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(script), str(folder)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_processes_on_a_processor_are_one_run(tmp_path: Path) -> None:
    done = start(tmp_path, CODE)
    assert done.returncode == 0, done.stderr
    views = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert views == [[2, 2, "cpu"], [2, 2, "cpu"]]
    left = [json.loads((tmp_path / f"left-{rank}.json").read_text()) for rank in (0, 1)]
    assert left == [True, True], "a group that outlives Python aborts the process now and then"


def test_alone() -> None:
    assert processes().num_processes == 1 and processes().is_main_process


def test_processes_that_do_not_see_each_other_are_an_error(tmp_path: Path) -> None:
    done = start(tmp_path, EARLY + CODE)
    assert done.returncode != 0
    assert "2 processes were started, 1 take part in this run" in done.stderr
    assert not list(tmp_path.glob("[01].json"))


class Part(Config):
    device: Device = "cpu"


class Whole(Config):
    device: AutoDevice = "auto"
    part: Part = Part()
    note: str = "cpu"


@pytest.mark.parametrize("name", ["tpu", "gpu", "cuda:", "cuda:x", "cpu ", ""])
def test_a_name_that_no_device_has(name: str) -> None:
    with pytest.raises(ValidationError, match="auto"):
        Whole(device=name)
    with pytest.raises(ValidationError, match="device"):
        Part(device="auto")


def test_devices_of_a_configuration() -> None:
    found = dict(devices(Whole(part=Part(device="cuda:99")), "png"))
    assert found == {"png.device": "auto", "png.part.device": "cuda:99"}
    check_device("auto", "png.device")
    check_device("cpu", "png.part.device")
    with pytest.raises(InputError, match=r"png\.part\.device: this machine has no cuda:99; it has"):
        check_device(found["png.part.device"], "png.part.device")


LOCKED = """
import json, os, sys
from pathlib import Path
from diffground.errors import InputError
from diffground.training.processes import only_training, processes
folder, said = Path(sys.argv[1]) / "variant", []
for _ in range(2):
    try:
        with only_training(folder):
            said.append("trains")
            processes().wait_for_everyone()
    except InputError as error:
        said.append(str(error))
    if not said[1:] and processes().is_main_process:  # from now on another run trains there
        os.rename(folder.parent / "other.lock", folder.parent / ".variant.lock")
    processes().wait_for_everyone()
(Path(sys.argv[1]) / f"{processes().process_index}.json").write_text(json.dumps(said))
"""


def test_processes_of_one_run_hold_one_lock_and_are_refused_together(tmp_path: Path) -> None:
    other = tmp_path / "other.lock"
    with held(other, "a training elsewhere"):
        note = tmp_path / "other.lock.holder"
        (tmp_path / ".variant.lock.holder").write_bytes(note.read_bytes())
        done = start(tmp_path, LOCKED)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first[0] == "trains"
    assert ".variant.lock: lock: this training is in the hands of" in first[1]


def test_numbers_in_a_list_are_no_truth_either() -> None:
    class Seeds(Config):
        seeds: tuple[int, ...] = (0,)
        flags: tuple[bool, ...] = (True,)

    assert Seeds(seeds=[1, 2], flags=[False]).seeds == (1, 2)
    with pytest.raises(ValidationError, match="seeds"):
        Seeds(seeds=[1, True])
