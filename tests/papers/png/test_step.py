"""An optimiser's step is the same however its batch is shared out over rounds and processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_png
import torch
from safetensors.torch import load_file, save_file
from several import run_together
from torch import Tensor

from diffground.backbone.captions import LongCaptions
from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.png_benchmark import PngSample
from diffground.papers.png.features import count_phrases
from diffground.papers.png.narratives import collate
from diffground.training.checkpoint import trainable_state
from diffground.training.config import TrainConfig
from diffground.training.loop import train


def eight() -> list[PngSample]:
    """The four narratives, and again with their first phrase alone; most have another number."""
    four = tiny_png.samples()
    return [*four, *(replace(s, id=f"one-{s.id}", phrases=s.phrases[:1]) for s in four)]


def gradient(backbone: FrozenDiffusion, folder: Path, rounds: int) -> dict[str, Tensor]:
    """What one plain step of gradient descent at rate 1 moves, by parameter."""
    model = tiny_png.model(backbone)
    before = trainable_state(model)
    options: LongCaptions = model.config.long_captions
    train(
        model=model,
        loss_fn=lambda wrapped, batch: tiny_png.losses(wrapped(batch), batch),
        dataset=tiny_png.dataset(eight()),
        collate=collate,
        weight=lambda batch: count_phrases(backbone, batch, options),
        config=TrainConfig(
            max_steps=1, batch_size=8, learning_rate=1.0, optimizer="sgd", momentum=0.0,
            weight_decay=0.0, schedule="constant", grad_clip=0.0, accumulation=rounds,
        ),
        folder=folder,
    )  # fmt: skip
    after = trainable_state(model)
    return {name: before[name] - after[name] for name in before}


def work(rank: int, backbone: Path, out: Path) -> None:
    """One process of several."""
    found = gradient(FrozenDiffusion.from_pretrained(backbone), out / "train", 1)
    save_file(found, out / f"{rank}.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """All eight at once, in one process."""
    found = gradient(tiny_png.backbone(), tmp_path_factory.mktemp("whole"), 1)
    assert sum(float(value.norm()) for value in found.values()) > 1
    return found


def assert_same(found: dict[str, Tensor], whole: dict[str, Tensor]) -> None:
    for name, value in whole.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3 * scale + 1e-6)


def test_rounds_make_the_same_step(whole: dict[str, Tensor], tmp_path: Path) -> None:
    assert_same(gradient(tiny_png.backbone(), tmp_path, 2), whole)


def test_processes_make_the_same_step(whole: dict[str, Tensor], tmp_path: Path) -> None:
    run_together(work, tiny_png.backbone().folder, tmp_path)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_same(first, whole)


def test_phrases_that_a_truncated_caption_lost_do_not_count() -> None:
    sample = tiny_png.samples()[0]
    caption = "ball " + "z " * 90 + "grass"  # a token per letter: the second is beyond 77
    first, second = sample.phrases
    long = replace(
        sample,
        caption=caption,
        phrases=(replace(first, start=0, end=4), replace(second, start=185, end=190)),
    )
    samples = [sample, long]
    data = tiny_png.dataset(samples)
    batch = collate([data[0], data[1]])
    assert count_phrases(tiny_png.backbone(), batch, "truncate") == 3
    assert count_phrases(tiny_png.backbone(), batch, "sliding") == 4
    model = tiny_png.model(insertion="none", decode=False, long_captions="truncate")
    assert int(model(batch).valid.sum()) == 3
