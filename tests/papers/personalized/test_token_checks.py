"""Pictures of a token, its loss, and what learning it does to other classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffground.attention.config import AggregationConfig
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.personal import PersonalToken, worn
from diffground.data.labelled_images import LabelledImage
from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError
from diffground.io.images import read_image
from diffground.papers.personalized.token_checks import (
    Learned,
    check_tokens,
    denoising_loss,
    disturbances,
    token_sheet,
)

CONFIG = AggregationConfig(compat="paper", long_side=64, timestep=100, background_threshold=0.5)
WORDS = Vocabulary.from_names(["cup", "ball", "hat"])


@pytest.fixture(scope="module")
def token(tiny: FrozenDiffusion) -> PersonalToken:
    """Changes much, as if learned badly."""
    generator = torch.Generator().manual_seed(0)
    deltas = {
        name: torch.randn(weight.shape, generator=generator)
        for name, weight in tiny.unet.named_parameters()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
    row = torch.randn(16, generator=generator)
    return PersonalToken("<new1>", "cup", (row,), deltas, tiny.fingerprint())


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> list[LabelledImage]:
    """A cup beside a ball, a cup alone, and a ball with a hat."""
    folder, found = tmp_path_factory.mktemp("labelled"), []
    for number, classes in enumerate([("cup", "ball"), ("cup",), ("ball", "hat")]):
        image = read_image(photos[0])
        labels = np.zeros(image.shape[:2], np.uint8)
        for place, name in enumerate(classes):
            labels[10 + 25 * place : 30 + 25 * place, 10:50] = WORDS.index(name)
        Image.fromarray(image).save(folder / f"{number}.png")
        Image.fromarray(labels).save(folder / f"{number}_labels.png")
        paths = (folder / f"{number}.png", folder / f"{number}_labels.png")
        found.append(LabelledImage(str(number), *paths, classes))
    return found


def test_other_classes_before_and_after(
    tiny: FrozenDiffusion, token: PersonalToken, samples: list[LabelledImage]
) -> None:
    (found,) = disturbances(tiny, [[token]], samples, WORDS, CONFIG)
    assert found.images == 2 and found.iou.keys() == {"ball", "hat"}
    before, after = (np.mean([pair[i] for pair in found.iou.values()]) for i in (0, 1))
    assert (found.before, found.after) == (pytest.approx(before), pytest.approx(after))
    assert found.before != found.after
    gentle = replace(token, deltas={})
    (same,) = disturbances(tiny, [[gentle]], samples, WORDS, CONFIG)
    assert same.after == same.before == found.before


def test_the_tokens_own_class_does_not_count(
    tiny: FrozenDiffusion, token: PersonalToken, samples: list[LabelledImage], tmp_path: Path
) -> None:
    """What is said to be a cup makes no difference, unlike what is said to be background."""
    gentle = replace(token, deltas={})
    (first,) = disturbances(tiny, [[gentle]], samples[:1], WORDS, CONFIG)
    labels = np.asarray(Image.open(samples[0].mask_path)).copy()
    rest = labels == 0
    labels[rest] = WORDS.index("cup")
    Image.fromarray(labels).save(tmp_path / "labels.png")
    covered = replace(samples[0], mask_path=tmp_path / "labels.png")
    (second,) = disturbances(tiny, [[gentle]], [covered], WORDS, CONFIG)
    assert first.before is not None and second.before is not None
    assert second.before > first.before  # a ball that is found on a cup is no mistake
    with pytest.raises(InputError, match="no image has a class beside cup"):
        disturbances(tiny, [[token]], samples[1:2], WORDS, CONFIG)


def test_the_loss_of_photos_is_the_same_every_time(
    tiny: FrozenDiffusion, token: PersonalToken, photos: list[Path]
) -> None:
    pictures = [read_image(photo) for photo in photos]
    plain = denoising_loss(tiny, pictures, "a photo of a cup", draws=2)
    assert denoising_loss(tiny, pictures, "a photo of a cup", draws=2) == plain > 0
    with worn(tiny, [token]):
        assert denoising_loss(tiny, pictures, "a photo of a <new1> cup", draws=2) != plain
    # A mean over photos: each has its own noise, whoever is beside it.
    alone = [denoising_loss(tiny, pictures[:n], "a cup", draws=2) for n in (1, 2)]
    both = denoising_loss(tiny, pictures[:2], "a cup", draws=2)
    assert both == pytest.approx(alone[1]) and both != pytest.approx(alone[0])


def test_what_learning_did_is_said_of_each_item_and_of_all(
    tiny: FrozenDiffusion, token: PersonalToken, samples: list[LabelledImage], photos: list[Path]
) -> None:
    pictures = [read_image(photo) for photo in photos]
    gentle = replace(token, deltas={})
    items = [Learned("wild", token, pictures[:1]), Learned("gentle", gentle, pictures[1:2])]
    found = check_tokens(tiny, items, samples, WORDS, CONFIG)
    wild, tame = (found["items"][name] for name in ("wild", "gentle"))
    (before,) = disturbances(tiny, [[token]], samples, WORDS, CONFIG)
    assert wild["classes"] == {"before": before.before, "after": before.after, "drop": before.drop}
    assert wild["classes"]["drop"] != 0 == tame["classes"]["drop"]
    with worn(tiny, [gentle]):
        other = denoising_loss(tiny, pictures[:1], "a photo of a <new1> cup", seed=42)
    assert wild["photos"]["another token"] == other != wild["photos"]["own token"]
    for part in ("classes", "photos"):
        for name, mean in found[part].items():
            if name != "deviation":
                each = [one[part][name] for one in (wild, tame)]
                assert mean == pytest.approx(np.mean(each))
                assert found[part]["deviation"][name] == pytest.approx(np.std(each, ddof=1))
    alone = check_tokens(tiny, items[:1], samples, WORDS, CONFIG)
    assert alone["photos"].keys() == {"class", "own token", "deviation"}


def test_photos_beside_pictures_of_the_token(
    tiny: FrozenDiffusion, token: PersonalToken, photos: list[Path]
) -> None:
    pictures = [read_image(photo) for photo in photos]
    things = [(token, pictures), (replace(token, deltas={}), pictures[:1])]
    page = token_sheet(tiny, things, count=2, steps=2, guidance=2.0)
    assert page.dtype == np.uint8 and page.ndim == 3
    panels = 4 * 128 + 5 * 12
    assert page.shape[1] == panels and page.shape[0] > 2 * 128
    wide = token_sheet(
        tiny, things, prompts=("a photo of a {}", "a {}"), count=2, steps=2, guidance=2.0
    )
    assert wide.shape[1] == 6 * 128 + 7 * 12
