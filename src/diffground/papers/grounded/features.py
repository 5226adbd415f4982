"""What the frozen UNet made of a sample in its last pass: computed again, or read from a cache.

``B`` samples · ``C`` channels of a map

Computed, they are bit for bit those of generation on the same device, whatever batches samples were
made in or are asked for in: every sample has a pass of its own (:func:`.sampler.retraced`). The
cache keeps them in 16 bits, those beyond ±65504 as that. At the sizes of Stable Diffusion 1.5 the 9
block outputs of a sample take 12.0 MiB, and 24.0 MiB with the unconditional half.

Which maps there are, and how they are called, is :mod:`.feature_maps`' alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
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
from diffground.papers.grounded.feature_maps import feature_maps
from diffground.papers.grounded.module_config import FeatureConfig
from diffground.papers.grounded.samples import Sample, Samples
from diffground.store.items import Item
from diffground.store.manifest import config_hash
from diffground.training.sharing import fill_together

# Raised when the same samples give other features.
CODE_VERSION: Final = 2

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


class FeatureReader:
    """The features of samples that a module reads, from files if they are to be kept.

    Args:
        root: below which files are kept, in a folder for each set and kind of features; None:
            features are computed whenever they are asked for.
    """

    def __init__(self, frozen: Frozen, config: FeatureConfig, root: Path | None) -> None:
        self.frozen, self.config, self.root = frozen, config, root

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """What is read of the UNet, by diffusers' names."""
        maps = feature_maps(self.frozen.model.unet, self.config.features)
        return tuple(each.name for each in maps)

    def of(self, samples: Samples) -> Callable[[Sequence[Sample]], FeatureSet]:
        """What reads the features (B, C, h, w) of some of ``samples``; float16 if they are kept.

        Files that are missing are made first.

        Raises:
            InputError: the samples are another model's, or have no unconditional half to keep. What
                is returned raises it where files were damaged since.
        """
        samples.source.check_model(self.frozen.fingerprint)
        if self.root is None:
            return self._computed
        recipe = {
            "code": {"features": CODE_VERSION},
            "samples": samples.source.recipe,
            "features": self.config.key_content(),
        }
        folder = self.root / f"{samples.source.folder.name}-{config_hash(recipe)[:12]}"
        by_id = {one: index for index, one in enumerate(samples.records.ids)}

        def make(item: str) -> FeatureSet:
            found = self._computed([samples[by_id[item]]])
            return {name: in_16_bits(maps[0], item) for name, maps in found.items()}

        def finish(item: str, made: FeatureSet) -> None:
            write_whole(_file(folder, item), partial(save_file, made))

        items = [
            Item(r.id, (_file(Path(), r.id).as_posix(),), [r.prompt, r.seed])
            for r in samples.records
        ]
        fill_together(folder, recipe, items, make, finish, what="features of")
        return partial(_kept, folder)

    def _computed(self, samples: Sequence[Sample]) -> FeatureSet:
        guided = self.config.guided
        return features(self.frozen.model, samples, self.modules, guided=guided)


def in_16_bits(maps: Tensor, item: str) -> Tensor:
    """Features of any dtype as float16 on the CPU; what is beyond its range (±65504) is its end.

    A few of a UNet's residual sums are that large; as infinity one of them would spoil a training.
    Raises InputError for features that are not finite themselves.
    """
    if not bool(maps.isfinite().all()):
        reason = "are not finite: load the model in bfloat16 or float32"
        raise InputError(f"sample {item}", "features", reason)
    end = torch.finfo(torch.float16).max
    return maps.clamp(-end, end).to("cpu", torch.float16).contiguous()


def _kept(folder: Path, samples: Sequence[Sample]) -> FeatureSet:
    rows = []
    for sample in samples:
        path = _file(folder, sample.id)
        try:
            rows.append(load_file(path))
        except (OSError, SafetensorError) as error:
            reason = f"cannot be read ({error}): start the training again, which makes it anew"
            raise InputError(path, "features", reason) from error
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _file(folder: Path, item: str) -> Path:
    return folder / f"{item}.safetensors"
