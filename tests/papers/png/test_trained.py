"""Trained models on disk: found by what they are, healed or named when damaged, taken by name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import tiny_png
import torch
from pydantic import ValidationError
from recipes import recipe

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
    content: dict = {
        "scale": "mini",
        "precision": "float32",
        "device": "cpu",
        "data": {"image_size": 64},
        "model": {**tiny_png.MODEL, **BASELINE},
        "train": {"max_steps": 4, "batch_size": 2, "learning_rate": 0.1, "checkpoint_every": 2},
        "eval": {"batch_size": 3, "overlays": 2},
    }
    for section, values in changes.items():
        content[section] = content[section] | values if isinstance(values, dict) else values
    return recipe(PngConfig, **content)


@pytest.fixture
def folders(tmp_path: Path) -> PngFolders:
    coco = tiny_png.make_benchmark(tmp_path / "coco")
    return PngFolders(coco, tmp_path / "png")


def trained(png: PngConfig, folders: PngFolders) -> Path:
    summary = train_variant(png, folders, tiny_png.backbone())
    return folders.models / summary["variant"]


def weights(model: PngModel) -> dict[str, torch.Tensor]:
    return trainable_state(model)


def same(a: PngModel, b: PngModel) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"accumulation": 2}},
        {"train": {"mixed_precision": "bf16"}},
        {"train": {"evaluate_every": 2, "log_every": 1, "checkpoint_every": 1, "num_workers": 1}},
        {"train": {"restart": True}},
        {"precision": "bfloat16"},
        {"eval": {"batch_size": 1, "overlays": 0, "limit": 1}},
        {"train": {"evaluate_every": 2}, "eval": {"weights": "best"}},
    ],
)
def test_what_decides_no_weight_is_not_in_the_name(change: dict, folders: PngFolders) -> None:
    """So that a model which four GPUs trained with accumulation 1 is found by a plain png_eval."""
    backbone = tiny_png.backbone()
    name = Variant.of(config(), folders, backbone).name
    assert Variant.of(config(**change), folders, backbone).name == name
    for other in ({"train": {"learning_rate": 0.2}}, {"train": {"seed": 1}}):
        assert Variant.of(config(**other), folders, backbone).name != name


def test_a_measure_depends_on_precision_and_weights(folders: PngFolders) -> None:
    variant = Variant.of(config(), folders, tiny_png.backbone())
    paths = {
        variant.evaluation_path(png, folders)
        for png in (
            config(),
            config(precision="bfloat16"),
            config(train={"evaluate_every": 2}, eval={"weights": "best"}),
        )
    }
    assert len(paths) == 3
    same_rule = config(eval={"batch_size": 1, "overlays": 0})
    assert variant.evaluation_path(same_rule, folders) in paths


def test_a_model_of_four_processes_is_found_by_one(folders: PngFolders) -> None:
    rounds = config(train={"accumulation": 2})
    folder = trained(rounds, folders)
    model, variant = load_variant(config(), folders, tiny_png.backbone())
    assert variant.name == folder.name
    assert evaluate_variant(config(), folders, model, variant)[1]["ar"]["overall"] is not None
    how = json.loads((folder / TRAINING).read_text())["how"]
    assert (how["accumulation"], how["processes"], how["precision"]) == (2, 1, "float32")


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TRAINING])
def test_a_damaged_model_is_named_and_written_again(
    name: str, damage: object, folders: PngFolders, caplog: pytest.LogCaptureFixture
) -> None:
    folder = trained(config(), folders)
    before, _ = load_variant(config(), folders, tiny_png.backbone())
    damage(folder / name)
    if name != TRAINING and not (name == CONFIG and damage is Path.unlink):
        with pytest.raises(InputError, match=rf"{name}: .*written again from last\.pt"):
            load_variant(config(), folders, tiny_png.backbone())
    with caplog.at_level(logging.WARNING):
        summary = train_variant(config(), folders, tiny_png.backbone())
    assert summary["resumed_at"] == 4  # nothing was trained anew
    if (name, damage) != (CONFIG, Path.unlink):
        assert f"{folder / name} is missing or was damaged" in caplog.text
    assert all(is_sound(folder / each) for each in (WEIGHTS, CONFIG, TRAINING, LAST))
    after, _ = load_variant(config(), folders, tiny_png.backbone())
    assert same(before, after)
    assert train_variant(config(), folders, tiny_png.backbone())["trained"] is False


def test_the_best_weights_are_an_option(folders: PngFolders) -> None:
    with pytest.raises(ValidationError, match=r"eval\.weights\n.*train\.evaluate_every"):
        config(eval={"weights": "best"})
    plain = trained(config(), folders)
    best = config(train={"evaluate_every": 1}, eval={"weights": "best"})
    for call in (load_variant, train_variant):
        with pytest.raises(InputError, match=r"png\.eval\.weights: .*png\.train\.restart=true"):
            call(best, folders, tiny_png.backbone())
    again = config(train={"evaluate_every": 1, "restart": True}, eval={"weights": "best"})
    folder = trained(again, folders)
    assert folder == plain
    chosen, _ = load_variant(best, folders, tiny_png.backbone())
    last, _ = load_variant(config(), folders, tiny_png.backbone())
    summary = json.loads((folder / TRAINING).read_text())
    assert same(chosen, last) == (summary["best"]["step"] == 4)
    flip(folder / BEST)
    with pytest.raises(InputError, match=r"best\.safetensors: sha256: .*train anew"):
        load_variant(best, folders, tiny_png.backbone())
    load_variant(config(), folders, tiny_png.backbone())


def test_a_model_is_taken_by_its_name_or_path(folders: PngFolders) -> None:
    folder = trained(config(train={"evaluate_every": 1}), folders)
    want, _ = load_variant(config(), folders, tiny_png.backbone())
    # Another experiment's settings: what is trained counts, how it is read off is the run's.
    other = config(model={**BASELINE, "insertion": "both", "threshold": 0.3})
    for name in (folder.name, str(folder), str(folder / WEIGHTS)):
        model, called = load_checkpoint(other, folders, tiny_png.backbone(), name)
        assert called == folder.name and same(model, want)
        assert model.config.insertion == "none" and model.config.threshold == 0.3
    load_checkpoint(other, folders, tiny_png.backbone(), str(folder / BEST))
    with pytest.raises(InputError, match=rf"no trained model lies there.*{folder.name}"):
        load_checkpoint(other, folders, tiny_png.backbone(), "both-0000")
    with pytest.raises(InputError, match="head decoder, but the model has only"):
        load_checkpoint(
            config(model={"decode": True, "head": "decoder"}),
            folders,
            tiny_png.backbone(),
            folder.name,
        )


def test_what_was_trained_is_enough_to_ground_with(folders: PngFolders) -> None:
    folder = trained(config(), folders)
    grounder = NarrativeGrounder.from_pretrained(tiny_png.backbone().folder, folder)
    want, _ = load_variant(config(), folders, tiny_png.backbone())
    assert same(grounder.model, want) and grounder.data == config().data


def test_a_validation_split_that_is_not_there_is_said_before_the_training(
    folders: PngFolders,
) -> None:
    png = recipe(
        PngConfig,
        **(config().model_dump() | {"splits": {"val": "nonexistent", "train": "train2017"}}),
    )
    with pytest.raises(InputError, match="nonexistent"):
        train_variant(png, folders, tiny_png.backbone())
    assert not list(folders.models.rglob(LAST))


def test_a_seal_is_no_condition(folders: PngFolders) -> None:
    folder = trained(config(), folders)
    for path in list(folder.glob("*.sha256")):
        path.unlink()
    load_variant(config(), folders, tiny_png.backbone())
    assert train_variant(config(), folders, tiny_png.backbone())["trained"] is False
    assert not seal_of(folder / WEIGHTS).exists()


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("eval", "overlays", -1), ("eval", "batch_size", 1_000_000), ("model", "time_step", True)],
)
def test_values_that_no_experiment_can_mean(section: str, field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        config(**{section: {field: value}})
