"""The doctor of machines, projects and folders: what it finds, and what it says to do."""

from __future__ import annotations

import re
import shutil
import sqlite3
import sys
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest
import tiny_personalized
import tiny_png
import tiny_text2mask
import torch
from click.testing import CliRunner, Result
from fsspec.implementations.memory import MemoryFileSystem

from diffground.adapters.doctor import folders, machine
from diffground.adapters.doctor.findings import Finding, rendered, summed_up
from diffground.console import main

MINI = "data/06_models"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without data; its models are links to those that are shipped."""
    folder = tmp_path / "checkout"
    (folder / MINI).mkdir(parents=True)
    shutil.copytree(root / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, folder)
    for model in (root / MINI).glob("mini-*"):
        (folder / MINI / model.name).symlink_to(model)
    (folder / "src").mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))  # Kedro adds to it
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def test_a_fresh_checkout_is_in_order(project: Path) -> None:
    """What a command makes is no fault."""
    done = run()
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "Models (--env mini)" in text and "mini-sd: sd1," in text and "as sealed" in text
    assert "data/01_raw/mini/coco: not made yet" in text
    assert "sqlite:///mlflow.db: there is none yet" in text
    assert text.count("not made yet") == 4 and "nothing wrong" in text


def test_the_papers_folders_are_asked_for_by_name(project: Path) -> None:
    (project / "data/01_raw").mkdir()
    tiny_png.make_benchmark(project / "data/01_raw/coco")  # far less than COCO
    done = run("--env", "paper")
    assert done.exit_code == 1
    text = " ".join(done.output.split())
    assert re.search(r"WRONG stable_diffusion, for [\w, ]*png_train", text)
    assert "-> put Stable Diffusion 1.5 there in the diffusers layout, say by `hf download" in text
    assert "note personalized_vit" in text
    assert "there is no such environment" in run("--env", "papre").output
    assert "0 of 118287 files are there" in text and "-> unpack the archive again" in text


def test_places_at_a_url(project: Path) -> None:
    """Of each bucket, whether it answers; of what is in it, that a run fetches it."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = ["", "/here"]
    (project / "conf/local").mkdir()
    places = "coco: memory://none/coco\nmug19: memory://here/mug19\ndata: memory://here/data\n"
    (project / "conf/local/globals.yml").write_text(places)
    done = run()
    text = " ".join(done.output.split())
    assert done.exit_code == 1
    assert "WRONG memory://none, for coco, coco_folder: access: it cannot be reached" in text
    assert "-> see the name, the network, and the credentials" in text
    assert re.search(r"ok memory://here, for \w+, \w+, \w+ and others: answers", text)
    assert (
        "memory://here/mug19: no working copy yet -> nothing to do: the run that reads it" in text
    )
    assert re.search(r"GB free in \S*/checkout", text), "there working copies will lie"


def test_a_folder_that_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run()
    assert "the mini model" in done.output and "Datasets" not in done.output
    assert run("--env", "paper").exit_code == 2 and run("x", "--env", "mini").exit_code == 2


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("# pins\nnumpy==0.1\nclick>=1\nno-such-package==1\n")
    found = {finding.what: finding for finding in machine.packages(pins)}
    other = found["packages of other versions than the tested ones"]
    assert other.state == "note" and "numpy" in other.found and "click" not in other.found
    monkeypatch.setattr(machine, "requires", lambda name: ["numpy<1", "no-such-package", "torch"])
    found = {finding.what: finding for finding in machine.packages(tmp_path / "none")}
    missing = found["missing packages"]
    assert missing.state == "wrong" and missing.found == "no-such-package"
    assert "make install" in missing.remedy
    assert "(<1)" in found["packages of other versions than are needed"].found


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert next(machine.accelerators()).state == "note"
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    found = next(machine.accelerators())
    assert found.state == "wrong" and "TORCH_ARGS" in found.remedy
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "CUDA 13.0" in next(machine.accelerators()).remedy


def test_gpus_are_told_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own answers stand in for two GPUs."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    kind = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: kind)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20e9 * (index + 1), 80e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    first, second, cpu = machine.accelerators()
    assert (first.what, second.what, cpu.what) == ("cuda:0", "cuda:1", "CPU")
    assert second.state == "ok" and "GPU 1, 40 of 80 GB free; torch" in second.found


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    for free, scale, state in ((5e9, "mini", "ok"), (5e9, "paper", "note"), (1e8, "mini", "wrong")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda path, f=free: usage(f, 0, f))
        found = machine.disk(tmp_path / "no/such/folder", scale)
        assert found.state == state and str(tmp_path) in found.found
        assert ("free some space" in found.remedy) == (state != "ok")


def test_the_run_log(tmp_path: Path) -> None:
    uri = "sqlite:///mlflow.db"
    assert "none yet" in machine.run_log(uri, tmp_path).found
    assert not list(tmp_path.iterdir())  # looking makes nothing
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db, db:
        db.execute("CREATE TABLE runs (id)")
        db.execute("INSERT INTO runs VALUES (1)")
    assert machine.run_log(uri, tmp_path).found.endswith(": 1 runs")
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    broken = machine.run_log(uri, tmp_path)
    assert broken.state == "wrong" and "not a database" in broken.found
    away = machine.run_log("http://127.0.0.1:9", tmp_path)
    assert (
        away.state == "wrong" and "refused" in away.found and "MLFLOW_TRACKING_URI" in away.remedy
    )


def test_models(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(root / MINI / "mini-clip", folder)
    sound = folders.model(folder, "clip")
    assert sound.state == "ok" and "CLIPModel" in sound.found and "as sealed" in sound.found
    (folder / "SHA256SUMS").rename(tmp_path / "sums")
    assert "without checksums" in folders.model(folder, "clip").found
    (tmp_path / "sums").rename(folder / "SHA256SUMS")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    damaged = folders.model(folder, "clip")
    assert damaged.state == "wrong" and "damaged" in damaged.found
    assert damaged.remedy == "fetch the folder again"
    (folder / "model.safetensors").unlink()
    assert "no weights" in folders.model(folder, "clip").found
    (folder / "config.json").write_text("{")
    assert "config.json" in folders.model(folder, "clip").found
    assert folders.model(tiny_png.backbone().folder, "sd").state == "ok"
    weights = tmp_path / "odise.pth"
    weights.write_bytes(b"0" * 2_000_000)
    assert folders.model(weights, "odise").found.endswith("one file, 2.0 MB")


def test_a_copy_of_coco(tmp_path: Path) -> None:
    coco = tiny_png.make_benchmark(tmp_path / "coco")
    done = run(coco, "--deep")
    assert done.exit_code == 0 and "# Data doctor: val2017" in done.output
    assert "Files that were opened" in done.output and "nothing wrong" in done.output
    (coco / "annotations/panoptic_segmentation/val2017/000000000001.png").unlink()
    done = run(coco)
    assert done.exit_code == 1 and "tar -xf" in done.output


def test_copies_of_other_datasets(tmp_path: Path) -> None:
    mug19 = shutil.copytree(tiny_personalized.world(), tmp_path / "mug19")
    assert run(mug19, "--deep").exit_code == 0
    next(mug19.rglob("scenes/**/*.jpg")).write_bytes(b"no picture")
    assert run(mug19).exit_code == 0  # it is there
    done = run(mug19, "--deep")
    assert done.exit_code == 1 and "fetch those files again" in " ".join(done.output.split())

    voc = shutil.copytree(tiny_text2mask.world() / "voc2012", tmp_path / "voc2012")
    done = run(voc, "--deep")
    assert done.exit_code == 0 and "val: 3 of 3 images with their masks" in done.output
    masks = sorted((voc / "VOCdevkit/VOC2012/SegmentationClassAug").glob("*.png"))
    masks[0].unlink()
    masks[-1].write_bytes(b"no picture")
    there, opened = run(voc), run(voc, "--deep")
    assert there.exit_code == opened.exit_code == 1
    # One of train is in train_aug too; one of val is there, and no picture.
    assert there.output.count("1 broken") == 2 and opened.output.count("1 broken") == 3
    assert run(tiny_text2mask.world() / "coco2014").exit_code == 0


def test_findings_as_text() -> None:
    rows = [
        Finding("ok", "a", "b"),
        Finding("wrong", "c", "d", "do `this thing`"),
        Finding("note", "e", "f"),
    ]
    assert rendered("Title", rows).splitlines() == [
        "Title", "  ok    a: b", "  WRONG c: d", "        -> do `this thing`", "  note  e: f",
    ]  # fmt: skip
    assert summed_up(rows) == "1 wrong, 1 to note, 1 in order"
    assert summed_up(rows[:1]) == "nothing wrong, nothing to note, 1 in order"
