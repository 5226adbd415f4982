"""Trained models on disk: found by what they are, healed or named when damaged, taken by name."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_png
import torch
from pydantic import ValidationError

from diffground.errors import InputError
from diffground.io.files import is_sound, seal_of
from diffground.papers.png.experiment import evaluate_variant, train_variant
from diffground.papers.png.grounder import NarrativeGrounder
from diffground.papers.png.keys import PngConfig, PngFolders, Variant
from diffground.papers.png.model import CONFIG, WEIGHTS, PngModel
from diffground.papers.png.trained import TRAINING, load_checkpoint, load_variant
from diffground.training.checkpoint import BEST, LAST, trainable_state

#: A model that learns a few scalars, in a second.
BASELINE = {"insertion": "none", "inner_product": "frozen", "decode": False}


def config(**changes: dict) -> PngConfig:
    train = {"max_steps": 4, "batch_size": 2, "learning_rate": 0.1, "checkpoint_every": 2}
    changes["train"] = train | changes.get("train", {})
    changes["model"] = BASELINE | changes.get("model", {})
    changes["eval"] = {"batch_size": 3, "overlays": 2} | changes.get("eval", {})
    return tiny_png.config(**changes)


@dataclass
class Place:
    """Where a test's experiments lie."""

    folders: PngFolders

    def variant(self, png: PngConfig) -> Variant:
        return Variant.of(png, self.folders, tiny_png.backbone())

    def train(self, png: PngConfig) -> dict:
        return train_variant(self.variant(png))

    def trained(self, png: PngConfig) -> Path:
        return self.folders.models / self.train(png)["variant"]

    def load(self, png: PngConfig) -> PngModel:
        return load_variant(self.variant(png))

    def take(self, png: PngConfig, name: str) -> tuple[PngModel, str]:
        return load_checkpoint(png, self.folders.models, tiny_png.backbone(), name)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(PngFolders(tiny_png.make_benchmark(tmp_path / "coco"), tmp_path / "png"))


def same(a: PngModel, b: PngModel) -> bool:
    left, right = trainable_state(a), trainable_state(b)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_the_name_says_what_decides_the_weights_and_nothing_else(place: Place) -> None:
    """So that a model which four GPUs trained with accumulation 1 is found by a plain png_eval."""

    def name(seed: int = 0, **changes) -> str:
        return Variant.of(config(**changes), place.folders, tiny_png.backbone(seed)).name

    full = {"insertion": "both", "decode": True}
    assert {name(model=full)} == {
        name(**{"model": full, **same})
        for same in (
            {"train": {"accumulation": 2, "mixed_precision": "bf16", "restart": True}},
            {"train": {"evaluate_every": 2, "log_every": 1, "checkpoint_every": 1}},
            {"train": {"evaluate_every": 2, "num_workers": 1}, "eval": {"weights": "best"}},
            {"precision": "bfloat16", "features": "computed"},
            {"eval": {"batch_size": 1, "overlays": 0, "limit": 1}},
            {"model": full | {"head": "diffusion", "threshold": 0.3, "checkpoint": True}},
        )
    }
    others = [
        {},
        {"seed": 1},
        {"train": {"learning_rate": 0.2}},
        {"train": {"seed": 1}},
        {"loss": {"reduction": "mean"}},
        {"model": full | {"insertion": "encoder"}},
        {"model": full | {"insertion": "decoder"}},
        {"model": full | {"mlma": tiny_png.MODEL["mlma"] | {"deformable": False}}},
    ]
    assert len({name(**{"model": full, **other}) for other in others}) == len(others)
    static = {"insertion": "none", "inner_product": "none", "decode": False}
    zero_shot = name(model=static)
    assert zero_shot == name(model=static, train={"seed": 1})
    assert zero_shot == name(model=static | {"decoder": {"layers": 1}, "mask_latent": "clean"})
    assert zero_shot != name(seed=1, model=static)


def test_a_measure_depends_on_precision_and_weights(place: Place) -> None:
    paths = {
        place.variant(png).measured("evaluation")
        for png in (
            config(),
            config(precision="bfloat16"),
            config(train={"evaluate_every": 2}, eval={"weights": "best"}),
        )
    }
    assert len(paths) == 3
    same_rule = config(eval={"batch_size": 1, "overlays": 0})
    assert place.variant(same_rule).measured("evaluation") in paths


def test_a_model_of_four_processes_is_found_by_one(place: Place) -> None:
    rounds = config(train={"accumulation": 2})
    folder = place.trained(rounds)
    variant = place.variant(config())
    assert variant.folder == folder
    assert evaluate_variant(variant, load_variant(variant))[1]["ar"]["overall"] is not None
    how = json.loads((folder / TRAINING).read_text())["how"]
    assert (how["accumulation"], how["processes"], how["precision"]) == (2, 1, "float32")


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TRAINING])
def test_a_damaged_model_is_named_and_written_again(
    name: str, damage: object, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    folder = place.trained(config())
    before = place.load(config())
    damage(folder / name)
    if name != TRAINING and not (name == CONFIG and damage is Path.unlink):
        with pytest.raises(InputError, match=rf"{name}: .*written again from last\.pt"):
            place.load(config())
    with caplog.at_level(logging.WARNING):
        summary = place.train(config())
    assert summary["resumed_at"] == 4  # nothing was trained anew
    if (name, damage) != (CONFIG, Path.unlink):
        assert f"{folder / name} is missing or was damaged" in caplog.text
    assert all(is_sound(folder / each) for each in (WEIGHTS, CONFIG, TRAINING, LAST))
    after = place.load(config())
    assert same(before, after)
    assert place.train(config())["trained"] is False


def test_the_best_weights_are_an_option(place: Place) -> None:
    with pytest.raises(ValidationError, match=r"eval\.weights\n.*train\.evaluate_every"):
        config(eval={"weights": "best"})
    plain = place.trained(config())
    best = config(train={"evaluate_every": 1}, eval={"weights": "best"})
    for call in (place.load, place.train):
        with pytest.raises(InputError, match=r"png\.eval\.weights: .*png\.train\.restart=true"):
            call(best)
    again = config(train={"evaluate_every": 1, "restart": True}, eval={"weights": "best"})
    folder = place.trained(again)
    assert folder == plain
    chosen = place.load(best)
    last = place.load(config())
    summary = json.loads((folder / TRAINING).read_text())
    assert same(chosen, last) == (summary["best"]["step"] == 4)
    flip(folder / BEST)
    with pytest.raises(InputError, match=r"best\.safetensors: sha256: .*train anew"):
        place.load(best)
    place.load(config())


def test_a_model_is_taken_by_its_name_or_path(place: Place) -> None:
    folder = place.trained(config(train={"evaluate_every": 1}))
    want = place.load(config())
    # Another experiment's settings: what is trained counts, how it is read off is the run's.
    other = config(model={**BASELINE, "insertion": "both", "threshold": 0.3})
    for name in (folder.name, str(folder), str(folder / WEIGHTS)):
        model, called = place.take(other, name)
        assert called == folder.name and same(model, want)
        assert model.config.insertion == "none" and model.config.threshold == 0.3
    place.take(other, str(folder / BEST))
    with pytest.raises(InputError, match=rf"no trained model lies there.*{folder.name}"):
        place.take(other, "both-0000")
    with pytest.raises(InputError, match="head decoder, but the model has only"):
        place.take(config(model={"decode": True, "head": "decoder"}), folder.name)


def test_what_was_trained_is_enough_to_ground_with(place: Place) -> None:
    folder = place.trained(config())
    grounder = NarrativeGrounder.from_pretrained(tiny_png.backbone().folder, folder)
    want = place.load(config())
    assert same(grounder.model, want) and grounder.data == config().data


def test_a_validation_split_that_is_not_there_is_said_before_the_training(
    place: Place,
) -> None:
    png = config(splits={"val": "nonexistent"})
    with pytest.raises(InputError, match="nonexistent"):
        place.train(png)
    assert not list(place.folders.models.rglob(LAST))


def test_a_seal_is_no_condition(place: Place) -> None:
    folder = place.trained(config())
    for path in list(folder.glob("*.sha256")):
        path.unlink()
    place.load(config())
    assert place.train(config())["trained"] is False
    assert not seal_of(folder / WEIGHTS).exists()


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("eval", "overlays", -1),
        ("eval", "batch_size", 1_000_000),
        ("eval", "protocol", "mine"),
        ("model", "time_step", True),
        ("model", "typo", 1),
    ],
)
def test_values_that_no_experiment_can_mean(section: str, field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        config(**{section: {field: value}})
