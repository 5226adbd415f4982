"""Trainings that are started again: killed ones, finished ones, and those that are asked more."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_semantic import CONFIG, NAMES

from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError
from diffground.io.files import is_sound
from diffground.io.labels import read_labels, write_labels
from diffground.segmenters.crops import usable
from diffground.segmenters.deeplab import DeepLabV2
from diffground.segmenters.semantic import MODEL, SEEN, TRAINING, train_semantic
from diffground.training.checkpoint import LAST


def test_a_finished_training_is_known_without_reading_the_files(
    trained: Path,
    pairs: list[LabelledImage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "folder"))
    masks = Path(shutil.copytree(pairs[0].image_path.parent / "labels", tmp_path / "labels"))
    samples = [LabelledImage(s.id, s.image_path, masks / f"{s.id}.png") for s in pairs[:12]]
    read: list[str] = []

    def counting(*args: object, **kwargs: object) -> object:
        read.append("all")
        return usable(*args, **kwargs)

    monkeypatch.setattr("diffground.segmenters.semantic.usable", counting)

    def finished() -> int:
        """How often all files were read to see that nothing is left to do."""
        read.clear()
        assert not train_semantic(samples, NAMES, CONFIG, folder)["trained"]
        return len(read)

    assert (finished(), finished()) == (1, 0)  # copies have times of their own
    (folder / SEEN).unlink()  # as if it was trained before there was one
    assert (finished(), finished()) == (1, 0)
    os.utime(masks / "3.png")  # written again, with the same bytes
    assert (finished(), finished()) == (1, 0)
    unseen = CONFIG.model_copy(update={"deep_check": False})
    assert not train_semantic(samples, NAMES, unseen, folder)["trained"] and len(read) == 1
    before = (masks / "3.png").stat()
    other = read_labels(masks / "3.png")
    other[2, 2] = (other[2, 2] + 1) % 3
    write_labels(masks / "3.png", other)
    os.utime(masks / "3.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="another configuration"):
        train_semantic(samples, NAMES, CONFIG, folder)
    stale = json.loads((folder / TRAINING).read_text()) | {"key": "another"}
    (folder / TRAINING).write_text(json.dumps(stale))
    write_labels(masks / "3.png", read_labels(pairs[3].mask_path or masks))
    again = train_semantic(samples, NAMES, CONFIG, folder)  # from the checkpoint of its last step
    assert again["trained"] and again["resumed_at"] == 60
    assert finished() == 0


def test_a_training_waits_for_files_that_the_system_denies(
    pairs: list[LabelledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out, they would be missing for good."""
    opened = Image.open

    def refuse(path: Path, *args: object, **options: object) -> Image.Image:
        if path == pairs[3].image_path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path, *args, **options)

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match=r"access: cannot be opened .*\(1 such files\)"):
        train_semantic(pairs[:12], NAMES, CONFIG, tmp_path)
    assert not (tmp_path / LAST).exists()


def test_an_interrupted_training_ends_with_the_same_network_evaluated_or_not(
    trained: Path, pairs: list[LabelledImage], tmp_path: Path
) -> None:
    def dying(row: dict[str, float], step: int) -> None:
        if step == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_semantic(pairs[:12], NAMES, CONFIG, tmp_path, on_log=dying)
    often = CONFIG.model_copy(
        update={"train": CONFIG.train.model_copy(update={"evaluate_every": 15})}
    )
    summary = train_semantic(pairs[:12], NAMES, often, tmp_path, val=pairs[14:])
    assert summary["resumed_at"] == 20 and summary["metrics"]["miou"] > 0
    name = f"{MODEL}/model.safetensors"
    assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()
    assert not train_semantic(pairs[:12], NAMES, CONFIG, tmp_path)["trained"]


@pytest.mark.parametrize("name", [f"{MODEL}/model.safetensors", f"{MODEL}/config.json", TRAINING])
def test_a_damaged_network_is_named_and_written_again(
    name: str, trained: Path, pairs: list[LabelledImage], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "folder"))
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1  # of the same size, and still readable but for JSON
    (folder / name).write_bytes(content)
    if name != TRAINING:
        with pytest.raises(InputError, match=rf"{Path(name).name}: sha256: .*train with the same"):
            DeepLabV2.from_pretrained(folder / MODEL)
    summary = train_semantic(pairs[:12], NAMES, CONFIG, folder)
    assert summary["trained"] and summary["resumed_at"] == CONFIG.train.max_steps
    assert is_sound(folder / name)
    if name != TRAINING:
        assert (folder / name).read_bytes() == (trained / name).read_bytes()
    DeepLabV2.from_pretrained(folder / MODEL)


def test_rounds_are_another_training_here_precision_is_not() -> None:
    """A loss is the mean over the pixels of a round, and so is what a batch norm sees."""

    def content(**changes: object) -> dict:
        train = CONFIG.train.model_copy(update=changes)
        return CONFIG.model_copy(update={"train": train}).train_content()

    assert content() == content(mixed_precision="bf16", evaluate_every=5, num_workers=2)
    assert content() != content(accumulation=2)
