"""Public files of Custom Diffusion as personal tokens, read without unpickling code.

tokens = load_public("logs/mug/delta.bin", model, "mug")
with worn(model, tokens):
    ...

The three formats (adobe-research/custom-diffusion, and diffusers' examples/custom_diffusion):

- ``delta.bin``: ``{"unet": {name: weight}, "modifier_token": {"<new1>": (C,)}}`` of diffusers'
  names ``...attn2.to_k.weight``, of SDXL's two text encoders ``[(C_1,), (C_2,)]``;
- ``delta*.ckpt`` of CompVis: ``{"state_dict": {name: weight, "embed": (n, C)}}`` with its own names
  of the blocks. Tokens have no names there; they become ``<new1>``, ``<new2>``, ...;
- a folder with ``pytorch_custom_diffusion_weights`` and a file ``<new1>`` for each token, each as
  ``.safetensors`` or ``.bin``; a ``.bin`` may be of either kind, which its bytes tell.

The first two may be compressed: ``{"u": (o, r), "v": (r, i)}`` in place of a weight, whose product
is what is added. All other files have whole weights, so the deltas are these less the model's:
of the model that they were made with, which no file names. Give that one. A ``delta.bin`` with a
text encoder of its own is refused: a personal token leaves the text encoder as it is.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.personal import PersonalToken, check_fit
from diffground.errors import InputError

PROCESSORS = "pytorch_custom_diffusion_weights"
_COMPVIS = "model.diffusion_model."
# CompVis counts the blocks of SD 1.x and 2.x in a row, three to a level, diffusers by level.
_INPUT, _OUTPUT = (
    re.compile(r"^input_blocks\.(\d+)\.1\."),
    re.compile(r"^output_blocks\.(\d+)\.1\."),
)
_MIDDLE = "middle_block.1."
_OF_PROCESSOR: Final = re.compile(r"\.processor\.(to_[kqv]|to_out)_custom_diffusion\.")


def load_public(path: str | Path, model: FrozenDiffusion, word: str) -> list[PersonalToken]:
    """The tokens of a file ``delta.bin`` or ``delta*.ckpt``, or of a diffusers folder.

    Args:
        model: that they were learned with. The tokens are then its own.
        word: the class of the thing, "mug"; of several tokens change it by
            :func:`dataclasses.replace`.

    Returns:
        A token each, all with the same deltas; in the file's order, of a folder by name.

    Raises:
        InputError: the file is missing, cut short or none of these; would run code when read; has
            no token, a text encoder of its own, or weights that are not of ``model``'s shapes.
    """
    path = Path(path)
    if path.is_dir():
        weights, embeddings = _of_diffusers(path)
    elif not path.is_file():
        raise InputError(path, "file", "there is no such file, and no folder of that name")
    else:
        content = read_tensors(path)
        if "state_dict" in content:
            _need_names(path, content, "state_dict")
            weights, embeddings = _of_compvis(path, content["state_dict"])
        elif "unet" in content:
            weights, embeddings = _of_delta(path, content)
        else:
            reason = f"{', '.join(map(str, list(content)[:3]))}: neither unet nor state_dict"
            raise InputError(path, "content", f"it is of no format of Custom Diffusion ({reason})")
    for name, rows in embeddings.items():
        if not all(isinstance(row, Tensor) for row in rows):
            raise InputError(path, str(name), "it is no tensor, which a token's embedding is")
    if not embeddings:
        reason = "there is no new token in it, only weights: such a file stands for its class word"
        raise InputError(path, "tokens", reason)
    deltas = dict(_deltas(path, weights, model))
    tokens = [
        PersonalToken(name, word, rows, deltas, model.fingerprint())
        for name, rows in embeddings.items()
    ]
    for token in tokens:
        check_fit(model, token)
    return tokens


_Weights = dict[str, Any]  # by diffusers' names, tensors or compressed ones
_Rows = dict[str, tuple[Tensor, ...]]  # by the token's name, one per text encoder


def _of_delta(path: Path, content: Mapping[str, Any]) -> tuple[_Weights, _Rows]:
    _need_names(path, content, "unet")
    _need_names(path, content, "modifier_token")
    if "text_encoder" in content:
        reason = (
            "it has a text encoder of its own, and not only tokens: export it without "
            "(save_text_encoder=False), or make a model folder with that text encoder"
        )
        raise InputError(path, "text_encoder", reason)
    rows = {
        name: tuple(each) if isinstance(each, list | tuple) else (each,)
        for name, each in (content.get("modifier_token") or {}).items()
    }
    return dict(content["unet"]), rows


def _need_names(path: Path, content: Mapping[str, Any], field: str) -> None:
    if not isinstance(content.get(field) or {}, Mapping):
        reason = f"a {type(content[field]).__name__}, and tensors by name are needed"
        raise InputError(path, field, reason)


def _of_compvis(path: Path, state: Mapping[str, Any]) -> tuple[_Weights, _Rows]:
    weights = {_name(path, name): each for name, each in state.items() if name != "embed"}
    embed = state.get("embed", torch.empty(0, 0))
    if not isinstance(embed, Tensor):
        raise InputError(path, "embed", "it is no tensor, which tokens' embeddings are")
    if embed.ndim == 1:  # how the public converter writes a single one
        embed = embed[None]
    return weights, {f"<new{i + 1}>": (row.clone(),) for i, row in enumerate(embed)}


def _of_diffusers(folder: Path) -> tuple[_Weights, _Rows]:
    files = [folder / f"{PROCESSORS}{end}" for end in (".safetensors", ".bin")]
    found = [file for file in files if file.is_file()]
    if not found:
        reason = f"neither {files[0].name} nor {files[1].name} is in the folder"
        raise InputError(folder, "file", reason)
    weights = {}
    for name, each in read_tensors(found[0]).items():
        if isinstance(each, Tensor):  # of self-attention there is an empty dict
            if not _OF_PROCESSOR.search(name):
                raise InputError(found[0], "name", f"{name!r} is none of Custom Diffusion's")
            weights[_OF_PROCESSOR.sub(r".\1.", name)] = each
    rows: _Rows = {}
    for file in sorted(folder.iterdir()):
        if re.fullmatch(r"<.+>\.(bin|safetensors)", file.name):
            for name, row in read_tensors(file).items():
                rows.setdefault(name, (row,))
    return weights, rows


def _deltas(
    path: Path, weights: Mapping[str, Any], model: FrozenDiffusion
) -> Iterator[tuple[str, Tensor]]:
    parameters = dict(model.unet.named_parameters())
    for name, each in weights.items():
        if ".attn2." not in name or name not in parameters:
            reason = f"{name!r} is no cross-attention weight of {model.folder}"
            raise InputError(path, "name", f"{reason}: it was learned by another architecture")
        base = parameters[name].detach().float().cpu()
        low_rank = isinstance(each, Mapping)
        try:
            delta = each["u"].float() @ each["v"].float() if low_rank else each.float() - base
            if delta.shape != base.shape:
                raise RuntimeError(f"{tuple(delta.shape)}, not {tuple(base.shape)}")
        except (KeyError, AttributeError, RuntimeError) as error:
            reason = f"{name} does not fit {model.folder}: {error}"
            raise InputError(path, "weights", reason) from error
        yield name, delta


def _name(path: Path, name: str) -> str:
    """CompVis's name of a cross-attention weight by diffusers' names."""
    plain = name.removeprefix(_COMPVIS)
    if found := _INPUT.match(plain):
        # Block 0 is the first convolution; a level is two layers and what makes it smaller.
        level, layer = divmod(int(found[1]) - 1, 3)
        return f"down_blocks.{level}.attentions.{layer}." + plain[found.end() :]
    if found := _OUTPUT.match(plain):
        level, layer = divmod(int(found[1]), 3)
        return f"up_blocks.{level}.attentions.{layer}." + plain[found.end() :]
    if plain.startswith(_MIDDLE):
        return "mid_block.attentions.0." + plain.removeprefix(_MIDDLE)
    raise InputError(path, "name", f"{name!r} is no cross-attention weight of CompVis's layout")


def read_tensors(path: Path) -> dict[str, Any]:
    """The content of a safetensors or torch file, by name; nothing in it is run.

    Raises :class:`InputError` for a file that is neither, or holds more than plain tensors.
    """
    try:
        # A safetensors file begins with its header's length and "{"; some are called .bin.
        with path.open("rb") as stream:
            safe = path.suffix == ".safetensors" or stream.read(9)[8:] == b"{"
        if safe:
            return dict(load_file(path))
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is none of torch's: we say so
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        reason = (
            "it holds more than tensors, which would run as code, or is no file of torch, so it "
            "is not read: export it again as safetensors, or as a dict of plain tensors"
        )
        raise InputError(path, "content", reason) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = f"it cannot be read ({error}): fetch it again, or export it as safetensors"
        raise InputError(path, "content", reason) from error
    if not isinstance(content, dict):
        raise InputError(path, "content", f"a {type(content).__name__}, not a dict of tensors")
    _check_sizes(path, content)
    return content


def _check_archive(path: Path) -> None:
    """Torch packs its files without compression: InputError for one that grows when unpacked."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
    if unpacked > path.stat().st_size:
        reason = f"it would unpack to {unpacked} bytes, more than it has: no file of torch does"
        raise InputError(path, "size", reason)


def _check_sizes(path: Path, content: Any, name: str = "") -> None:
    """A tensor may say that one stored number is a petabyte of equal ones: InputError."""
    if isinstance(content, Tensor):
        if content.layout != torch.strided or content.is_quantized:
            raise InputError(path, name, "it is no plain tensor: export it again as safetensors")
        if content.nbytes > content.untyped_storage().nbytes():
            raise InputError(path, name, f"{tuple(content.shape)} is more than the file holds")
    elif isinstance(content, Mapping):
        for key, each in content.items():
            _check_sizes(path, each, str(key))
    elif isinstance(content, list | tuple):
        for each in content:
            _check_sizes(path, each, name)
