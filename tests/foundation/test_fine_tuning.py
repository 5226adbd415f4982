"""The mini Stable Diffusion trained on."""

from __future__ import annotations

from pathlib import Path

import tiny_png
import torch
from recipes import recipe
from tiny_foundation import CANVAS, PHASES, RECIPE

from diffground.backbone.frozen import FrozenDiffusion
from diffground.foundation.config import FineTuning
from diffground.foundation.fine_tuning import fine_tune


def test_the_model_is_trained_on(tmp_path: Path) -> None:
    source = tiny_png.backbone()
    settings = recipe(FineTuning, count=4, phase=PHASES[1])
    told = []
    found = fine_tune(
        source.folder, tmp_path / "tuned", tmp_path / "work", RECIPE.diffusion, settings, CANVAS,
        lambda values, step: told.append(step),
    )  # fmt: skip
    tuned = FrozenDiffusion.from_pretrained(found)
    assert tuned.fingerprint() != source.fingerprint() and told
    for part, changed in (("unet", True), ("vae", False)):
        before, after = getattr(source, part).state_dict(), getattr(tuned, part).state_dict()
        assert before.keys() == after.keys()
        # What is written has half precision.
        same = all(torch.equal(before[n].half(), after[n].half()) for n in before)
        assert same is not changed, part
    again = fine_tune(
        source.folder, tmp_path / "again", tmp_path / "work", RECIPE.diffusion, settings, CANVAS
    )
    assert FrozenDiffusion.from_pretrained(again).fingerprint() == tuned.fingerprint()
