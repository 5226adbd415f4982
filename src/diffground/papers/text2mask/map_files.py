"""The class maps of a whole dataset, as files: what the frozen model is asked once.

A store (:mod:`diffground.store.items`) of them::

    <folder>/<id>.safetensors      maps and cross (K, h, w) float16 on the padded grid, and peaks
                                   (D, h, w), see `ClassMaps`; in the header the classes, the sizes,
                                   and the hash of all this

Every later step (thresholds, CRF, other backgrounds) reads these files, so the UNet runs once per
image and setting. At 16 pixels per cell a class of a 500 x 375 image takes 7 kB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffground.attention.aggregate import ClassMaps
from diffground.attention.preprocess import Geometry
from diffground.backbone.on_demand import Once
from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.papers.text2mask.text_to_mask import TextToMask
from diffground.store.config import WorkConfig
from diffground.store.items import Item, Summary
from diffground.training.sharing import fill_together

_ABOUT = "diffground"
_TENSORS = ("maps", "cross", "peaks")


def write_maps(
    open_segmenter: Callable[[], TextToMask],
    samples: Sequence[LabelledImage],
    folder: Path,
    recipe: dict[str, Any],
    *,
    seed: int,
    work: WorkConfig,
) -> Summary:
    """Makes the maps of ``samples`` that are missing, damaged, or made from something else.

    Args:
        open_segmenter: called once, if there is anything to make.
        samples: all of them; their classes are what is asked for.
        recipe: all that the maps depend on but the samples.
        work: who makes them.
    """
    segmenter = Once(open_segmenter)
    by_id = {sample.id: sample for sample in samples}
    items = [
        Item(s.id, (maps_path(Path(), s.id).as_posix(),), s.classes, {"image": s.image_path})
        for s in samples
    ]

    def make(item: str) -> ClassMaps:
        sample = by_id[item]
        return segmenter().maps(sample.load_image(), sample.classes, item=item, seed=seed)

    def finish(item: str, maps: ClassMaps) -> None:
        _write(maps_path(folder, item), maps)

    return fill_together(
        folder, recipe, items, make, finish,
        what="maps", work=work.unfinished(), ready=segmenter,
    )  # fmt: skip


def maps_path(folder: Path, item: str) -> Path:
    """The file of an item."""
    return folder / f"{item}.safetensors"


def read_maps(folder: Path, item: str) -> ClassMaps:
    """The maps of an item, float32; InputError for a file that is missing or damaged."""
    path = maps_path(folder, item)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads((file.metadata() or {})[_ABOUT])
        if header.pop("digest") != _digest(header, tensors):
            raise ValueError("the file was damaged since it was written")
        sizes = header["geometry"]
        geometry = Geometry(**{name: (size[0], size[1]) for name, size in sizes.items()})
        maps, cross, peaks = (tensors[name].float() for name in _TENSORS)
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = f"there are none that can be read ({error}); attention_aggregation makes them"
        raise InputError(path, "maps", reason) from error
    return ClassMaps(tuple(header["keys"]), maps, cross, peaks, geometry)


def _write(path: Path, maps: ClassMaps) -> None:
    header: dict[str, Any] = {"keys": maps.keys, "geometry": asdict(maps.geometry)}
    tensors = {name: getattr(maps, name).to(torch.float16).contiguous() for name in _TENSORS}
    header["digest"] = _digest(header, tensors)
    # One entry: several are written in an order that changes from run to run.
    about = {_ABOUT: json.dumps(header, sort_keys=True)}
    write_whole(path, lambda part: save_file(tensors, part, metadata=about))


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """A hash of all that a file holds: 7 kB a class are read in no time."""
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=8)
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()
