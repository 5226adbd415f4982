"""Stores that Ray's processes fill: the same bytes, whoever dies on the way. Started once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_grounded
import tiny_png
import tiny_text2mask
from recipes import recipe

from diffground.errors import ACCESS, InputError, WriteError
from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.png.config import FeatureExtractionConfig
from diffground.papers.png.feature_extraction import extract_features
from diffground.papers.png.feature_store import FeatureKey
from diffground.papers.text2mask.experiment import aggregate, label
from diffground.store import ray_pool
from diffground.store.config import RayConfig, WorkConfig
from diffground.store.items import Item, Summary, fill

pytestmark = pytest.mark.slow  # Ray takes seconds to start


@pytest.fixture(scope="module", autouse=True)
def started() -> Any:
    """Ray on this machine, as the first store starts it."""
    if find_spec("ray") is None:  # imported first by the pool, which says where it listens
        pytest.skip("ray is not installed")
    ray = ray_pool._started(RayConfig())
    yield ray
    ray.shutdown()


RAY = WorkConfig(executor="ray", ray=RayConfig(models=2), workers=1)


def files(folder: Path, aside: tuple[str, ...] = ()) -> dict[str, bytes]:
    """What is in a store but its notes, which say when and in which order."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.name.startswith(".")
        and path.suffix != ".jsonl"
        and path.name not in ("manifest.json", "recipe.json", *aside)
    }


def filled(
    folder: Path, work: WorkConfig, count: int = 12, harm: Callable[[str], None] | None = None
) -> Summary:
    """A store of products of random matrices; the model is loaded by ``ready``."""
    opened: list[Any] = []

    def ready() -> None:
        import torch

        opened.append(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))

    def make(item: str) -> Any:
        if harm is not None:
            harm(item)
        if item == "5":
            raise InputError(item, "content", "it is the fifth")
        return (opened[0] * int(item)) @ opened[0]

    def finish(item: str, made: Any) -> dict[str, Any]:
        (folder / item).write_bytes(made.numpy().tobytes())
        return {"sum": float(made.sum())}

    items = [Item(str(n), (str(n),)) for n in range(count)]
    return fill(
        folder,
        {"code": {"products": 1}},
        items,
        make,
        finish,
        what="products",
        work=work,
        ready=ready,
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    filled(folder, WorkConfig())
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_the_same_bytes(tmp_path: Path, plain: Path, workers: int) -> None:
    found = filled(tmp_path, RAY.model_copy(update={"workers": workers}))
    assert (found["complete"], found["made"], found["skipped"]["skipped"]) == (True, 11, 1)
    assert files(tmp_path) == files(plain) and len(files(plain)) == 11
    again = filled(tmp_path, RAY)
    assert (again["made"], again["kept"]) == (0, 11)


def test_a_lost_worker_loses_what_it_had_in_hand(tmp_path: Path, plain: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def harm(item: str) -> None:
        with (marks / item).open("a") as mark:
            mark.write("x")
        if item in ("3", "8") and (marks / item).stat().st_size == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    found = filled(tmp_path / "store", RAY, harm=harm)
    assert found["complete"] and files(tmp_path / "store") == files(plain)
    tries = {mark.name: mark.stat().st_size for mark in marks.iterdir()}
    assert tries["3"] > 1 and tries["8"] > 1
    assert sum(tries.values()) <= 12 + 2 * 4, "only what was in hand is made again"


def test_an_item_that_ends_its_worker_every_time_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "_AHEAD", 6)  # many wait behind it, and are lost with it

    def harm(item: str) -> None:
        if item == "2":
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)

    one = RAY.model_copy(update={"ray": RayConfig(models=1)})
    found = filled(tmp_path, one, count=8, harm=harm)
    problems = {each["item"]: each for each in found["skipped"]["problems"]}
    assert set(problems) == {"2", "5"}, "those behind it are not to blame"
    assert problems["2"]["field"] == ACCESS
    assert "its worker died 3 times" in problems["2"]["reason"]
    assert not found["complete"] and sorted(files(tmp_path)) == list("013467")
    assert filled(tmp_path, one, count=8)["complete"], "a later run tries again"


def test_errors_are_those_of_a_plain_run(tmp_path: Path) -> None:
    def finish(item: str, made: str) -> None:
        raise InputError("disk", "space", "it is full")

    items = [Item("0", ("0",))]
    with pytest.raises(InputError, match="disk: space: it is full"):
        fill(tmp_path, {}, items, lambda item: item, finish, what="texts", work=RAY)

    def ready() -> None:
        raise InputError("model", "weights", "there are none")

    def full(item: str) -> str:
        raise WriteError("disk", "space", "it is full")

    with pytest.raises(WriteError, match="disk: space: it is full"):
        fill(tmp_path, {}, items, full, finish, what="texts", work=RAY)

    with pytest.raises(InputError, match="model: weights: there are none"):
        fill(
            tmp_path, {}, items, lambda item: item, lambda item, made: None,
            what="texts", work=RAY, ready=ready,
        )  # fmt: skip


def test_it_listens_to_this_machine_alone() -> None:
    children = psutil.Process().children(recursive=True)
    ports = []
    for child in children:
        with suppress(psutil.NoSuchProcess):  # workers come and go
            ports += child.net_connections("tcp")
    listening = {port.laddr.ip for port in ports if port.status == psutil.CONN_LISTEN}
    assert listening and listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


DRIVER = """
import sys
from pathlib import Path
import test_ray_pool as t
from doomed import wait_for_the_end
def waits(item):
    if int(item) > 7:
        wait_for_the_end()
t.filled(Path(sys.argv[1]), t.RAY, count=12, harm=waits)
"""


def test_a_driver_that_was_killed_goes_on(tmp_path: Path, plain: Path) -> None:
    report = tmp_path / "store/shard-000-of-001.jsonl"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not report.exists() or len(report.read_text().splitlines()) < 3:
            assert driver.poll() is None, "it ended before it could be killed"
            time.sleep(0.1)
        started = psutil.Process(driver.pid).children(recursive=True)
    finally:
        driver.kill()
        driver.wait()
    # Ray's agents look for their parent now and then.
    gone, alive = psutil.wait_procs(started, timeout=180)
    left = [process.cmdline() for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert gone and not left, "its Ray ended with it"
    found = filled(tmp_path / "store", RAY)
    assert found["complete"] and found["kept"] >= 3 and found["made"] + found["kept"] == 11
    assert files(tmp_path / "store") == files(plain)


def test_maps_and_masks(tmp_path: Path) -> None:
    """Of attention and CRF."""
    for name, work in (("plain", {"workers": 0}), ("ray", RAY.model_dump())):
        one = tiny_text2mask.split(tmp_path / name, work=work)
        assert aggregate(one, tiny_text2mask.frozen())["complete"] and label(one)["complete"]
    found = {name: files(tmp_path / name) for name in ("plain", "ray")}
    timed = {name for name in found["ray"] if name.endswith(".json")}  # seconds
    assert {n: c for n, c in found["ray"].items() if n not in timed} == {
        n: c for n, c in found["plain"].items() if n not in timed
    }
    assert len(found["ray"]) - len(timed) == 4 * 10


def test_synthesis(tmp_path: Path) -> None:
    made = {}
    for name, work in (("plain", WorkConfig()), ("ray", RAY)):
        asked = tiny_grounded.config(work=work.model_dump())
        assert isinstance(asked, GroundingDataConfig)
        summary = tiny_grounded.made(tmp_path / name, asked)
        assert summary["complete"]
        made[name] = files(tmp_path / name / summary["folder"])
    assert made["plain"] == made["ray"] and len(made["ray"]) > 2


def test_features_of_narratives(tmp_path: Path) -> None:
    backbone = tiny_png.backbone()
    key = FeatureKey(
        backbone=backbone.fingerprint(), backbone_precision="float32", coco="0" * 16,
        split="train2017", code={"features": 1}, image_size=tiny_png.SIDE, max_phrases=30,
        long_captions="per_sentence", precision="float16",
    )  # fmt: skip
    made = {}
    for name, work in (("plain", WorkConfig()), ("ray", RAY)):
        config = recipe(
            FeatureExtractionConfig, num_workers=0, batch_size=1, block_size=2, work=work
        )
        done = extract_features(backbone, tiny_png.samples(), key, tmp_path / name, config)
        assert done["complete"]
        made[name] = files(tmp_path / name)
    assert made["plain"] == made["ray"] and made["ray"]
