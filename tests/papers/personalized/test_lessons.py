"""What a token is learned from: photos brought to size, augmented, and said so in the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from diffground.papers.personalized.learning_config import TokenLearningConfig
from diffground.papers.personalized.lessons import LARGE, SMALL, Lessons, Thing, collate, squared

SIDE, STRIDE = 64, 8


def config(**changes: Any) -> TokenLearningConfig:
    train = {"max_steps": 100, "batch_size": 4}
    return TokenLearningConfig.model_validate({"prior": None, "train": train, **changes})


def lessons(photo: np.ndarray, **changes: Any) -> Lessons:
    thing = Thing("<new1>", "mug", (photo,))
    return Lessons([thing], {}, config(**changes), side=SIDE, stride=STRIDE)


@pytest.fixture(scope="module")
def white() -> np.ndarray:
    """No pixel of it is grey, as what lies around a smaller photo is."""
    return np.full((SIDE, SIDE, 3), 255, np.uint8)


def test_photos_of_any_sides_lose_what_is_beside_their_middle() -> None:
    wide = np.zeros((50, 150, 3), np.uint8)
    wide[:, 50:100] = 200  # the square in the middle
    for photo in (wide, wide.transpose(1, 0, 2)):
        assert (squared(photo, SIDE) == 200).all() and squared(photo, SIDE).shape == (64, 64, 3)
    small = np.full((9, 7, 3), 30, np.uint8)
    assert (squared(small, SIDE) == 30).all()


def test_the_loss_counts_only_where_the_photo_is(white: np.ndarray) -> None:
    found = lessons(white)
    sizes, prompts = [], []
    for index in range(300):
        lesson = found[index]
        there = (lesson["image"] == 1).all(0).reshape(8, 8, 8, 8).all(3).all(1)  # whole latents
        assert (there | (lesson["mask"][0] == 0)).all()
        assert lesson["mask"].sum() >= 1
        sizes.append(int((lesson["image"][0] == 1).sum() ** 0.5 + 0.5))
        prompts.append(lesson["prompt"])
    smaller = [size for size in sizes if size < SIDE]
    assert min(smaller) >= SIDE // 3 and 0.55 < len(smaller) / 300 < 0.75
    for size, prompt in zip(sizes, prompts, strict=True):
        start, _, rest = prompt.partition("photo of a ")
        assert rest == "<new1> mug"
        if size < SIDE:
            assert (start in SMALL) == (size < 0.6 * SIDE) and start not in LARGE
        else:
            assert start in ("", *LARGE)
    assert {p.partition("photo")[0] for p in prompts} == {"", *SMALL, *LARGE}


def test_a_closer_look_is_a_part_of_the_photo() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    found = lessons(photo, flip=0.0)
    close = [
        lesson for lesson in map(found.__getitem__, range(60)) if lesson["prompt"].startswith(LARGE)
    ]
    assert close and all((lesson["mask"] == 1).all() for lesson in close)
    assert all(lesson["image"].shape == (3, SIDE, SIDE) for lesson in close)


def test_photos_as_they_are() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    plain = lessons(photo, resize=False, flip=0.0)[7]
    expected = torch.from_numpy(photo).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(plain["image"], expected)
    assert plain["prompt"] == "photo of a <new1> mug" and bool(plain["mask"].all())
    mirrored = lessons(photo, resize=False, flip=1.0)[7]
    torch.testing.assert_close(mirrored["image"], expected.flip(-1))


def test_a_draw_depends_on_its_number_alone(white: np.ndarray) -> None:
    first, second = lessons(white), lessons(white)
    batch = collate([first[5], first[9]])
    assert torch.equal(batch["image"][1], second[9]["image"])
    assert batch["prompt"] == [second[5]["prompt"], second[9]["prompt"]]
    assert not all(torch.equal(first[0]["image"], first[i]["image"]) for i in range(1, 9))


@pytest.mark.parametrize(
    "changes",
    [
        {"templates": ["a photo"]},
        {"templates": ["a {} of a {}"]},
        {"templates": []},
        {"prior": {"prompt": "a photo"}},
        {"prior": {"prompt": "a {word} and {more}"}},
        {"trained": "all"},
        {"train": {"max_steps": 0}},
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changes)


def test_what_is_not_said_of_the_training_is_custom_diffusions() -> None:
    """Batch of 8 with the class pictures, 8e-5, constant (CD, section 4)."""
    train = TokenLearningConfig.model_validate({"train": {"max_steps": 500}}).train
    assert (train.max_steps, train.batch_size, train.learning_rate) == (500, 4, 8e-5)
    assert {train.lr_factor(step) for step in (0, 250, 499)} == {1.0}


def test_reading_keeps_the_given_pictures(photos: list[Path]) -> None:
    pictures = [np.zeros((5, 9, 3), np.uint8), photos[1]]
    assert [p.shape[:2] for p in Thing.read("<new1>", "mug", pictures).photos] == [(5, 9), (90, 40)]
