"""Nouns held out of the training: who is left out, what is measured, what is used again."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import png_world
import pytest
import tiny_png
import torch
from pydantic import ValidationError
from recipes import recipe

from diffground.data.config import PngSplits
from diffground.data.png_benchmark import PngSample
from diffground.data.png_reading import Narratives
from diffground.errors import InputError
from diffground.papers.png.config import FeatureExtractionConfig, PngConfig, PngEvalConfig
from diffground.papers.png.evaluate import evaluate
from diffground.papers.png.experiment import (
    evaluate_variant,
    read_training,
    read_validation,
    train_variant,
)
from diffground.papers.png.feature_extraction import extract_features
from diffground.papers.png.feature_store import FrozenInputs
from diffground.papers.png.features import feature_key
from diffground.papers.png.keys import PngFolders, Variant
from diffground.papers.png.model import OUTPUT, PngModel
from diffground.papers.png.narratives import collate
from diffground.papers.png.tables import PngAblations
from diffground.papers.png.tables_config import PngTablesConfig
from diffground.papers.png.trained import load_variant
from diffground.world.vocabulary import THINGS

BALL = 1  # the category's id in the tiny benchmark
#: Static prompting whose decoder reads the phrases.
DECODER = {"insertion": "none", "inner_product": "none", "decode": True}
ZERO_SHOT = {"insertion": "none", "decode": False}


def config(*held_out: str, **changes) -> PngConfig:
    """A tiny experiment of a few scalars without these nouns."""
    train = {"max_steps": 2, "batch_size": 1, "learning_rate": 0.1}
    model = {"insertion": "none", "inner_product": "frozen", "decode": False}
    changes["model"] = model | changes.get("model", {})
    splits = {"held_out": held_out}
    return tiny_png.config(splits=splits, train=train, eval={"overlays": 0}, **changes)


def folders(root: Path) -> PngFolders:
    return PngFolders(tiny_png.make_benchmark(root / "coco"), root / "png", root / "features")


def variant(png: PngConfig, where: PngFolders) -> Variant:
    return Variant.of(png, where, tiny_png.backbone())


# --- the split ----------------------------------------------------------------------------------


def test_narratives_that_ground_a_held_out_noun_are_not_trained_on():
    coco = tiny_png.benchmark().root
    whole = read_training(config(), coco)
    assert [s.id for s in whole.samples] == ["1_0", "2_1", "3_2", "4_3"]
    assert read_training(config("ball"), coco) == whole, "all are read, and have features"
    assert whole.without(()) == whole
    # The second's phrase is a plural; the fourth's has a ball and a sky.
    assert [s.id for s in whole.without(["ball"]).samples] == ["3_2"]
    assert [s.id for s in whole.without(["grass"]).samples] == ["2_1", "4_3"]
    validation = read_validation(config("ball"), coco)
    assert validation == read_validation(config(), coco) and len(validation.samples) == 4


def test_a_phrase_beyond_the_limit_is_in_the_caption_all_the_same(tmp_path):
    root = png_world.build(tmp_path, [png_world.narrative()], split="train2017")
    read = Narratives.read(root, "train2017", "auto", limit=None, max_phrases=1)
    (sample,) = read.samples
    assert [phrase.text for phrase in sample.phrases] == ["black bear"]
    assert read.without(["grass"]).samples == [sample]
    with pytest.raises(InputError, match="each narrative of train2017 grounds one of these"):
        read.without(["tree"])


def test_a_set_of_nouns_has_no_order():
    assert recipe(PngSplits, held_out=["sky", "ball", "sky"]).held_out == ("ball", "sky")
    with pytest.raises(ValidationError, match="held_out"):
        recipe(PngSplits, held_out="ball")


def test_a_noun_that_is_no_category_is_named_before_anything_is_done(tmp_path):
    where = folders(tmp_path)
    message = "coco: png.splits.held_out: there is no category 'bal'; near: ball"
    with pytest.raises(InputError, match=message):
        read_training(config("bal"), where.coco)
    with pytest.raises(InputError, match=message):
        train_variant(variant(config("bal"), where))
    asked = recipe(PngTablesConfig, held_out=[["grass"], ["grass", "skies"]])
    ablations = PngAblations(config(), asked, where, tiny_png.backbone())
    with pytest.raises(InputError, match="png_tables.held_out: there is no category 'skies'"):
        next(ablations.tables())


# --- keys ---------------------------------------------------------------------------------------


def test_weights_depend_on_what_was_held_out_and_a_zero_shot_model_does_not(tmp_path):
    where = folders(tmp_path)
    names = [variant(config(*nouns), where).name for nouns in ((), ("ball",), ("grass",))]
    assert len(set(names)) == 3
    assert variant(config("sky", "ball"), where).name == variant(config("ball", "sky"), where).name
    without, closed = (variant(config(*n, model=ZERO_SHOT | {"inner_product": "none"}), where)
                       for n in (("ball",), ()))  # fmt: skip
    assert without.name == closed.name
    assert without.measured("phrases") != closed.measured("phrases"), "the groups are others"


def test_a_model_that_was_trained_with_the_nouns_is_not_taken(tmp_path):
    where = folders(tmp_path)
    closed = variant(config(), where)
    closed.claim()
    with pytest.raises(InputError, match="the model has another splits"):
        Variant.found(closed.folder, config("ball"), where, tiny_png.backbone())


# --- what is measured ---------------------------------------------------------------------------


def test_a_phrase_is_held_out_if_any_of_its_segments_is():
    samples = tiny_png.samples()
    measure = recipe(PngEvalConfig, batch_size=2, overlays=0)
    png = tiny_png.model(**ZERO_SHOT)
    result = evaluate(png, tiny_png.dataset(samples), measure, frozenset({BALL}))
    assert [(row["text"], row["held_out"]) for row in result.rows] == [
        ("ball", True),
        ("grass", False),
        ("two balls", True),
        ("sky", False),
        ("grass", False),
        ("sky", False),
        ("ball and sky", True),
    ]
    counts = result.recall.counts()
    assert (counts["seen nouns"], counts["held-out nouns"]) == (4, 3)
    held = [row["iou"] for row in result.rows if row["held_out"]]
    average = result.recall.result()
    assert average["held-out nouns"] == pytest.approx(100 * sum(held) / 3, abs=1e-3)
    closed = evaluate(png, tiny_png.dataset(samples), measure)
    assert "held_out" not in closed.rows[0]
    assert closed.recall.result() == {name: average[name] for name in closed.recall.result()}
    assert average.keys() - closed.recall.result() == {"seen nouns", "held-out nouns"}


def test_cached_features_of_the_whole_split_serve_a_training_without_some_nouns(tmp_path):
    where, backbone = folders(tmp_path), tiny_png.backbone()
    extraction = recipe(FeatureExtractionConfig, num_workers=0, block_size=2)

    def extract(png: PngConfig) -> list[int]:
        """How many files were made, of training and validation."""
        made = []
        for read in (read_training(png, where.coco), read_validation(png, where.coco)):
            key = feature_key(png, read, backbone)
            done = extract_features(backbone, read.samples, key, where.features, extraction)
            made.append(done["made"])
        return made

    held = config("ball", features="cached")
    assert extract(held) == [4, 4]
    assert extract(config()) == [0, 0], "the nouns change no feature"
    asked = variant(held, where)
    summary = train_variant(asked)  # it would refuse features that do not cover its narratives
    assert (summary["narratives"], summary["skipped"]) == (1, 0)
    _, metrics = evaluate_variant(asked, load_variant(asked))
    assert metrics["groups"]["held-out nouns"] == 3 and metrics["phrases"] == 7
    assert train_variant(variant(config(features="cached"), where))["narratives"] == 4


# --- the blind row ------------------------------------------------------------------------------


def unet_features(png: PngModel, sample: PngSample) -> list[torch.Tensor]:
    """What the decoder gets of the UNet: three levels and the latent behind it."""
    taken: list[torch.Tensor] = []
    modules = [png.backbone.unet.get_submodule(name) for name in (*png.levels.modules, OUTPUT)]
    hooks = [
        module.register_forward_hook(
            lambda _, __, out: taken.append(out[0] if isinstance(out, tuple) else out)
        )
        for module in modules
    ]
    png.predict(collate([tiny_png.dataset([sample])[0]]))
    for hook in hooks:
        hook.remove()
    return taken


def test_the_blind_unet_sees_nothing_of_the_words_and_the_decoder_does():
    first = tiny_png.samples()[0]
    ball, grass = first.phrases
    second = replace(first, caption="we see the ball", phrases=(replace(ball, start=11, end=15),))
    assert second.spans == ((11, 15),) and first.caption[ball.start : ball.end] == "ball"
    blind = tiny_png.model(**DECODER, unet_context="zeros").eval()
    prompted = tiny_png.model(**DECODER).eval()
    for png, same in ((blind, True), (prompted, False)):
        one, other = unet_features(png, first), unet_features(png, second)
        assert len(one) == len(other) == 4
        for a, b in zip(one, other, strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6) == same
    swapped = replace(first, phrases=(grass, ball))
    masks = [blind.predict(collate([tiny_png.dataset([s])[0]]))[0] for s in (first, swapped)]
    torch.testing.assert_close(masks[0], masks[1].flip(0), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(masks[0][0], masks[0][1], atol=1e-3), "each phrase has its own mask"


def test_all_text_is_zeroed():
    ones = torch.ones(1, 2, 3)
    given = FrozenInputs(ones, ones, torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 4))
    blind = given.unprompted()
    assert not blind.context.any() and blind.pooled is not None and not blind.pooled.any()
    assert torch.equal(blind.latents, given.latents) and torch.equal(blind.valid, given.valid)
    assert given.context.all(), "the decoder still reads them"


def test_an_adapter_cannot_be_blind():
    with pytest.raises(ValidationError, match="zeros leaves no prompt"):
        tiny_png.config(model={"unet_context": "zeros"})


# --- the tables ---------------------------------------------------------------------------------


def test_tables_are_measured_once_more_with_every_set_of_nouns(tmp_path):
    where = folders(tmp_path)
    asked = recipe(PngTablesConfig, seeds=(0,), held_out=[["sky", "ball"], ["grass"]])
    found = dict(PngAblations(config(), asked, where, tiny_png.backbone()).tables())
    assert list(found) == [
        "components",
        "insertion",
        "insertion without ball, sky",
        "insertion without grass",
        "mlma",
    ]
    closed, held = found["insertion"], found["insertion without ball, sky"]
    assert held.table == "Table 3: insertion of EIPA, held-out nouns: ball, sky"
    assert held.columns == ("overall", "seen nouns", "held-out nouns")
    assert len(held.claims) == 2 * len(closed.claims)
    assert ("Encoder", "No-Adapter", "held-out nouns") in held.claims
    for asked_for, nouns in ((closed, ()), (held, ("ball", "sky"))):
        ablations = PngAblations(config(), asked, where, tiny_png.backbone())
        for row in asked_for.rows:
            made = ablations.config(row, 0)
            assert made.splits.held_out == nouns
            assert (made.model.unet_context == "zeros") == (row.name == "UNet blind")
            assert bool(row.beside(made)) == (row.name != "UNet blind")
            assert not nouns or not row.beside(made.model_copy(update={"scale": "paper"}))


def test_table_2_can_be_asked_for_in_the_same_way(tmp_path):
    where = folders(tmp_path)
    asked = recipe(PngTablesConfig, held_out=[["ball"]], held_out_tables=["components"])
    names = [name for name, _ in PngAblations(config(), asked, where, tiny_png.backbone()).tables()]
    assert names == ["components", "components without ball", "insertion", "mlma"]
    own = PngAblations(config("ball"), recipe(PngTablesConfig), where, tiny_png.backbone())
    assert all("held-out nouns" in table.columns for _, table in own.tables())


def test_the_second_set_of_the_mini_world_is_drawn_by_its_rule(conf):
    parameters = conf("mini")["parameters"]
    first, second = parameters["png_tables"]["held_out"]
    rest = sorted({thing.name for thing in THINGS} - set(first))
    assert second == random.Random(parameters["world"]["seed"]).sample(rest, 5)
