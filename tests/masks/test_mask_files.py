"""Mask files: what is in them, which settings they depend on, and measuring them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from mask_world import scene

from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError
from diffground.io.labels import read_labels, write_labels
from diffground.masks import crf
from diffground.masks.crf import CrfConfig, dense_crf
from diffground.masks.mask_files import MaskConfig, MaskWork, mask_path, write_masks
from diffground.masks.measure import measure
from diffground.masks.uncertainty import uncertain
from diffground.store.config import WorkConfig

CLASSES = ("background", "a", "b", "c")
LAYERS = ("mask", "label", "initial")
IDS = [f"item_{number:03d}" for number in range(8)]
BROKEN = IDS[5]
CONFIG = MaskConfig(crf=CrfConfig(iterations=2), threshold=0.9)


def make(item: str) -> MaskWork:
    """The work of an item; one is broken."""
    if item == BROKEN:
        raise InputError(f"{item}.jpg", "pixels", "the image is cut short or corrupt")
    number = int(item.rpartition("_")[2])
    image, scores, _ = scene(number, (24, 32 + number % 3), 4)
    return MaskWork(image, scores, (0, 1, 2, 3), initial=scores.argmax(0).astype(np.uint8))


def write(folder, ids=IDS, config=CONFIG, workers=0, compat="official", recipe=None, source=None):
    return write_masks(
        {item: {"source": source} if source else {} for item in ids},
        make,
        folder,
        config,
        WorkConfig(workers=workers),
        compat=compat,
        recipe=recipe or {"model": "none"},
    )


def truths(folder: Path, ids=IDS) -> list[LabelledImage]:
    """Writes the ground truth of the made scenes."""
    out = []
    for item in ids:
        number = int(item.rpartition("_")[2])
        labels = scene(number, (24, 32 + number % 3), 4)[2]
        mask = write_labels(folder / f"{item}.png", labels)
        out.append(LabelledImage(item, folder / f"{item}.jpg", mask))
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder that one process made, and the summary."""
    folder = tmp_path_factory.mktemp("whole") / "masks"
    return folder, write(folder)


def test_files_are_the_crf_of_the_work(whole):
    folder, report = whole
    assert report["complete"] and (report["items"], report["made"], report["kept"]) == (8, 7, 0)
    assert [problem["item"] for problem in report["skipped"]["problems"]] == [BROKEN]
    expected = sorted(f"{item}.png" for item in IDS if item != BROKEN)
    for layer in LAYERS:
        assert sorted(path.name for path in (folder / layer).iterdir()) == expected
    work = make(IDS[3])
    posterior = dense_crf(work.image, work.scores, CONFIG.crf, "official")
    labels = np.where(posterior.max(0) < 0.9, 255, posterior.argmax(0))
    assert (labels == 255).any()
    files = [mask_path(folder, IDS[3], layer) for layer in LAYERS]
    assert (read_labels(files[0], classes=4) == labels).all()
    assert (read_labels(files[1]) == posterior.argmax(0)).all()
    assert (read_labels(files[2]) == work.initial).all()


def test_the_papers_masks_leave_out_where_two_scores_are_close(tmp_path):
    item = IDS[3]
    write(tmp_path, [item], compat="paper")
    work = make(item)
    labels = dense_crf(work.image, work.scores, CONFIG.crf, "paper").argmax(0)
    unsure = uncertain(work.scores, "paper", 0.1)
    assert 0 < unsure.mean() < 0.5
    found = read_labels(mask_path(tmp_path, item))
    assert np.array_equal(found, np.where(unsure, 255, labels))
    assert np.array_equal(read_labels(mask_path(tmp_path, item, "label")), labels)


def test_a_pool_makes_what_is_missing_or_damaged_in_any_layer_with_the_same_bytes(whole, tmp_path):
    write(tmp_path, IDS[:5])
    for item, layer in zip(IDS, LAYERS, strict=False):
        path = mask_path(tmp_path, item, layer)
        flipped = bytearray(path.read_bytes())
        flipped[-20] ^= 1
        path.write_bytes(flipped)
    report = write(tmp_path, workers=2)
    assert (report["complete"], report["made"], report["kept"]) == (True, 5, 2)
    for path in whole[0].rglob("*.png"):
        assert (tmp_path / path.relative_to(whole[0])).read_bytes() == path.read_bytes()


def test_what_masks_depend_on(tmp_path, monkeypatch):
    source = tmp_path / "maps"
    source.write_bytes(b"maps")

    def made(**change) -> int:
        return write(tmp_path / "masks", IDS[:2], source=source, **change)["made"]

    elsewhere = CONFIG.model_copy(update={"crf": CONFIG.crf.model_copy(update={"device": "meta"})})
    assert (made(), made(), made(config=elsewhere)) == (2, 0, 0)
    assert made(recipe={"model": "another"}) == 2
    assert made(config=CONFIG.model_copy(update={"threshold": 0.8})) == 2
    assert (made(compat="paper"), made()) == (2, 2)
    source.write_bytes(b"spam")
    assert (made(), made()) == (2, 0)
    monkeypatch.setattr(crf, "CODE_VERSION", 2)
    assert made() == 2


def test_measured_from_the_files(whole, tmp_path):
    samples = truths(tmp_path)
    after, report = measure(whole[0], samples, CLASSES)
    before, _ = measure(whole[0], samples, CLASSES, layer="initial")
    assert after.result()["images"] == 7
    assert after.result()["miou"] > before.result()["miou"] > 50
    assert [problem.item for problem in report.problems] == [BROKEN] and report.total == 8


def test_measuring_names_what_does_not_fit(whole, tmp_path):
    good, size, unknown, missing = truths(tmp_path, IDS[:4])
    write_labels(size.mask_path, np.zeros((5, 6), np.uint8))
    labels = read_labels(unknown.mask_path)
    labels[0, 0] = 9
    write_labels(unknown.mask_path, labels)
    missing.mask_path.unlink()
    samples = [good, size, unknown, missing, LabelledImage(IDS[4], tmp_path / "none.jpg", None)]
    confusion, report = measure(whole[0], samples, CLASSES)
    assert confusion.result()["images"] == 1
    found = {(problem.item, problem.field) for problem in report.problems}
    assert found == set(zip(IDS[1:5], ("size", "labels", "file", "mask"), strict=True))
    label = mask_path(tmp_path, IDS[0], "label")  # with an unsure pixel
    write_labels(label, np.full(read_labels(good.mask_path).shape, 255, np.uint8))
    _, report = measure(tmp_path, [good], CLASSES)
    assert report.problems[0].field == "labels"


def test_settings_that_the_crf_cannot_do_with_end_the_run(tmp_path, monkeypatch):
    narrow = MaskConfig(crf=CrfConfig(backend="torch", bilateral_sxy=1e-4, bilateral_srgb=1e-4))
    with pytest.raises(InputError, match="dense CRF: sxy, srgb"):
        write(tmp_path / "narrow", IDS[:2], narrow, workers=1)
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    compiled = MaskConfig(crf=CrfConfig(backend="pydensecrf"))
    with pytest.raises(InputError, match="backend: auto"):
        write(tmp_path / "new", config=compiled)
    assert not (tmp_path / "new").exists()
