"""A trained PNG model as a segmenter: an image and a narrative to a mask for every phrase.

model = NarrativeGrounder.from_pretrained("data/06_models/mini-sd", "data/06_models/png/both-1")
result = model("image.jpg", "a [puppy] stands on the [bench]")
result.overlay().save("overlay.png")

``K`` phrases · ``H, W`` the image's size · ``h, w`` the size of the model's masks, pixels
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from diffground.backbone.captions import Span, check_caption, lost_phrases
from diffground.backbone.frozen import FrozenDiffusion
from diffground.config import refused
from diffground.errors import InputError
from diffground.io.files import read_json
from diffground.io.images import ImageSource, read_image
from diffground.masks.phrase_masks import PhraseMasks
from diffground.papers.png.config import PngDataConfig
from diffground.papers.png.map_operations import resize_maps
from diffground.papers.png.model import WRITE_AGAIN, PngModel
from diffground.papers.png.narratives import UNKNOWN, PngBatch, to_input
from diffground.papers.png.trained import TRAINING
from diffground.phrases.noun_phrases import read_narrative

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class NarrativeMasks(PhraseMasks):
    """Where the phrases of a narrative are."""

    probabilities: NDArray[np.float32]  # (K, h, w), the model's, on its square grid

    @property
    def maps(self) -> NDArray[np.float32]:
        """:attr:`probabilities`."""
        return self.probabilities


class NarrativeGrounder:
    """A frozen diffusion model with what was trained in it (Dynamic Prompting, 000)."""

    def __init__(self, model: PngModel, data: PngDataConfig) -> None:
        """``data`` has the sizes that the model was trained at."""
        self.model, self.data = model, data

    def __repr__(self) -> str:
        side, head = self.data.image_size, self.model.config.final_head
        made = f"insertion {self.model.config.insertion}, head {head}, {side} pixels"
        return f"<NarrativeGrounder in {self.model.backbone.folder.name}: {made}>"

    @classmethod
    def from_pretrained(
        cls,
        diffusion: str | Path,
        checkpoint: str | Path,
        *,
        data: PngDataConfig | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """From the folder of a frozen model, and that of what ``png_train`` trained in it.

        Args:
            diffusion: a local folder in diffusers layout, the one that was trained in.
            checkpoint: a folder with ``png.json``, or a file of weights in one.
            data: None takes the sizes that the checkpoint's ``training.json`` says.

        Raises:
            InputError: a folder is missing or damaged, they do not belong together, or the sizes
                are not known.
        """
        path = Path(checkpoint)
        backbone = FrozenDiffusion.from_pretrained(diffusion, device=device, dtype=dtype)
        model = PngModel.load(path, backbone)
        return cls(model, data or _trained_at(path.parent if path.is_file() else path))

    def __call__(
        self,
        image: ImageSource,
        narrative: str | Sequence[str],
        *,
        spans: Sequence[Span] | None = None,
        item: str = "image",
    ) -> NarrativeMasks:
        """Where each phrase is in an image: a file, a Pillow picture, or an array.

        The model sees the image squeezed to its square; its probabilities are resized back
        (bilinear) and cut at the model's threshold. A phrase's score is its mean probability inside
        its mask, to four digits, None where that is empty.

        Args:
            narrative: with [brackets] around its phrases, or without any, so that its noun phrases
                are found; or a list of phrases.
            spans: the phrases by character span ``(start, end)``; brackets then are no marks.
            item: seeds the noise, if the model adds any.

        Raises:
            InputError: the image cannot be read, or the narrative has no phrases that can be.
        """
        if not isinstance(narrative, str):
            narrative, spans = _sentence(narrative)
        elif spans is None:
            narrative, spans = read_narrative(narrative)
        pixels = read_image(image)
        backbone, option = self.model.backbone, self.model.config.long_captions
        check_caption(backbone, narrative, spans, option)
        lost = lost_phrases(backbone, narrative, spans, option)
        phrases = tuple(narrative[slice(*span)] for span in spans)
        if lost:
            names = ", ".join(phrases[place] for place in lost)
            log.warning("%s: beyond the text encoder's window: no mask for %s", item, names)
        batch = PngBatch(
            ids=(item,),
            captions=(narrative,),
            spans=(tuple(spans),),
            images=to_input(pixels, self.data.image_size)[None],
            targets=torch.zeros(1, len(spans), *self.data.mask_size),  # only their size is read
            categories=torch.full((1, len(spans)), UNKNOWN),
        )
        small = self.model.predict(batch.to(backbone.device))[0].float().cpu()  # (K, h, w)
        masks = np.zeros((len(spans), *pixels.shape[:2]), dtype=bool)
        scores: list[float | None] = []
        for index in range(len(spans)):  # one at a time: at 12 megapixels each takes 48 MB
            prob = resize_maps(small[None, index : index + 1], pixels.shape[:2])[0, 0].numpy()
            masks[index] = prob > self.model.config.threshold
            inside = prob[masks[index]]
            scores.append(round(float(inside.mean()), 4) if inside.size else None)
        return NarrativeMasks(
            probabilities=small.numpy(),
            image=pixels,
            phrases=phrases,
            masks=masks,
            scores=tuple(scores),
            score="mean probability inside the mask",
            narrative=narrative,
            spans=tuple(spans),
            lost=tuple(lost),
        )


def _sentence(phrases: Sequence[str]) -> tuple[str, list[Span]]:
    """ "p1, p2, p3." and where the phrases stand in it."""
    text, spans = "", []
    for phrase in (given.strip() for given in phrases):
        text += ", " if text else ""
        spans.append((len(text), len(text) + len(phrase)))
        text += phrase
    return f"{text}.", spans


def _trained_at(folder: Path) -> PngDataConfig:
    """The sizes that what lies in ``folder`` was trained at."""
    kept = read_json(folder / TRAINING)
    if kept is None or "data" not in kept:
        reason = f"the sizes that it was trained at are not there; remove it and {WRITE_AGAIN}"
        raise InputError(folder / TRAINING, "data", reason)
    try:
        return PngDataConfig.model_validate(kept["data"])
    except ValidationError as error:
        raise refused(folder / TRAINING, error, "data") from error
