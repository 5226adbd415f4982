"""Two processes take the steps of one: every kind of training of the papers, and its checkpoints.

The processes are started once; a launcher would start them as well (``run_together``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_grounded
import tiny_personalized
import tiny_png
import torch
from safetensors.torch import load_file
from several import run_together
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from transformers import ResNetConfig, ResNetModel

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.on_demand import Frozen
from diffground.backbone.personal import WEIGHTS
from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError
from diffground.io.images import write_png
from diffground.io.labels import write_labels
from diffground.papers.grounded.learning import learn as learn_module
from diffground.papers.grounded.samples import Samples
from diffground.papers.personalized.item_tokens import learn_items, tokens_folder
from diffground.papers.personalized.learning_config import TokenLearningConfig
from diffground.papers.personalized.token_learning import learn as learn_token
from diffground.papers.png.features import count_phrases
from diffground.papers.png.narratives import collate
from diffground.segmenters.deeplab import DeepLabConfig
from diffground.segmenters.semantic import SemanticConfig, train_semantic
from diffground.store.items import Item
from diffground.store.manifest import is_valid
from diffground.training.batches import drawn
from diffground.training.checkpoint import LAST
from diffground.training.config import TrainConfig
from diffground.training.loop import train
from diffground.training.processes import processes
from diffground.training.sharing import fill_together

STEPS = 4
LOOP = {"max_steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, "log_every": 1}
#: Relative, of a step's losses: they differ by the order of float sums.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Given:
    """What all read. Libraries write models in the first process alone: they are made before."""

    root: Path  # tiny models, and scenes with personal things
    sets: tuple[Samples, Samples]


def png(given: Given, out: Path) -> list[dict[str, float]]:
    frozen = FrozenDiffusion.from_pretrained(given.root / "sd")
    model = tiny_png.model(frozen)
    options = model.config.long_captions
    return train(
        model=model,
        loss_fn=lambda wrapped, batch: tiny_png.losses(wrapped(batch), batch),
        dataset=tiny_png.dataset(tiny_png.samples()),
        collate=collate,
        weight=lambda batch: count_phrases(frozen, batch, options),
        config=TrainConfig.model_validate(LOOP),
        folder=out,
    ).history


def deeplab(given: Given, out: Path) -> list[dict[str, float]]:
    samples = []
    for number in range(8):
        random = np.random.default_rng(number)
        labels = random.integers(0, 3, (36, 44)).astype(np.uint8)
        labels[: 3 * number] = 255  # from none to half of an image
        write_png(out / f"{number}.png", random.integers(0, 255, (36, 44, 3), dtype=np.uint8))
        write_labels(out / f"labels/{number}.png", labels)
        files = out / f"{number}.png", out / f"labels/{number}.png"
        samples.append(LabelledImage(str(number), *files))
    network = DeepLabConfig(
        init="weights",
        weights=given.root / "resnet",
        rates=(1, 2),
        scales=(1.0, 0.5),
        output_stride=8,
    )
    config = SemanticConfig.model_validate({"network": network, "crop": 32, "train": LOOP})
    found: list[dict[str, float]] = train_semantic(
        samples, ("background", "red", "blue"), config, out / "model"
    )["history"]
    return found


def grounding(given: Given, out: Path) -> list[dict[str, float]]:
    config = tiny_grounded.learning(
        module=tiny_grounded.module("improved", dropout=0.0),
        train={"steps": STEPS, "evaluations": 1},
    )
    frozen = Frozen(given.root / "sd", tiny_grounded.config())
    done = learn_module(frozen, *given.sets, config, out / "models", out / "features").training
    assert done["best"]["class"] == done["evaluations"][0]["class"], "all processes know the best"
    history: list[dict[str, float]] = done["history"]
    return history


def token(given: Given, out: Path) -> list[dict[str, float]]:
    """With class pictures; losses are those of photos and of pictures."""
    seen: list[dict[str, float]] = []
    prior = {"count": 4, "steps": 2, "guidance": 2.0, "batch": 2}
    config = TokenLearningConfig.model_validate({"prior": prior, "start": "word", "train": LOOP})
    photos = [np.full((64, 64, 3), 40 * n, np.uint8) for n in range(1, 4)]
    learn_token(
        FrozenDiffusion.from_pretrained(given.root / "sd"),
        photos,
        "cup",
        config,
        out,
        token="<new1>",
    )
    seen += torch.load(out / LAST, weights_only=True)["record"]["history"]
    return seen


KINDS: dict[str, Callable[[Given, Path], list[dict[str, float]]]] = {
    "png": png, "deeplab": deeplab, "grounding": grounding, "token": token,
}  # fmt: skip


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


class Killed(RuntimeError):
    """Stands for the end of the process."""


def line(folder: Path, until: int = 99) -> Line:
    """A training with noise and averaged weights, on whatever processes there are."""
    x = torch.linspace(-1, 1, 24)[:, None].repeat(1, 2)
    model, step = Line(), 0

    def loss(wrapped: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        nonlocal step
        step += 1
        if step > until:
            raise Killed
        x, y = batch
        noise = drawn(lambda n: torch.randn(n, 2), len(x))
        return {"loss": (wrapped(x + 0.1 * noise) - y).square().mean()}

    train(
        model=model, loss_fn=loss, dataset=TensorDataset(x, x[:, :1] ** 2), folder=folder,
        config=TrainConfig(
            max_steps=12, batch_size=6, learning_rate=0.02, checkpoint_every=4, ema_decay=0.9
        ),
        evaluate=lambda module: {"score": float(module(x).mean())}, monitor="score",
    )  # fmt: skip
    return model


def store(folder: Path) -> dict[str, Any]:
    """A store of ten items, one of which cannot be made."""
    mine: list[str] = []

    def make(item: str) -> str:
        mine.append(item)
        if item == "7":
            raise InputError(item, "content", "it is the seventh")
        return f"content {item}"

    def finish(item: str, content: str) -> None:
        (folder / item).write_text(content)

    items = [Item(str(n), (str(n),)) for n in range(10)]
    summary = fill_together(folder, {"code": {"texts": 1}}, items, make, finish, what="texts")
    again = fill_together(folder, {"code": {"texts": 1}}, items, make, finish, what="texts")
    return {"mine": mine, "summary": {**summary, "seconds": 0}, "again": again["made"]}


def tokens(given: Given, out: Path) -> dict[str, Any]:
    """The tokens of some items, which two processes learn side by side."""
    config = tiny_personalized.config()
    scenes = tiny_personalized.scenes(given.root / "mug19")
    frozen = Frozen(given.root / "sd", config)
    summary = learn_items(scenes, frozen, config, out)
    folder = tokens_folder(out, frozen.fingerprint, config)
    return {"made": summary["made"], "items": list(scenes.items), "folder": folder.name}


def work(rank: int, given: Given, out: Path) -> None:
    """What each of two processes does."""
    found: dict[str, Any] = {name: kind(given, out / name) for name, kind in KINDS.items()}
    for name in ("two-then-one", "one-then-two"):
        try:
            line(out / name, until=6 if name == "two-then-one" else 99)
        except Killed:
            found[name] = torch.load(out / name / LAST, weights_only=True)["record"]["step"]
    found["store"] = store(out / "store")
    found["tokens"] = tokens(given, out / "tokens")
    (out / f"{rank}.json").write_text(json.dumps(found))
    processes().wait_for_everyone()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    shape = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8], "embedding_size": 8}
    ResNetModel(ResNetConfig(layer_type="basic", **shape)).save_pretrained(folder / "resnet")
    (folder / "sd").symlink_to(tiny_png.backbone().folder)
    (folder / "mug19").symlink_to(tiny_personalized.world())
    first, second = (tiny_grounded.separable(folder / "sets", name, 8) for name in ("train", "val"))
    return Given(folder, (first, second))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def together(given: Given, out: Path) -> list[dict[str, Any]]:
    """What each process found."""
    with pytest.raises(Killed):
        line(out / "one-then-two", until=6)
    run_together(work, given, out)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_losses_of_one(
    given: Given, together: list[dict[str, Any]], tmp_path: Path, kind: str
) -> None:
    alone = KINDS[kind](given, tmp_path)
    first, second = (found[kind] for found in together)
    assert first == second and [row["step"] for row in first] == list(range(1, STEPS + 1))
    assert len({row["loss"] for row in alone}) == STEPS, "a loss that does not change shows nothing"
    for mine, other in zip(first, alone, strict=True):
        assert mine == pytest.approx(other, rel=TOLERANCE, abs=1e-7)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return line(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("way", ["two-then-one", "one-then-two"])
def test_a_training_goes_on_with_another_number_of_processes(
    together: list[dict[str, Any]], out: Path, whole: Line, way: str
) -> None:
    if way == "two-then-one":
        assert together[0][way] == 4, "it was killed after its first checkpoint"
    last = line(out / way)  # in one process, whatever is left
    state = torch.load(out / way / LAST, weights_only=True)
    assert state["record"]["step"] == 12
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(last.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_processes_share_a_store_out(together: list[dict[str, Any]], out: Path) -> None:
    first, second = (found["store"] for found in together)
    assert first["mine"] == [*"02468"] and second["mine"] == [*"13579", "7"], "tried again"
    assert first["summary"] == second["summary"]
    summary = first["summary"]
    assert (summary["items"], summary["made"], summary["kept"]) == (10, 9, 0)
    assert [p["item"] for p in summary["skipped"]["problems"]] == ["7"]
    assert summary["complete"] and is_valid(out / "store") and first["again"] == 0


def test_processes_learn_tokens_of_their_own(
    given: Given, together: list[dict[str, Any]], out: Path, tmp_path: Path
) -> None:
    """Byte by byte those of one process: no step is shared."""
    alone, found = tokens(given, tmp_path), together[0]["tokens"]
    assert found == alone and alone["made"] == len(alone["items"]) > 1
    for item in alone["items"]:
        files = [place / alone["folder"] / item / WEIGHTS for place in (tmp_path, out / "tokens")]
        mine, other = map(load_file, files)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
