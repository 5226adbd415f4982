"""Reports appear whole: a full disk, a failing writer or a second run leave none half written."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from kedro.io import AbstractDataset, DatasetError
from matplotlib.figure import Figure
from PIL import Image

from diffground.adapters.datasets.files import (
    ImageDataset,
    JSONDataset,
    MatplotlibDataset,
    TextDataset,
)
from diffground.errors import InputError


def figure() -> Figure:
    drawn, axes = plt.subplots()
    axes.plot([1, 2, 3])
    return drawn


KINDS = {
    "a.json": (JSONDataset, lambda: {"ar": [1.5, None], "note": "é"}),
    "a.md": (TextDataset, lambda: "line\nµ\n"),
    "a.png": (ImageDataset, lambda: Image.new("RGB", (40, 30), "red")),
    "f.png": (MatplotlibDataset, figure),
}


def dataset(name: str, folder: Path) -> AbstractDataset:
    return KINDS[name][0](filepath=str(folder / "deep" / name))


@pytest.mark.parametrize("name", KINDS)
def test_what_is_saved_is_what_is_read(tmp_path: Path, name: str) -> None:
    data = KINDS[name][1]()
    dataset(name, tmp_path).save(data)
    path = tmp_path / "deep" / name
    assert [entry.name for entry in path.parent.iterdir()] == [name]
    if name.endswith(".png"):
        assert Image.open(path).size == getattr(data, "size", (640, 480))
    else:
        assert dataset(name, tmp_path).load() == data
        assert path.read_text("utf-8") == (data if name == "a.md" else json.dumps(data, indent=2))


@pytest.mark.parametrize("name", KINDS)
def test_a_full_disk_leaves_the_old_report(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is named, with the file."""
    report = dataset(name, tmp_path)
    report.save(KINDS[name][1]())
    path = tmp_path / "deep" / name
    before = path.read_bytes()

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DatasetError, match="No space left on device") as caught:
        report.save(KINDS[name][1]())
    assert isinstance(caught.value.__cause__, InputError)
    assert caught.value.__cause__.file == str(path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_what_cannot_be_written_leaves_the_old_report(tmp_path: Path) -> None:
    report = dataset("a.json", tmp_path)
    report.save({"ar": 1})
    with pytest.raises(DatasetError, match="not JSON serializable"):
        report.save({"first": "x" * 100_000, "then": object()})
    assert report.load() == {"ar": 1}


def test_whoever_reads_while_another_writes_gets_a_whole_report(tmp_path: Path) -> None:
    """As when two runs draw the same figure and the run log takes it away."""
    report = dataset("a.png", tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    picture = Image.fromarray(noise)
    report.save(picture)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            dataset("a.png", tmp_path).save(picture)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(60):
            assert (np.asarray(report.load()) == noise).all()
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def test_every_report_of_the_catalog_is_written_whole(root: Path) -> None:
    """Of all environments: Kedro's own datasets of files would write in place."""
    for catalog in sorted(root.glob("conf/*/catalog*.yml")):
        for line in catalog.read_text("utf-8").splitlines():
            kind = line.strip().removeprefix("type:").strip()
            if line.strip().startswith("type:"):
                assert kind.startswith("diffground.adapters.datasets."), f"{catalog}: {kind}"
