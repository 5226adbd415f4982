"""Mask files: killed and resumed runs, shards, the pool, bounded memory, and broken items."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

import mask_world
import numpy as np
import psutil
import pytest
from mask_world import BROKEN, CLASSES, CONFIG, IDS, RECIPE, make, scene
from pydantic import ValidationError

from diffground.errors import InputError
from diffground.io.labels import read_confidence, read_labels, write_labels
from diffground.masks import crf
from diffground.masks.crf import CrfConfig, dense_crf
from diffground.masks.labels import labels_of
from diffground.masks.mask_files import MaskConfig, MaskWork, ShardConfig, WorkConfig, mask_path
from diffground.masks.mask_files import write_masks as write_any
from diffground.masks.measure import measure
from diffground.masks.uncertainty import uncertain
from diffground.store.manifest import is_valid, read_manifest

LAYERS = ("mask", "label", "initial", "confidence")
HERE = WorkConfig()


def write_masks(
    folder,
    work=HERE,
    ids=IDS,
    make=make,
    config=CONFIG,
    compat="official",
    recipe=RECIPE,
    made_from=None,
):
    return write_any(
        ids, make, folder, config, work, compat=compat, recipe=recipe, made_from=made_from
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks, hidden ones included."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


@dataclass(frozen=True)
class Truth:
    id: str
    mask_path: Path | None


def truths(folder: Path, ids=IDS) -> list[Truth]:
    """Writes the ground truth of the made scenes."""
    out = []
    for item in ids:
        number = int(item.rpartition("_")[2])
        labels = scene(number, (24, 32 + number % 3), 4)[2]
        out.append(Truth(item, write_labels(folder / f"{item}.png", labels)))
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted, in one process, and its report."""
    folder = tmp_path_factory.mktemp("whole") / "masks"
    return folder, write_masks(folder)


def test_files_are_the_crf_of_the_work(whole):
    folder, report = whole
    assert report["complete"] and report["items"] == 60
    assert report["made"] == 59 and report["kept"] == 0
    assert report["skipped"]["problems"][0]["item"] == BROKEN
    assert report["skipped"]["problems"][0]["file"] == f"{BROKEN}.jpg"
    assert json.loads(json.dumps(report)) == report
    expected = sorted(f"{item}.png" for item in IDS if item != BROKEN)
    for layer in LAYERS:
        assert sorted(path.name for path in (folder / layer).iterdir()) == expected
    work = make(IDS[3])
    posterior = dense_crf(work.image, work.scores, CONFIG.crf, "official")
    labels, confidence = labels_of(posterior, work.label_ids, 0.9)
    assert (labels == 255).any()
    files = [mask_path(folder, IDS[3], layer) for layer in LAYERS]
    assert (read_labels(files[0], classes=4) == labels).all()
    assert (read_labels(files[1]) == posterior.argmax(0)).all()
    assert (read_labels(files[2]) == work.initial).all()
    np.testing.assert_allclose(read_confidence(files[3]), confidence, atol=1 / 509)


def test_the_papers_masks_leave_out_where_two_scores_are_close(tmp_path):
    item = IDS[3]
    write_masks(tmp_path, ids=[item], compat="paper")
    work = make(item)
    labels = dense_crf(work.image, work.scores, CONFIG.crf, "paper").argmax(0)
    unsure = uncertain(work.scores, "paper", 0.1)
    assert 0 < unsure.mean() < 0.5
    found = read_labels(mask_path(tmp_path, item))
    assert np.array_equal(found, np.where(unsure, 255, labels))
    assert np.array_equal(read_labels(mask_path(tmp_path, item, "label")), labels)
    with pytest.raises(InputError, match="compat: .*other parameters"):
        write_masks(tmp_path, ids=[item])


def test_killed_twice_ends_with_the_same_bytes(whole, tmp_path):
    folder = tmp_path / "masks"
    command = [sys.executable, mask_world.__file__, str(folder)]
    for enough in (12, 32):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while len(list(folder.glob("mask/*.png"))) < enough and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert workers and not psutil.wait_procs(workers, timeout=60)[1], "workers were left over"
        done = len(list(folder.glob("mask/*.png")))
        assert enough <= done < 59 and not is_valid(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("mask/*.png")}
    (folder / "mask" / ".item_000-dead.part").write_bytes(b"half")  # as a kill may leave
    report = write_masks(folder, WorkConfig(workers=2))
    assert report["complete"] and report["kept"] == done and report["made"] == 59 - done
    assert contents(folder) == contents(whole[0])
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items())
    samples = truths(tmp_path / "truth")
    for layer in ("label", "initial"):
        scores = [measure(f, samples, CLASSES, layer=layer) for f in (folder, whole[0])]
        assert scores[0][0].result() == scores[1][0].result()
        assert [p.item for p in scores[0][1].problems] == [BROKEN]


def test_measured_from_the_files(whole, tmp_path):
    samples = truths(tmp_path)
    after, report = measure(whole[0], samples, CLASSES)
    before, _ = measure(whole[0], samples, CLASSES, layer="initial")
    assert after.result()["images"] == 59
    assert after.result()["miou"] > before.result()["miou"] > 50
    assert [problem.item for problem in report.problems] == [BROKEN] and report.total == 60
    sure, _ = measure(whole[0], samples, CLASSES, layer="mask", unsure="ignore")
    assert sure.result()["pixel_accuracy"] > after.result()["pixel_accuracy"]


def test_measuring_names_what_does_not_fit(whole, tmp_path):
    good, size, unknown, missing = truths(tmp_path, IDS[:4])
    write_labels(size.mask_path, np.zeros((5, 6), np.uint8))
    labels = read_labels(unknown.mask_path)
    labels[0, 0] = 9
    write_labels(unknown.mask_path, labels)
    missing.mask_path.unlink()
    samples = [good, size, unknown, missing, Truth(IDS[5], None)]
    confusion, report = measure(whole[0], samples, CLASSES)
    assert confusion.result()["images"] == 1
    found = {(problem.item, problem.field) for problem in report.problems}
    fields = ("size", "labels", "file", "mask_path")
    assert found == set(zip([*IDS[1:4], IDS[5]], fields, strict=True))
    # a mask with unsure pixels, measured as if it had none
    _, report = measure(whole[0], [good], CLASSES, layer="mask")
    assert report.problems[0].field == "labels"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_make_the_same_folder(whole, tmp_path, order):
    for index in order:
        assert not is_valid(tmp_path)
        report = write_masks(tmp_path, WorkConfig(shard=ShardConfig(index=index, count=3)))
        assert report["items"] == 20 and report["complete"] == (index == order[-1])
    one, many = contents(whole[0]), contents(tmp_path)
    assert {k: v for k, v in one.items() if "/" in k} == {k: v for k, v in many.items() if "/" in k}
    assert sorted(k for k in many if k.startswith("shard")) == [
        f"shard-{index:03d}-of-003.json" for index in range(3)
    ]


def test_resuming_makes_what_is_missing_only(tmp_path):
    made: list[str] = []

    def noted(item: str) -> MaskWork:
        made.append(item)
        return make(item)

    ids = IDS[:6]
    write_masks(tmp_path, ids=ids, make=noted)
    before = contents(tmp_path)
    assert write_masks(tmp_path, ids=ids, make=noted)["made"] == 0 and made == ids
    mask_path(tmp_path, ids[1]).write_bytes(b"damaged")
    mask_path(tmp_path, ids[2]).unlink()
    mask_path(tmp_path, ids[4], "label").unlink()
    report = write_masks(tmp_path, ids=ids, make=noted)
    assert made[6:] == [ids[1], ids[2], ids[4]] and report["kept"] == 3
    assert contents(tmp_path) == before
    report = write_masks(tmp_path, ids=IDS[:8], make=noted)  # more items: filled further
    assert made[9:] == IDS[6:8] and report["complete"]


def test_what_was_made_from_something_else_is_made_again(tmp_path):
    ids, folder = IDS[:3], tmp_path / "masks"
    sources = {item: tmp_path / f"{item}.maps" for item in ids}
    for path in sources.values():
        path.write_bytes(b"maps")

    def made() -> int:
        return write_masks(folder, ids=ids, made_from=sources.__getitem__)["made"]

    assert (made(), made()) == (3, 0)
    sources[ids[1]].write_bytes(b"spam")
    os.utime(sources[ids[1]], ns=(0, 0))
    assert (made(), made()) == (1, 0)
    sources[ids[0]].unlink()
    assert made() == 0, "maps may be removed once the masks are there"


def test_dates_in_the_future_make_nothing_again(tmp_path):
    """A clock that was wrong when the maps were written costs one making at most."""
    ids, folder = IDS[:3], tmp_path / "masks"
    source, tomorrow = tmp_path / "maps", time.time_ns() + 86400 * 10**9
    source.write_bytes(b"maps")
    os.utime(source, ns=(tomorrow, tomorrow))

    def made() -> int:
        return write_masks(folder, ids=ids, made_from=lambda item: source)["made"]

    assert [made() for _ in range(3)] == [3, 0, 0]


def test_files_older_than_their_source_are_not_trusted_without_a_note(tmp_path):
    """As a killed run leaves them, when the maps were made again before the next."""
    ids, folder = IDS[:2], tmp_path / "masks"
    source = tmp_path / "maps"
    source.write_bytes(b"maps")

    def made() -> int:
        return write_masks(folder, ids=ids, made_from=lambda item: source)["made"]

    assert made() == 2
    for path in folder.glob("*.json"):
        path.unlink()
    assert made() == 0
    for path in (*folder.glob("shard*.json"), folder / "manifest.json"):
        path.unlink()
    later = mask_path(folder, ids[1]).stat().st_mtime_ns
    os.utime(source, ns=(later, later))
    assert made() == 1


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("noted", [True, False])
def test_damage_in_any_layer_is_mended(tmp_path, layer, noted):
    """Another picture of the same size in bytes; and, where no note is left, what is no picture."""
    ids = IDS[:3]
    write_masks(tmp_path, ids=ids)
    before = contents(tmp_path)
    path = mask_path(tmp_path, ids[1], layer)
    size = path.stat().st_size
    if noted:
        flipped = bytearray(path.read_bytes())
        flipped[-20] ^= 1
        path.write_bytes(flipped)
    else:
        path.write_bytes(b"junk".ljust(size))
        next(tmp_path.glob("shard-*.json")).unlink()
    assert path.stat().st_size == size
    report = write_masks(tmp_path, ids=ids)
    assert (report["made"], report["kept"]) == (1, 2) and contents(tmp_path) == before


@pytest.mark.parametrize("name", ["recipe.json", "shard-000-of-001.json", "manifest.json"])
@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_damaged_notes_are_written_again(tmp_path, name, content):
    ids = IDS[:2]
    write_masks(tmp_path, ids=ids)
    before = contents(tmp_path)
    (tmp_path / name).write_text(content)
    assert write_masks(tmp_path, ids=ids)["complete"] and contents(tmp_path) == before


def test_masks_of_nobody_knows_what_are_named(tmp_path):
    write_masks(tmp_path, ids=IDS[:2])
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "recipe.json").write_text("")
    with pytest.raises(InputError, match=r"recipe\.json: JSON: .*; remove the folder to make them"):
        write_masks(tmp_path, ids=IDS[:2])


def test_broken_items_are_tried_again(tmp_path):
    ids, mended = [BROKEN, IDS[0]], IDS[1]
    report = write_masks(tmp_path, ids=ids)
    assert report["complete"] and report["made"] == 1
    assert write_masks(tmp_path, ids=ids)["skipped"] == report["skipped"]
    report = write_masks(tmp_path, ids=ids, make=lambda item: make(mended))
    assert report["complete"] and report["made"] == 1 and not report["skipped"]["problems"]
    assert mask_path(tmp_path, BROKEN).exists()


def test_faults_in_workers_are_reported_with_their_file(tmp_path):
    config = MaskConfig(crf=CrfConfig(backend="torch", bilateral_sxy=1e-4, bilateral_srgb=1e-4))
    report = write_masks(tmp_path, WorkConfig(workers=1), ids=IDS[:2], config=config)
    assert report["made"] == 0 and report["skipped"]["by_field"] == {"sxy, srgb": 2}


@pytest.mark.parametrize("look_ahead", [None, 3])
def test_look_ahead_is_bounded(tmp_path, look_ahead):
    alive: weakref.WeakSet[MaskWork] = weakref.WeakSet()
    counts, unfinished = [], []

    def counted(item: str) -> MaskWork:
        gc.collect()
        counts.append(len(alive))
        unfinished.append(len(counts) - 1 - len(list(tmp_path.glob("mask/*.png"))))
        number = int(item.rpartition("_")[2])
        image, scores, _ = scene(number, (24, 32), 3)
        work = MaskWork(image, scores, (0, 1, 2))
        alive.add(work)
        return work

    config = MaskConfig(crf=CrfConfig(iterations=10))
    work = WorkConfig(workers=1, look_ahead=look_ahead)
    ids = [f"n_{number}" for number in range(12)]
    assert write_masks(tmp_path, work, ids=ids, make=counted, config=config)["complete"]
    bound = look_ahead or 2
    assert max(unfinished) < bound  # while one more is being made
    assert max(counts) <= bound  # one may be on its way out
    assert not alive


def test_folders_of_other_parameters_are_left_alone(tmp_path):
    write_masks(tmp_path, ids=IDS[:2])
    before = contents(tmp_path)
    for change in ({"recipe": {"model": "another"}}, {"config": MaskConfig()}):
        name = "recipe" if "recipe" in change else "masks"
        with pytest.raises(InputError, match=rf"recipe\.json: {name}: .* other parameters"):
            write_masks(tmp_path, ids=IDS[:2], **change)
    assert contents(tmp_path) == before


def test_masks_of_other_code_are_not_taken(tmp_path, monkeypatch):
    write_masks(tmp_path, ids=IDS[:2])
    monkeypatch.setattr(crf, "CODE_VERSION", 2)
    with pytest.raises(InputError, match=r"made with other code \(crf 1 → 2\)"):
        write_masks(tmp_path, ids=IDS[:2])


def test_the_commits_of_all_runs_are_kept(tmp_path, made_by):
    """Also that of a run which was killed before it could note what it had made."""

    def killed(item):
        if item == IDS[1]:
            raise KeyboardInterrupt
        return make(item)

    first = made_by("a")
    with pytest.raises(KeyboardInterrupt):
        write_masks(tmp_path, ids=IDS[:2], make=killed)
    second = made_by("b")
    assert write_masks(tmp_path, ids=IDS[:2])["complete"]
    noted = json.loads((tmp_path / "shard-000-of-001.json").read_text())["items"]
    assert [by for *_, by in noted.values()] == [first, second]
    assert read_manifest(tmp_path).made.commit == f"{first}, {second}"


def test_names(tmp_path):
    write_masks(tmp_path, ids=["deep/er/a_1", "a_1"])
    assert read_labels(tmp_path / "mask" / "deep" / "er" / "a_1.png").shape == (24, 33)
    for ids, message in (
        ([], "no item"),
        (["a_1", "a_1"], "occurs twice"),
        (["../a_1"], "cannot be the name"),
        (["/a_1"], "cannot be the name"),
        ([".a_1"], "cannot be the name"),
    ):
        with pytest.raises(InputError, match=message):
            write_masks(tmp_path / "other", ids=ids)
    assert not (tmp_path / "other").exists()


def test_settings_that_cannot_work(tmp_path, monkeypatch):
    with pytest.raises(ValidationError, match="not in 0"):
        ShardConfig(index=2, count=2)
    with pytest.raises(ValidationError, match="one image at a time"):
        WorkConfig(look_ahead=3)
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    compiled = MaskConfig(crf=CrfConfig(backend="pydensecrf"))
    with pytest.raises(InputError, match="backend: auto"):
        write_masks(tmp_path / "new", config=compiled)
    assert not (tmp_path / "new").exists()
