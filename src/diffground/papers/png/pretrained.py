"""Starts MLMA's visual attention and the decoder from weights of panoptic segmentation.

Li et al., "Dynamic Prompting of Frozen Text-to-Image Diffusion Models for Panoptic Narrative
Grounding", section 4.2, take both from ODISE, whose heads are Mask2Former's. Two layouts are read,
by the key map that :mod:`.pretrained_keys` documents:

- a **folder** of transformers (``config.json`` with ``model_type: mask2former`` and
  ``model.safetensors``), as the mini segmenter's;
- a **file** with the names of Mask2Former's own code, which ODISE shares: ``.safetensors``, or a
  torch file (``.pth``, ``.pt``, ``.bin``) of plain tensors, by name, at its top or under ``model``
  or ``state_dict``. Pickled objects are never loaded. A file does not tell the decoder's number of
  heads, which should be 8, as in all that Mask2Former and ODISE released.

Prefixes before ``pixel_level_module``, ``transformer_module`` and ``sem_seg_head`` are ignored.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffground.backbone.personal_formats import read_tensors
from diffground.errors import InputError, shortened
from diffground.io.files import check_sums, load_json
from diffground.papers.png.decoder import MaskFeature, PhraseDecoder
from diffground.papers.png.mlma import MLMA
from diffground.papers.png.pretrained_keys import (
    ANCHORS,
    BLOCKS,
    HUB,
    ORIGINAL,
    source_key,
)

POINTS = 4  # Mask2Former's sampling points per head and level: a constant of its code
_REQUIRED = ("mlma.layers.", "decoder.layers.")


@dataclass(frozen=True)
class LoadReport:
    """What became of the model's tensors for which the key map names a source."""

    loaded: tuple[str, ...]  # our names
    skipped: tuple[tuple[str, str], ...]  # our names (or a layer that we lack) and why not


@dataclass(frozen=True)
class _Source:
    """A checkpoint's tensors by name from the anchor on."""

    path: Path
    column: int  # of the key map: HUB or ORIGINAL
    tensors: dict[str, Tensor]
    heads: int | None  # None where the file does not tell

    def find(self, key: str) -> Tensor | None:
        """The tensor of a name, or the third of one that ``name[0 … 2]`` means."""
        if key.endswith("]"):
            whole = self.tensors.get(key[:-3])
            if whole is None or whole.shape[0] % 3:
                return whole
            return whole.chunk(3)[int(key[-2])]
        return self.tensors.get(key)


def load_panoptic_weights(
    mlma: MLMA, mask_feature: MaskFeature, decoder: PhraseDecoder, source: Path
) -> LoadReport:
    """Initialises MLMA's deformable layers, the decoder and the mask feature, in place.

    Every deformable and decoder layer of the model must be found whole; all else is loaded where it
    is there with our shape, together with what belongs to it (a convolution and its norm), and
    otherwise keeps its initialisation and is named in the report. Nothing is changed on an error.

    Args:
        mlma: its deformable layers may be switched off.
        mask_feature: of which the lateral's shape depends on the backbone.
        decoder: its category head is left alone.
        source: a folder or a file, see the module.

    Raises:
        InputError: the source is not readable as either layout, has fewer layers than the model or
            other sizes (naming the key and both shapes), or another number of heads or points.
    """
    read = _read(Path(source))
    _check_heads(mlma, decoder, read)
    modules: dict[str, nn.Module] = {"mlma": mlma, "mask_feature": mask_feature, "decoder": decoder}
    ours = {
        f"{part}.{name}": tensor
        for part, module in modules.items()
        for name, tensor in module.state_dict(keep_vars=True).items()
    }
    units: dict[str, list[tuple[str, str]]] = {}  # our names and the source's, by block
    for name in ours:
        if match := source_key(name, read.column):
            units.setdefault(match[0], []).append((name, match[1]))

    values: dict[str, Tensor] = {}
    skipped: list[tuple[str, str]] = []
    for unit, names in units.items():
        found = {name: read.find(key) for name, key in names}
        for name, key in names:
            tensor = found[name]
            if tensor is not None and tensor.shape == ours[name].shape:
                continue
            here = "is not there" if tensor is None else f"has shape {tuple(tensor.shape)}"
            reason = f"{here}, {name} has {tuple(ours[name].shape)}"
            if unit.startswith(_REQUIRED):
                raise InputError(read.path, key, reason)
            skipped += [(other, f"{key} {reason}") for other, _ in names]
            break
        else:
            for name, tensor in found.items():
                assert tensor is not None
                values[name] = tensor
    skipped += _further_layers(read, units)
    with torch.no_grad():
        for name, tensor in values.items():
            ours[name].copy_(tensor)
    return LoadReport(tuple(values), tuple(skipped))


def _further_layers(read: _Source, units: dict[str, Any]) -> list[tuple[str, str]]:
    """Layers that the source has and the model has not."""
    extra = []
    for block in BLOCKS:
        if not block.prefixes[0].startswith(_REQUIRED):
            continue
        key = f"{block.prefixes[read.column]}.{block.rows[0][read.column]}"
        for i in itertools.count():
            if key.format(i=i, p="weight") not in read.tensors:
                break
            if (unit := block.prefixes[0].format(i=i)) not in units:
                extra.append((unit, "the model has no such layer"))
    return extra


def _check_heads(mlma: MLMA, decoder: PhraseDecoder, read: _Source) -> None:
    """Shapes alone do not tell how channels are divided into heads and samples."""
    if mlma.config.deformable and mlma.config.points != POINTS:
        raise InputError(read.path, "points", f"{POINTS}, MLMA has {mlma.config.points}")
    parts = {"decoder": decoder.config.heads}
    if mlma.config.deformable:
        parts["MLMA"] = mlma.config.heads
    for part, heads in parts.items():
        if read.heads is not None and heads != read.heads:
            raise InputError(
                read.path / "config.json",
                "num_attention_heads",
                f"{read.heads}, the {part} has {heads}",
            )


def _read(path: Path) -> _Source:
    """The tensors of either layout."""
    heads = None
    file = path
    if path.is_dir():
        for name in ("config.json", "model.safetensors"):
            if not (path / name).is_file():
                raise InputError(path, name, "the folder lacks it: save_pretrained of transformers")
        check_sums(path, "fetch the folder again, or `git checkout -- <folder>` if it is tracked")
        config = load_json(path / "config.json")
        try:
            kind, heads = config["model_type"], int(config["num_attention_heads"])
        except (ValueError, KeyError, TypeError) as error:
            reason = f"of no segmenter: {shortened(repr(error))}"
            raise InputError(path / "config.json", "content", reason) from error
        if kind != "mask2former":
            raise InputError(path / "config.json", "model_type", f"{kind!r}, not 'mask2former'")
        file = path / "model.safetensors"
    column = HUB if path.is_dir() else ORIGINAL
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(file).items():
        starts = [name.find(anchor) for anchor in ANCHORS[column] if anchor in name]
        if starts:
            key = name[min(starts) :]
            if key in tensors:
                raise InputError(file, name, f"there are two of {key}, under several prefixes")
            tensors[key] = tensor
    if not tensors:
        anchors = " or ".join(ANCHORS[column])
        raise InputError(file, "weights", f"no tensor is named {anchors}…: this is no Mask2Former")
    return _Source(path, column, tensors, heads)


def _tensors(file: Path) -> dict[str, Tensor]:
    """A file's tensors by name."""
    if not file.is_file():
        raise InputError(file, "file", "does not exist")
    if file.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise InputError(
            file,
            "suffix",
            f"{file.suffix!r}, not .safetensors, .pth, .pt or .bin: save a pickled checkpoint's "
            "state dict with safetensors.torch.save_file",
        )
    content = read_tensors(file)
    for under in ("model", "state_dict"):
        if isinstance(content.get(under), dict):
            content = content[under]
            break
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
