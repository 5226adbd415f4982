"""Adapts :mod:`diffground.foundation.quality` to the catalog."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.foundation.config import QualityConfig
from diffground.world.config import WorldConfig

log = logging.getLogger(__name__)
SHOWN = 6  # scenes in the grid of attention maps


def assess(
    diffusion: Path, clip: Path, segmenter: Path, world: WorldConfig, config: QualityConfig
) -> tuple[dict[str, Any], Any, Any]:
    """Numbers, and two figures of matplotlib: generated images, and attention maps of the first
    held-out scenes.
    """
    from diffground.backbone.frozen import FrozenDiffusion
    from diffground.foundation import quality
    from diffground.foundation.pictures import attention_grid, generation_grid
    from diffground.foundation.scenes import captioned_scenes

    scenes = captioned_scenes(world.eval_seed, config.scenes, world.size)
    figures, prompts, images = quality.assess(diffusion, clip, segmenter, scenes, config)
    for name, value in figures.items():
        if isinstance(value, float):
            log.info("mini world · %s = %.3f", name, value)
    maps = attention_grid(FrozenDiffusion.from_pretrained(diffusion), scenes[:SHOWN], config)
    return figures, generation_grid([p.text for p in prompts], images), maps
