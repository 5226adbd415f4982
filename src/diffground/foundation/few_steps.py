"""How well the mini SDXL-Turbo paints in few steps, beside the teacher that takes many."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diffground.backbone.frozen import FrozenDiffusion
from diffground.foundation.config import QualityConfig
from diffground.foundation.painting import judge_painting
from diffground.foundation.quality import deviations, means
from diffground.segmenters.instance import InstanceSegmenter

UNGUIDED: Final = 1.0  # the guidance at which the unconditional half is not run


def in_few_steps(config: QualityConfig, steps: int) -> QualityConfig:
    """How the turbo model generates: ``steps`` passes of the UNet, without guidance."""
    return config.model_copy(update={"inference_steps": steps, "guidance": UNGUIDED})


def assess_turbo(
    turbo: Path, segmenter: Path, teacher: Mapping[str, Any], config: QualityConfig
) -> dict[str, Any]:
    """What is found in the images of each of ``config.turbo_steps``, and in the teacher's.

    ``steps`` has for every number of steps the figures of :func:`judge_painting`, means over the
    worlds ``config.eval_seeds``, and their ``deviation``. ``teacher``, whose figures are given, is
    asked for the same prompts.
    """
    model = FrozenDiffusion.from_pretrained(turbo)
    detector = InstanceSegmenter.from_pretrained(segmenter)
    found = {}
    for steps in config.turbo_steps:
        way = in_few_steps(config, steps)
        worlds = [judge_painting(model, detector, way, seed)[0] for seed in config.eval_seeds]
        found[str(steps)] = {**means(worlds), "deviation": deviations(worlds)}
    names = [name for name in next(iter(found.values())) if name != "deviation"]
    return {
        "scale": "mini",
        "steps": found,
        "teacher": {
            **{name: teacher[name] for name in names},
            "deviation": {n: teacher["deviation"][n] for n in names if n in teacher["deviation"]},
        },
        "config": config.model_dump(mode="json"),
    }
