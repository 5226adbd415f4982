"""Extracts frozen features into files, once: resumable, on one machine or on several.

A split is cut into blocks of consecutive narratives, and a block gives two items of a store
(:mod:`diffground.store.items`), phrases and latents; :mod:`diffground.papers.png.feature_store` has
the layout. Items whose images the system would not open are not kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.png_benchmark import PngSample, load_image
from diffground.errors import InputError, Problem, ProblemReport
from diffground.io.files import write_whole
from diffground.papers.png.config import FeatureExtractionConfig
from diffground.papers.png.feature_store import FeatureKey, FeatureStore, image_key
from diffground.papers.png.features import encode_images, encode_narratives
from diffground.papers.png.narratives import to_input
from diffground.store.items import Item, Summary
from diffground.training.processes import gathered
from diffground.training.sharing import fill_together

log = logging.getLogger(__name__)

Entries = dict[str, Tensor]
Made = tuple[list[str], Entries, list[Problem]]  # keys that a file holds, what it holds, what not


def extract_features(
    backbone: FrozenDiffusion,
    samples: Sequence[PngSample],
    key: FeatureKey,
    root: Path,
    config: FeatureExtractionConfig,
) -> dict[str, Any]:
    """Extracts what is missing of the features of ``samples`` under ``root``.

    Broken images and captions are skipped and reported; an image that was skipped is tried again
    once its file is another one. What the system denies (a right, a disk) is reported, and the item
    that wants it is left to a later run.

    Args:
        samples: of one split in file order; the first ones of it are a part of the whole.

    Returns:
        JSON-ready, as :class:`~diffground.store.items.Summary` of the files, but ``"skipped"`` are
        narratives without features; and ``"narratives"``, ``"images"`` and ``"bytes"`` of all.

    Raises:
        InputError: there is no sample, or a feature cannot be kept in ``key.precision``.
    """
    assert key.backbone == backbone.fingerprint(), "the key is of another model"
    if not samples:
        raise InputError(root, key.split, "there is no narrative to extract features of")
    folder = key.folder(root)
    store = FeatureStore.open(root, key)
    if not all(gathered(store is not None and store.covers(samples))):
        done = _fill(backbone, samples, key, folder, config)
        store = FeatureStore.open(root, key)
    else:
        count = len(list(folder.glob("*.safetensors")))
        done = Summary(
            folder=folder.name,
            complete=True,
            items=count,
            made=0,
            kept=count,
            seconds=0.0,
            skipped={"problems": []},
        )
    report = ProblemReport(len(samples), [Problem(**row) for row in done["skipped"]["problems"]])
    if store is not None:
        report.problems += filter(None, map(store.problem_of, samples))
    if report.problems:
        log.warning("%s: %d narratives have no features", folder.name, len(report.problems))
    return {
        **done,
        "narratives": len(samples),
        "images": len({image_key(sample) for sample in samples}),
        "bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "skipped": report.to_dict(),
    }


def _fill(
    backbone: FrozenDiffusion,
    samples: Sequence[PngSample],
    key: FeatureKey,
    folder: Path,
    config: FeatureExtractionConfig,
) -> Summary:
    work = dict[str, dict[str, PngSample]]()  # by item: of each key a narrative that has it
    items = []
    seen: set[str] = set()
    for number, start in enumerate(range(0, len(samples), config.block_size)):
        block = samples[start : start + config.block_size]
        images: dict[str, PngSample] = {}
        for sample in block:  # of an image that several share, the first one's block has latents
            if image_key(sample) not in seen:
                seen.add(image_key(sample))
                images[image_key(sample)] = sample
        for kind, parts in (("phrases", {s.id: s for s in block}), ("latents", images)):
            name = f"{kind}-{number:05d}"
            sources = {k: s.image_path for k, s in parts.items() if kind == "latents"}
            items.append(Item(name, (f"{name}.safetensors",), list(parts), sources))
            work[name] = parts
    # Kinds side by side: that way every shard gets its share of the slow ones.
    items.sort(key=lambda item: item.id.startswith("latents"))
    planned = {file for item in items for file in item.files}
    for path in folder.glob("*-[0-9][0-9][0-9][0-9][0-9].safetensors"):
        if path.name not in planned:  # of blocks of another size
            path.unlink(missing_ok=True)

    def make(item: str) -> Made:
        extracted = _latents if item.startswith("latents") else _phrases
        made = extracted(backbone, work[item], key, config)
        for problem in made[2]:
            if problem.may_pass:
                raise InputError(problem.file, problem.field, problem.reason)
        return made

    def finish(item: str, made: Made) -> dict[str, Any]:
        keys, entries, problems = made
        for name, tensor in entries.items():
            if not tensor.isfinite().all():
                reason = f"{name} does not fit into {key.precision}; keep it in float32"
                raise InputError(backbone.folder, "frozen_precision", reason)
        path = folder / f"{item}.safetensors"
        write_whole(path, lambda part: save_file(entries, part), durable=True)
        return {"keys": keys, "problems": [vars(problem) for problem in problems]}

    recipe = key.model_dump(mode="json")
    return fill_together(
        folder, recipe, items, make, finish, what="features", work=config.work.unfinished()
    )


def _latents(
    backbone: FrozenDiffusion,
    images: dict[str, PngSample],
    key: FeatureKey,
    config: FeatureExtractionConfig,
) -> Made:
    loader = DataLoader(
        _Images(list(images.items()), key.image_size),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        collate_fn=list,
    )
    entries, problems = Entries(), list[Problem]()
    for batch in loader:
        problems += [found for _, found in batch if isinstance(found, Problem)]
        good = {name: pixels for name, pixels in batch if isinstance(pixels, Tensor)}
        if good:
            latents = encode_images(backbone, torch.stack(list(good.values())), key.precision)
            entries |= {name: _own(z) for name, z in zip(good, latents, strict=True)}
    return list(entries), entries, problems


def _phrases(
    backbone: FrozenDiffusion,
    narratives: dict[str, PngSample],
    key: FeatureKey,
    config: FeatureExtractionConfig,
) -> Made:
    entries, problems = Entries(), list[Problem]()

    def encode(samples: Sequence[PngSample]) -> None:
        """One that the text encoder refuses is noted and left out."""
        try:
            context, valid, pooled = encode_narratives(
                backbone,
                [sample.caption for sample in samples],
                [sample.spans for sample in samples],
                key.long_captions,
                key.precision,
            )
        except InputError as error:
            if len(samples) == 1:
                problems.append(Problem.of(samples[0].id, error))
                return
            for sample in samples:
                encode([sample])
            return
        for row, sample in enumerate(samples):
            count = len(sample.phrases)
            entries[f"{sample.id}.context"] = _own(context[row, :count])
            entries[f"{sample.id}.valid"] = _own(valid[row, :count])
            if pooled is not None:
                entries[f"{sample.id}.pooled"] = _own(pooled[row])

    chosen = list(narratives.values())
    for start in range(0, len(chosen), config.batch_size):
        encode(chosen[start : start + config.batch_size])
    refused = {problem.item for problem in problems}
    return [name for name in narratives if name not in refused], entries, problems


def _own(tensor: Tensor) -> Tensor:
    """On the CPU, in memory of its own, as safetensors wants it."""
    return tensor.cpu().clone(memory_format=torch.contiguous_format)


class _Images(Dataset[tuple[str, Tensor | Problem]]):
    """Images as the VAE takes them, or why they cannot be read."""

    def __init__(self, images: Sequence[tuple[str, PngSample]], size: int) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[str, Tensor | Problem]:
        key, sample = self.images[index]
        try:
            return key, to_input(load_image(sample), self.size)
        except InputError as error:
            return key, Problem.of(key, error)
