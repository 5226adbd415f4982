"""Extracts frozen features into files, once: resumable, on one machine or on several.

A split is cut into blocks of consecutive narratives, and a block gives two shards, phrases and
latents (:mod:`diffground.papers.png.feature_store` has the layout). A shard is written whole and in
one step, and the order of the narratives decides what is in it, so a killed run goes on where it
was. A shard that was damaged, or one of whose images was replaced, is made again; a shard whose
images the system would not open is not kept.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.png_benchmark import PngSample, load_image
from diffground.errors import InputError, Problem, ProblemReport
from diffground.io.files import seal_of, write_whole
from diffground.io.notes import FileNote, is_unchanged, note_of
from diffground.papers.png.config import FeatureExtractionConfig
from diffground.papers.png.feature_store import (
    INDEX,
    KINDS,
    Block,
    FeatureKey,
    FeatureStore,
    Kind,
    ShardInfo,
    image_key,
    index_content,
    plan_blocks,
    read_shard_info,
    shard_metadata,
    shard_name,
)
from diffground.papers.png.features import encode_images, encode_narratives
from diffground.papers.png.narratives import to_input
from diffground.progress import Progress
from diffground.provenance import claim, join_commits
from diffground.store.manifest import remove_manifest, write_manifest

log = logging.getLogger(__name__)


def extract_features(
    backbone: FrozenDiffusion,
    samples: Sequence[PngSample],
    key: FeatureKey,
    root: Path,
    config: FeatureExtractionConfig,
) -> dict[str, Any]:
    """Extracts what is missing of the features of ``samples`` under ``root``.

    A shard is written whole, and the order of ``samples`` decides what is in it, so a killed run
    goes on where it was. Broken images and captions are skipped and reported; images that were
    skipped are tried again once they can be read. What the system denies (a right, a disk) is
    reported, and the shard that wants it is left to a later run.

    Args:
        samples: of one split in file order; the first ones of it are a part of the whole.

    Returns:
        JSON-ready ``{"folder", "complete", "narratives", "images", "shards", "shards_made",
        "bytes", "seconds", "skipped"}``; ``complete`` is False while shards lack: other machines',
        or those of images that could not be opened.

    Raises:
        InputError: there is no sample, or a feature cannot be kept in ``key.precision``.
    """
    assert key.backbone == backbone.fingerprint(), "the key is of another model"
    if not samples:
        raise InputError(root, key.split, "there is no narrative to extract features of")
    started = time.monotonic()
    folder = key.folder(root)
    claim(folder, key.model_dump())
    blocks = plan_blocks(samples, config.shard_size)
    made, denied = 0, list[Problem]()
    with FileLock(folder / f".machine-{config.machine}-of-{config.machines}.lock"):
        store = FeatureStore.open(root, key)
        if store is None or not store.covers(samples) or _mended(store, samples):
            remove_manifest(folder)
            mine = blocks[config.machine :: config.machines]
            extraction = _Extraction(backbone, key, folder, config)
            made = extraction.run(mine)
            denied = extraction.denied
            store = _finish(folder, blocks, samples, key, root)
    report = ProblemReport(total=len(samples), problems=denied)
    if store is not None:
        found = (store.skipped.get(sample.id) for sample in samples)
        report.problems += [entry[1] for entry in found if entry]
    if report.problems:
        log.warning("%s: %d narratives have no features", folder.name, len(report.problems))
    return {
        "folder": folder.name,
        "complete": store is not None,
        "narratives": len(samples),
        "images": len({image_key(sample) for sample in samples}),
        "shards": len(list(folder.glob("*.safetensors"))),
        "shards_made": made,
        "bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "seconds": round(time.monotonic() - started, 1),
        "skipped": report.to_dict(),
    }


def _readable(sample: PngSample) -> bool:
    try:
        load_image(sample)
    except InputError:
        return False
    return True


def _mended(store: FeatureStore, samples: Sequence[PngSample]) -> bool:
    """Whether an image that was skipped can be read now."""
    skipped = {item for item, (kind, _) in store.skipped.items() if kind == "latents"}
    return any(_readable(sample) for sample in samples if sample.id in skipped)


def _finished(folder: Path, block: Block, kind: Kind) -> ShardInfo | None:
    """A block's shard if it is there, is what is wanted, and skipped nothing that is mended."""
    info = read_shard_info(folder / shard_name(kind, block.number))
    if info is None or info.plan != block.plan(kind):
        return None
    if kind == "latents":
        mended = any(_readable(block.images[problem.item]) for problem in info.problems)
        replaced = any(
            not is_unchanged(block.images[key].image_path, info.images.get(key))
            for key in info.keys
        )
        if mended or replaced:
            return None
    return info


def _finish(
    folder: Path, blocks: Sequence[Block], samples: Sequence[PngSample], key: FeatureKey, root: Path
) -> FeatureStore | None:
    """Writes index and manifest if all shards are there."""
    with FileLock(folder / ".finish.lock"):
        infos: dict[Kind, dict[int, ShardInfo]] = {"phrases": {}, "latents": {}}
        for block in blocks:
            for kind in KINDS:
                info = _finished(folder, block, kind)
                if info is None:
                    log.info("%s: not all shards are there yet", folder.name)
                    return None
                infos[kind][block.number] = info
        wanted = {shard_name(kind, block.number) for kind in KINDS for block in blocks}
        for path in folder.glob("*-[0-9][0-9][0-9][0-9][0-9].safetensors"):
            if path.name not in wanted:  # of a run with other shards
                path.unlink()
                seal_of(path).unlink(missing_ok=True)
        for path in folder.glob(".*.part"):  # of a run that was killed
            path.unlink()
        content = json.dumps(index_content(infos["latents"], infos["phrases"], samples))
        write_whole(
            folder / INDEX, lambda part: part.write_text(content, encoding="utf-8"), sealed=True
        )
        made = [info.commit for found in infos.values() for info in found.values()]
        write_manifest(folder, key, commit=join_commits(made))
    return FeatureStore.open(root, key)


@dataclass
class _Extraction:
    """Fills shards, and counts on a bar."""

    backbone: FrozenDiffusion
    key: FeatureKey
    folder: Path
    config: FeatureExtractionConfig
    problems: list[Problem] = field(default_factory=list)  # of the shard being made
    images: dict[str, FileNote] = field(default_factory=dict)  # that it is made of
    denied: list[Problem] = field(default_factory=list)  # what could not be opened, of all shards

    def run(self, blocks: Sequence[Block]) -> int:
        """Makes the shards of ``blocks`` that are not there; how many it wrote."""
        written = 0
        missing = [(b, k) for b in blocks for k in KINDS if _finished(self.folder, b, k) is None]
        total = sum(len(block.items(kind)) for block, kind in missing)
        with Progress(total, f"features {self.folder.name}") as bar:
            for block, kind in missing:
                self.problems, self.images = [], {}
                tensors: dict[str, Tensor] = {}
                make = self._latents if kind == "latents" else self._phrases
                for entries, done in make(block.items(kind)):
                    tensors |= entries
                    bar.update(done)
                denied = [problem for problem in self.problems if problem.may_pass]
                self.denied += denied
                if not denied:
                    self._write(block, kind, tensors)
                    written += 1
        return written

    def _write(self, block: Block, kind: Kind, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                reason = f"{name} does not fit into {self.key.precision}; keep it in float32"
                raise InputError(self.backbone.folder, "frozen_precision", reason)
        metadata = shard_metadata(block.plan(kind), self.problems, self.images)
        write_whole(
            self.folder / shard_name(kind, block.number),
            lambda part: save_file(tensors, part, metadata),
            durable=True,
            sealed=True,
        )

    def _latents(self, images: dict[str, PngSample]) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Entries of a few images at a time, and how many were tried."""
        loader = DataLoader(
            _Images(list(images.items()), self.key.image_size),
            batch_size=self.config.batch_size,
            num_workers=self.config.num_workers,
            collate_fn=list,
        )
        for batch in loader:
            good = {key: pixels for key, pixels, _ in batch if isinstance(pixels, Tensor)}
            self.images |= {key: note for key, _, note in batch if note is not None}
            self.problems += [problem for _, problem, _ in batch if isinstance(problem, Problem)]
            entries: dict[str, Tensor] = {}
            if good:
                latents = encode_images(
                    self.backbone, torch.stack(list(good.values())), self.key.precision
                )
                entries = {k: _own(z) for k, z in zip(good, latents, strict=True)}
            yield entries, len(batch)

    def _phrases(self, samples: dict[str, PngSample]) -> Iterator[tuple[dict[str, Tensor], int]]:
        chosen = list(samples.values())
        for start in range(0, len(chosen), self.config.batch_size):
            part = chosen[start : start + self.config.batch_size]
            yield self._encoded(part), len(part)

    def _encoded(self, samples: Sequence[PngSample]) -> dict[str, Tensor]:
        """Entries of narratives; one that the text encoder refuses is noted and left out."""
        try:
            context, valid, pooled = encode_narratives(
                self.backbone,
                [sample.caption for sample in samples],
                [sample.spans for sample in samples],
                self.key.long_captions,
                self.key.precision,
            )
        except InputError as error:
            if len(samples) == 1:
                self.problems.append(Problem.of(samples[0].id, error))
                return {}
            return {k: v for sample in samples for k, v in self._encoded([sample]).items()}
        entries: dict[str, Tensor] = {}
        for row, sample in enumerate(samples):
            count = len(sample.phrases)
            entries[f"{sample.id}.context"] = _own(context[row, :count])
            entries[f"{sample.id}.valid"] = _own(valid[row, :count])
            if pooled is not None:
                entries[f"{sample.id}.pooled"] = _own(pooled[row])
        return entries


def _own(tensor: Tensor) -> Tensor:
    """On the CPU, in memory of its own, as safetensors wants it."""
    return tensor.cpu().clone(memory_format=torch.contiguous_format)


class _Images(Dataset[tuple[str, Tensor | Problem, FileNote | None]]):
    """Images as the VAE takes them, or why they cannot be read, and what their files are."""

    def __init__(self, images: Sequence[tuple[str, PngSample]], size: int) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[str, Tensor | Problem, FileNote | None]:
        key, sample = self.images[index]
        note = note_of(sample.image_path)  # before it is read: a later change is noticed
        try:
            return key, to_input(load_image(sample), self.size), note
        except InputError as error:
            return key, Problem.of(key, error), None
