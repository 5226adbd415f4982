"""What the frozen UNet made of a sample in its last pass: computed again, or read from a cache.

``B`` samples · ``C`` channels of a map

Computed, they are bit for bit those of generation on the same device, whatever batches samples were
made in or are asked for in: every sample has a pass of its own (:func:`.sampler.retraced`). The
cache keeps them in 16 bits. At the sizes of Stable Diffusion 1.5 the 9 block outputs of a sample
take 12.0 MiB, and 24.0 MiB with the unconditional half.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.on_demand import Frozen
from diffground.backbone.probe import ProbeRequest
from diffground.backbone.sampler import retraced
from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.papers.grounded.data_config import CacheConfig
from diffground.papers.grounded.samples import REMEDY, Sample, Samples
from diffground.store.config import WorkConfig
from diffground.store.items import Item, Summary, fill
from diffground.store.manifest import config_hash

# Raised when the same samples give other features.
CODE_VERSION: Final = 1

FeatureSet = dict[str, Tensor]  # module of the UNet -> (B, C, h, w)


def features(
    model: FrozenDiffusion, samples: Sequence[Sample], modules: Sequence[str], *, guided: bool
) -> FeatureSet:
    """The outputs of ``modules`` of the UNet, in its dtype, for samples of one size.

    Args:
        modules: diffusers' names.
        guided: the channels of the unconditional half, then those of the conditional one; else the
            latter alone.

    Raises:
        InputError: samples that were generated without guidance have no unconditional half.
    """
    request = ProbeRequest(features=tuple(modules))
    rows: list[FeatureSet] = []
    for sample in samples:
        if guided and not sample.guided:
            reason = "was generated without guidance: it has no unconditional half"
            raise InputError(f"sample {sample.id}", "guided", reason)
        encoding = model.encode_prompts([sample.prompt])
        found = retraced(
            model, sample.latent[None], sample.timestep, encoding, request, guided=sample.guided
        )
        rows.append(
            {
                name: (maps.flatten(0, 1) if guided else maps[-1])[None]
                for name, maps in found.features.items()
            }
        )
    return {name: torch.cat([row[name] for row in rows]) for name in modules}


def cache_features(
    samples: Samples, frozen: Frozen, root: Path, config: CacheConfig, work: WorkConfig
) -> Summary:
    """Keeps the features of samples in files below ``root``, one each: those that are missing."""
    samples.source.check_model(frozen.fingerprint)
    recipe = {
        "code": {"features": CODE_VERSION},
        "samples": samples.source.recipe,
        "cache": config.key_content(),
    }
    folder = root / f"{samples.source.folder.name}-{config_hash(recipe)[:12]}"
    by_id = {record.id: index for index, record in enumerate(samples.records)}

    def make(item: str) -> FeatureSet:
        found = features(frozen.model, [samples[by_id[item]]], config.modules, guided=config.guided)
        return {name: maps[0].to("cpu", torch.float16).contiguous() for name, maps in found.items()}

    def finish(item: str, made: FeatureSet) -> None:
        write_whole(_file(folder, item), partial(save_file, made))

    items = [
        Item(r.id, (_file(Path(), r.id).as_posix(),), [r.prompt, r.seed]) for r in samples.records
    ]
    return fill(folder, recipe, items, make, finish, what="features of", work=work)


def cached_features(folder: Path, samples: Sequence[Sample]) -> FeatureSet:
    """The kept features of samples, float16; InputError for files that are not there or damaged."""
    rows = []
    for sample in samples:
        path = _file(folder, sample.id)
        try:
            rows.append(load_file(path))
        except (OSError, SafetensorError) as error:
            raise InputError(path, "features", f"cannot be read ({error}): {REMEDY}") from error
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _file(folder: Path, item: str) -> Path:
    return folder / f"{item}.safetensors"
