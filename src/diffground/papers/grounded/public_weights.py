"""Loads the weights that the public codes of Grounded Diffusion, 003 and IOSD save.

They are a state dict in a torch file (or in safetensors), of which nothing is run. Names are mapped
to ours; our sizes must be those of the code that saved it (:data:`~.module.MODULES`).

Spectral norm: the public codes keep ``u`` and iterate once before every use, torch keeps ``u`` and
``v`` and iterates in training alone. The loaded pair is what one iteration makes of theirs, so that
masks are the same in evaluation.

| ours | theirs |
|---|---|
| ``encoder.project.{level}`` | ``{low, mid, high, highest}_feature_conv``, or with ``.0`` |
| ``encoder.mix.{level - 1}`` | ``{mid, high, highest}_feature_mix_conv`` |
| ``final`` | ``final_feature_conv`` |
| ``fusion.enter``, ``fusion.leave`` | ``input_mlp``, ``output_mlp``; without a pyramid ``mlp`` |
| ``fusion.stages.{stage}.to_tokens``, ``.to_queries`` | ``to_k.{stage}``, ``to_q.{stage}`` |
| ``fusion.stages.{stage}.layers`` | ``transfromer_decoder.{stage}.layers`` |

Without a pyramid there is one stage and no number, and the first row's names have ``.0``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor
from torch.nn import functional

from diffground.backbone.personal_formats import read_tensors
from diffground.errors import InputError
from diffground.papers.grounded.encoder import EPSILON
from diffground.papers.grounded.module import GroundingModule

LEVELS: Final = ("low", "mid", "high", "highest")
_WRAPPERS: Final = ("module.", "_orig_mod.")  # what training on several GPUs and compiling add
#: Ends of our names and theirs, in the parts that both codes have many of.
_ENDS: Final = (
    (r"\.norm([12])\.running_(mean|var)$", r".stored_\2\1"),
    (r"\.parametrizations\.weight\.original$", ".weight"),
    (r"\.shortcut\.", ".conv_sc."),
    (r"\.self_attention\.qkv\.weight$", ".self_attn.in_proj_weight"),
    (r"\.cross_attention\.qkv\.weight$", ".multihead_attn.in_proj_weight"),
    (r"\.self_attention\.out\.", ".self_attn.out_proj."),
    (r"\.cross_attention\.out\.", ".multihead_attn.out_proj."),
    (r"\.ffn\.0\.", ".linear1."),
    (r"\.ffn\.3\.", ".linear2."),
)


def load_public(module: GroundingModule, file: str | Path) -> None:
    """Gives a module the weights of a public checkpoint; on an error it keeps its own.

    Raises:
        InputError: there is no such file, it holds more than tensors, or its tensors are not those
            of this module: a name or a shape differs.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(file, "file", "does not exist")
    theirs = {_unwrapped(name): each for name, each in read_tensors(file).items()}
    used: set[str] = set()
    loaded: dict[str, Tensor] = {}
    for name, own in module.state_dict().items():
        if name.endswith(".num_batches_tracked"):
            continue
        base, vector, which = name.partition(".parametrizations.weight.0._")
        if vector:
            weight, u = (_renamed(module, f"{base}.{end}") for end in ("weight", "u0"))
            pair = _iterated(_taken(theirs, weight, file), _taken(theirs, u, file), file, u)
            loaded[name] = pair[which]
            used |= {weight, u, u.removesuffix("u0") + "sv0"}
        else:
            other = _renamed(module, name)
            loaded[name] = _taken(theirs, other, file)
            used.add(other)
        if loaded[name].shape != own.shape:
            reason = f"{tuple(loaded[name].shape)}, but the module's has {tuple(own.shape)}: its "
            raise InputError(
                file, _renamed(module, name), reason + "sizes or its diffusion model are others"
            )
    if extra := sorted(theirs.keys() - used):
        reason = f"{len(extra)} tensors that this module lacks, the first is {extra[0]!r}"
        raise InputError(file, "name", f"{reason}: the weights are of another module")
    module.load_state_dict(loaded, strict=False)  # all but the counters, which nothing reads


def _taken(tensors: Mapping[str, Any], name: str, file: Path) -> Tensor:
    found = tensors.get(name)
    if not isinstance(found, Tensor):
        raise InputError(file, name, "is missing: the weights are of another module")
    return found


def _iterated(weight: Tensor, u: Tensor, file: Path, name: str) -> dict[str, Tensor]:
    """The singular vectors after one power iteration from ``u`` (1, C)."""
    matrix = weight.float().flatten(1)
    if u.shape != (1, len(matrix)):
        raise InputError(file, name, f"shape {tuple(u.shape)}, not {(1, len(matrix))}")
    v = functional.normalize(u.float() @ matrix, dim=1, eps=EPSILON)
    u = functional.normalize(v @ matrix.T, dim=1, eps=EPSILON)
    return {"u": u[0], "v": v[0]}


def _unwrapped(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def _renamed(module: GroundingModule, name: str) -> str:
    """Their name of one of our tensors."""
    pyramid = module.config.pyramid

    def level(found: re.Match[str], later: int, kind: str) -> str:
        return f"{LEVELS[int(found[1]) + later]}_feature_{kind}"

    inner = "" if pyramid else ".0"
    name = re.sub(r"^encoder\.project\.(\d)", lambda found: level(found, 0, f"conv{inner}"), name)
    name = re.sub(r"^encoder\.mix\.(\d)", lambda found: level(found, 1, "mix_conv"), name)
    name = re.sub(r"^final\.", "final_feature_conv.", name)
    name = re.sub(r"^fusion\.enter\.", "input_mlp.", name)
    name = re.sub(r"^fusion\.leave\.", "output_mlp." if pyramid else "mlp.", name)
    # Linear layers lie between ReLUs, which theirs do not count.
    name = re.sub(r"mlp\.(\d)", lambda found: f"mlp.layers.{int(found[1]) // 2}", name)
    stage = r".\1" if pyramid else ""
    for part, known in (
        ("to_tokens", f"to_k{stage}"),
        ("to_queries", f"to_q{stage}"),
        ("layers", f"transfromer_decoder{stage}.layers"),  # their spelling
    ):
        name = re.sub(rf"^fusion\.stages\.(\d)\.{part}", known, name)
    name = re.sub(r"\.norms\.(\d)", lambda found: f".norm{int(found[1]) + 1}", name)
    for pattern, known in _ENDS:
        name = re.sub(pattern, known, name)
    return name
