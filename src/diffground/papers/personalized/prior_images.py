"""Pictures of a class, as the frozen model draws it: what it is not to forget (CD, section 3.2).

They are made once per model, class and settings, and serve every thing of that class::

    <root>/<word>-<key>/0000.png ...    a store of items, see diffground.store.items
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from diffground.backbone import frozen
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.sampler import sample
from diffground.errors import InputError
from diffground.foundation.scenes import to_image
from diffground.io.images import write_png
from diffground.papers.personalized.learning_config import PriorConfig
from diffground.provenance import Recipe
from diffground.seeds import derive_seed
from diffground.store.items import Item, fill
from diffground.store.manifest import config_hash

# Raised when the same model and settings give other pictures.
CODE_VERSION: Final = 1


def prior_images(
    model: FrozenDiffusion, word: str, config: PriorConfig, root: Path
) -> tuple[Path, ...]:
    """The class pictures' files, in order; those that are missing below ``root`` are made.

    Each is drawn from ``(config.seed, its number)``, at the size that the model was trained on.

    Raises:
        InputError: pictures could not be made; or the word has no letter to name a folder by.
    """
    recipe = prior_recipe(model, word, config)
    label = re.sub(r"\W+", "_", word).strip("_")
    if not label:
        raise InputError("prior", "word", f"{word!r} is no word of a class, such as mug")
    folder = root / f"{label}-{config_hash(recipe)[:12]}"
    ids = [f"{number:04d}" for number in range(config.count)]
    drawn: dict[str, NDArray[np.uint8]] = {}

    def make(item: str) -> NDArray[np.uint8]:
        if item not in drawn:
            drawn.clear()
            # Always the same batches, so that a run that goes on makes the same bytes.
            first = int(item) // config.batch * config.batch
            part = ids[first : first + config.batch]
            seeds = [derive_seed(config.seed, name, "class picture") for name in part]
            prompts = [config.prompt.format(word=word)]
            images = draw_images(
                model, prompts, seeds, steps=config.steps, guidance=config.guidance
            )
            drawn.update(zip(part, images, strict=True))
        return drawn[item]

    def write(item: str, image: NDArray[np.uint8]) -> None:
        write_png(folder / f"{item}.png", image)

    items = [Item(item, (f"{item}.png",)) for item in ids]
    summary = fill(
        folder,
        recipe,
        items,
        make,
        write,
        what="class pictures",
    )
    if not summary["complete"] or summary["skipped"]["skipped"]:
        raise InputError(folder, "class pictures", f"some could not be made: {summary['skipped']}")
    return tuple(folder / item.files[0] for item in items)


def prior_recipe(model: FrozenDiffusion, word: str, config: PriorConfig) -> Recipe:
    """All that the class pictures depend on."""
    aside = {"weight"}  # of the loss
    return {
        "code": {"prior_images": CODE_VERSION, "frozen": frozen.CODE_VERSION},
        "model": model.fingerprint(),
        "word": word,
        "prior": {k: v for k, v in config.key_content().items() if k not in aside},
    }


@torch.no_grad()
def draw_images(
    model: FrozenDiffusion, prompts: Sequence[str], seeds: Sequence[int], *, steps: int,
    guidance: float,
) -> list[NDArray[np.uint8]]:  # fmt: skip
    """Generated pictures, uint8 RGB ``(H, W, 3)``, one per seed; see :func:`sample`.

    ``prompts`` are as many, or one for all.
    """
    encoding = model.encode_prompts(prompts)
    for step in sample(model, encoding, seeds, steps=steps, guidance=guidance):
        latents = step.latents
    return [to_image(image) for image in model.decode_latents(latents)]
