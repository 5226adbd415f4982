"""What a learned token is worth, and what it costs: pictures of it, its loss, and other classes.

``V`` photos or pictures · ``H, W`` sides of an image
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from diffground.attention.aggregate import class_maps, initial_labels
from diffground.attention.config import AggregationConfig
from diffground.attention.queries import compose
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.latents import gaussian, lesson
from diffground.backbone.personal import PersonalToken, worn
from diffground.data.labelled_images import LabelledImage
from diffground.data.vocabulary import BACKGROUND, Vocabulary
from diffground.errors import InputError
from diffground.experiments.result_tables import measured_row
from diffground.foundation.scenes import to_tensor
from diffground.metrics.iou import UNSURE
from diffground.metrics.miou import Confusion
from diffground.papers.personalized.lessons import squared
from diffground.papers.personalized.prior_images import draw_images
from diffground.papers.personalized.token_learning import side_of
from diffground.reporting.lettering import INK, Word
from diffground.reporting.sheet import SheetRow, resized, sheet
from diffground.seeds import derive_seed, generator

PARTS: Final = ("classes", "photos")
_PANEL = 128  # width of a picture, pixels


class Learned(NamedTuple):
    """An item, what was learned of it, and its photos, RGB ``(H, W, 3)`` of any sides."""

    id: str
    token: PersonalToken
    photos: Sequence[NDArray[np.uint8]]


class Disturbance(NamedTuple):
    """SelfCross on other classes than the token's, before it was learned and while it is worn.

    Attributes:
        before, after: mIoU over the classes, percent; None without any.
        iou: class -> (before, after) in percent.
        images: how many were looked at.
    """

    before: float | None
    after: float | None
    iou: dict[str, tuple[float | None, float | None]]
    images: int

    @property
    def drop(self) -> float | None:
        """How much of the mIoU learning cost, points."""
        if self.before is None or self.after is None:
            return None
        return self.before - self.after


def check_tokens(
    model: FrozenDiffusion,
    items: Sequence[Learned],
    samples: Sequence[LabelledImage],
    vocabulary: Vocabulary,
    attention: AggregationConfig,
    *,
    seed: int = 42,
) -> dict[str, Any]:
    """What learning each item did: to other classes, and to the loss of its photos.

    Args:
        samples: other classes are looked for in them, see :func:`disturbances`.
        seed: of all noises.

    Returns:
        JSON-ready: ``classes``, mIoU "before" and "after" and their difference "drop" in percent,
        means over items; ``photos``, the loss of the items' photos as the class, as their own
        token and as another item's (see :func:`denoising_loss`); the deviations of all over the
        items, under ``deviation`` beside each; and ``items``, the same of each.
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    disturbed: dict[str, Disturbance] = {}
    for word in {item.token.word for item in items}:
        same = [item for item in items if item.token.word == word]
        worn_alone = [[item.token] for item in same]
        measured = disturbances(model, worn_alone, samples, vocabulary, attention, seed=seed)
        disturbed |= {item.id: now for item, now in zip(same, measured, strict=True)}
    for place, (name, token, photos) in enumerate(items):
        now = disturbed[name]
        losses: dict[str, float | None] = {
            "class": denoising_loss(model, photos, f"a photo of a {token.word}", seed=seed)
        }
        tokens = {"own token": token}
        if len(items) > 1:
            tokens["another token"] = items[place - 1].token
        for what, asked in tokens.items():
            prompt = f"a photo of a {asked.token} {asked.word}"
            with worn(model, [asked]):
                losses[what] = denoising_loss(model, photos, prompt, seed=seed)
        classes = {"before": now.before, "after": now.after, "drop": now.drop}
        found[name] = {"classes": classes, "photos": losses}
    return {
        "images": len(samples),
        **{part: _summed_up([one[part] for one in found.values()]) for part in PARTS},
        "items": found,
    }


def _summed_up(rows: Sequence[dict[str, float | None]]) -> dict[str, Any]:
    """The mean of each figure, and its deviation."""
    row = measured_row("", rows)
    return {**{name: v for name, v in row.mean.items() if v is not None}, "deviation": row.sd}


def disturbances(
    model: FrozenDiffusion,
    wardrobe: Sequence[Sequence[PersonalToken]],
    samples: Iterable[LabelledImage],
    vocabulary: Vocabulary,
    config: AggregationConfig,
    *,
    seed: int = 42,
) -> list[Disturbance]:
    """Whether the model still finds what else there is, under each of some sets of tokens.

    The classes of an image are asked for together, as its labels say, without the tokens' own; its
    background words beside them. Labels are those before the CRF. Pixels of the tokens' classes
    do not count.

    Args:
        wardrobe: sets of tokens of the same classes, each set worn together.
        config: of SelfCross, with one's own layers; its noises are the same before and after.

    Raises:
        InputError: no image has another class; a token does not fit the model.
    """
    words = {token.word for tokens in wardrobe for token in tokens}
    own = {name for name in vocabulary.names if name in words}
    hidden = [vocabulary.index(name) for name in own]
    names = vocabulary.label_names
    wearing = [(), *wardrobe]
    meters = [Confusion(names) for _ in wearing]
    images = 0
    for sample in samples:
        asked = [name for name in sample.classes if name not in own]
        if not asked:
            continue
        images += 1
        pixels = sample.load_image()
        truth = sample.load_mask(pixels.shape[:2])
        truth = np.where(np.isin(truth, hidden), np.uint8(UNSURE), truth)
        prompts = compose(
            vocabulary,
            asked,
            style="composed",
            background=True,
            synonyms=True,
            compat=config.compat,
            room=model.token_room,
        )
        for meter, now in zip(meters, wearing, strict=True):
            with worn(model, now):
                maps = class_maps(model, pixels, prompts, config, item=sample.id, seed=seed)
            ids = np.array([0, *(vocabulary.index(key) for key in maps.keys)], np.uint8)
            meter.update(ids[initial_labels(maps, config)], truth)
    if not images:
        raise InputError("samples", "classes", f"no image has a class beside {', '.join(words)}")
    before, *after = (meter.result()["iou"] for meter in meters)
    known = [name for name in names[1:] if before[name] is not None]
    return [
        Disturbance(_mean(before), _mean(now), {n: (before[n], now[n]) for n in known}, images)
        for now in after
    ]


@torch.no_grad()
def denoising_loss(
    model: FrozenDiffusion,
    photos: Sequence[NDArray[np.uint8]],
    prompt: str,
    *,
    draws: int = 8,
    seed: int = 0,
) -> float:
    """How badly ``prompt`` describes photos: the mean squared error of the UNet's output.

    Lower is better. The same ``draws`` of time steps and noises for every prompt and model, evenly
    spread over the schedule. ``photos`` are RGB ``(H, W, 3)`` each of its own sides.
    """
    scheduler, side = model.scheduler, side_of(model)
    images = torch.stack([to_tensor(squared(photo, side)) for photo in photos])
    latents = model.encode_images(images)
    encoding = model.encode_prompts([prompt] * len(photos))
    total = 0.0
    steps = len(scheduler.alphas_cumprod)
    for draw in range(draws):
        timestep = int(steps * (draw + 0.5) / draws)
        noises = [generator(seed, photo, draw) for photo in range(len(photos))]
        noise = gaussian(latents.shape[1:], noises).to(latents)
        times = torch.full((len(photos),), timestep)
        where = str(model.folder / "scheduler")
        noisy, target = lesson(scheduler, latents, noise, times, where)
        output = model.unet(
            noisy,
            timestep,
            encoder_hidden_states=encoding.embeddings,
            added_cond_kwargs=model.added(noisy, encoding.pooled),
            return_dict=False,
        )[0]
        total += float((output.float() - target.float()).square().mean())
    return total / draws


def token_sheet(
    model: FrozenDiffusion,
    things: Sequence[tuple[PersonalToken, Sequence[NDArray[np.uint8]]]],
    *,
    prompts: Sequence[str] = ("a photo of a {}",),
    count: int = 3,
    steps: int = 50,
    guidance: float = 6.0,
    seed: int = 42,
) -> NDArray[np.uint8]:
    """Photos of things beside pictures that the model draws of their tokens, a row each.

    Args:
        things: a token and its photos, RGB ``(H, W, 3)`` of any sides; the first ``count`` are
            shown, cut to the square that was learned.
        prompts: pictures are drawn of; the token and its class take the place of ``{}``.
        count: photos, and pictures per prompt. Those of every thing begin with the same noise.

    Returns:
        uint8 RGB ``(H, W, 3)``.
    """
    titles = [f"photo {i + 1}" for i in range(count)] + [
        prompt.format("<token>") for prompt in prompts for _ in range(count)
    ]
    rows = []
    for token, photos in things:
        shown = [squared(photo, side_of(model)) for photo in photos[:count]]
        shown += [np.full_like(shown[0], 255)] * (count - len(shown))
        seeds = [derive_seed(seed, draw, "token sheet") for draw in range(count)]
        with worn(model, [token]):
            for prompt in prompts:
                text = prompt.format(f"{token.token} {token.word}")
                shown += draw_images(model, [text], seeds, steps=steps, guidance=guidance)
        caption = [Word(word, INK) for word in f"{token.token} {token.word}".split()]
        rows.append(SheetRow([resized(each, _PANEL, smooth=True) for each in shown], caption))
    return sheet(titles, rows, _PANEL, heading="Photos, and what the model draws of their tokens.")


def _mean(iou: dict[str, float | None]) -> float | None:
    """Over the classes that are there, without the background."""
    found = [value for name, value in iou.items() if name != BACKGROUND and value is not None]
    return float(np.mean(found)) if found else None
