"""The mini ViT: its crops, its teacher, its training and what it learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import recipe
from tiny_foundation import CANVAS, RECIPE

from diffground.foundation import build, vit
from diffground.foundation.config import QualityConfig
from diffground.foundation.fitting import Workshop
from diffground.foundation.neighbours import assess_vit, neighbour_accuracy
from diffground.foundation.scenes import captioned_scenes
from diffground.foundation.vit import Distillation, _same_place, build_vit, draw_crops
from diffground.segmenters.vit import VitDescriptors
from diffground.shipped import shipped

SHORT = RECIPE.vit.model_copy(
    update={
        "train": RECIPE.vit.train.model_copy(
            update={"max_steps": 4, "log_every": 1, "checkpoint_every": 1}
        )
    }
)


def test_patches_of_two_crops_are_compared_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """On pictures whose pixels say where they are, patches on one place say the same."""
    monkeypatch.setattr(vit, "JITTER", 0.0)
    torch.manual_seed(0)
    line = (torch.arange(64) + 0.5) / 32 - 1
    place = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64), torch.zeros(64, 64)])
    images = place.expand(8, 3, 64, 64)
    told, asked = draw_crops(images, 1, (0.4, 1), 64), draw_crops(images, 1, (0.1, 0.4), 32)

    def patches(crops: vit.Crops) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(crops.images, 8)

    found, seen = _same_place(patches(told), told.places, asked.places, asked.images, 8)
    wanted = patches(asked).flatten(2).transpose(1, 2)
    assert 0 < seen.mean() < 1
    # At the edge of the teacher's crop its outermost patches are taken, half a patch away.
    off = (found - wanted).abs().amax(-1)[seen > 0]
    assert off.max() < 0.13 and off.median() < 0.02
    outside = (wanted[..., 0] < told.places[:, :1, 2] - told.places[:, :1, 0].abs()) & (seen > 0)
    assert not outside.any()


def test_prototypes_share_what_the_teacher_says() -> None:
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 4  # as it is, nearly everything is the first one's
    logits *= 0.05
    assert (logits / vit.TEACHER_TEMPERATURE).softmax(1).sum(0)[0] > 50
    shares = vit._shared_out(logits)
    assert torch.allclose(shares.sum(1), torch.ones(64))
    assert torch.allclose(shares.sum(0), torch.full((8,), 8.0), rtol=0.1)


def test_the_teacher_follows_and_is_not_trained() -> None:
    torch.manual_seed(0)
    model = Distillation(SHORT, 64)
    before = {name: weights.clone() for name, weights in model.teacher().items()}
    for name, weights in model.student.state_dict().items():
        assert torch.equal(weights, before[name]), "it begins as the student"
    losses = model(torch.rand(2, 3, 64, 64) * 2 - 1)
    losses["loss"].backward()
    assert not any(buffer.requires_grad for buffer in model.buffers())
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1)
    model.follow()
    for name, weights in model.teacher().items():
        torch.testing.assert_close(weights, before[name] + (1 - SHORT.momentum))


def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The teacher and what it expects are in the checkpoint, not only what is trained."""

    class Killed(Exception):
        pass

    def kill(values: dict[str, Any], step: int) -> None:
        if step == 3:
            raise Killed

    recipe = RECIPE.model_copy(update={"vit": SHORT})
    whole = vit.train_vit(Workshop(recipe, CANVAS, tmp_path / "whole"))
    with pytest.raises(Killed):
        vit.train_vit(Workshop(recipe, CANVAS, tmp_path / "killed", kill))
    again = vit.train_vit(Workshop(recipe, CANVAS, tmp_path / "killed"))
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name]), name


def test_the_folder_is_read_as_any_other(tmp_path: Path) -> None:
    shop = Workshop(RECIPE, CANVAS, tmp_path / "work")
    folder = build.make_vit(shop, tmp_path / "mini-vit")
    assert (folder / "SHA256SUMS").is_file() and (tmp_path / "work/vit/losses.json").is_file()
    (scene,) = captioned_scenes(7, 1, CANVAS)
    keys = VitDescriptors.from_pretrained(folder)(scene.rendering.image, short_side=64).keys
    assert keys.shape == (RECIPE.vit.width, 8, 8)


def test_neighbours_vote_for_categories() -> None:
    """Of things that were seen, each is its own nearest, so most votes of one are right."""
    vit_ = VitDescriptors(build_vit(RECIPE.vit, 64), [0.5] * 3, [0.5] * 3)
    scenes = captioned_scenes(7, 6, CANVAS)
    alone = neighbour_accuracy(vit_, scenes[:1], scenes[:1])
    assert alone[0] <= 1 and alone[1] <= 1
    known = {s.category.name for s in scenes[0].rendering.segments if s.category.is_thing}
    others = [
        s
        for s in scenes[1:]
        if not known & {c.category.name for c in s.rendering.segments if c.category.is_thing}
    ]
    assert others, "the seed has scenes of other things"
    assert neighbour_accuracy(vit_, scenes[:1], others)[0] == 0.0


def test_the_shipped_vit_knows_more_than_one_that_learned_nothing() -> None:
    config = recipe(QualityConfig, eval_seeds=[31], scenes=240)
    found = assess_vit(shipped("data/06_models/mini-vit"), CANVAS._replace(size=128), config)
    assert found["neighbours_vit"] > found["neighbours_untrained"]
    assert found["neighbours_vit"] > found["commonest"]
    assert found["per_eval_seed"]["31"]["neighbours_vit"] == found["neighbours_vit"]
