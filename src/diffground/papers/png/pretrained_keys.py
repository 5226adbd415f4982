"""The names of MLMA's and the decoder's tensors in checkpoints of Mask2Former: the key map.

The first column is ours, the second that of a transformers folder, the third that of Mask2Former's
own code, which ODISE shares (``BLOCKS`` has it in full; ``*`` is weight and bias)::

    ours                              transformers                   Mask2Former, ODISE
                                      pixel_level_module.decoder.    sem_seg_head.pixel_decoder.
    mlma.layers.0.deformable.self_…   encoder.layers.0.self_…        transformer.encoder.layers.0.…
    mlma.level_embed                  level_embed                    transformer.level_embed
    mlma.image_projections.0.*        input_projections.0.*          input_proj.0.*
    mask_feature.lateral.*            adapter_1.*                    adapter_1.*
    mask_feature.output.*             layer_1.*                      layer_1.*
    mask_feature.projection.*         mask_projection.*              mask_features.*
                                      transformer_module.            sem_seg_head.predictor.
    decoder.layers.0.cross_attn…      decoder.layers.0.cross_attn…   transformer_cross_attention_…
    decoder.layers.0.self_attn…       decoder.layers.0.self_attn…    transformer_self_attention_…
    decoder.layers.0.fc1…             decoder.layers.0.fc1…          transformer_ffn_layers.0.…
    decoder.layernorm.*               decoder.layernorm.*            decoder_norm.*
    decoder.mask_embedder.0.0.*       decoder.mask_predictor.…       mask_embed.layers.0.*
    decoder.level_embed               level_embed.weight             level_embed.weight

Mask2Former's own self-attention packs query, key and value in one matrix: ``…in_proj_*[k]`` is its
k-th third. All else is renaming, since levels are counted coarse to fine in the names, and in the
rows of ``sampling_offsets`` and ``attention_weights``, of all three.

The learned queries and the category head have no counterpart here and are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HUB, ORIGINAL = 1, 2  # columns: transformers', Mask2Former's own
ANCHORS = {HUB: ("pixel_level_module.", "transformer_module."), ORIGINAL: ("sem_seg_head.",)}
_FIELDS = {"i": r"(?P<i>\d+)", "n": r"(?P<n>[01])", "p": r"(?P<p>weight|bias)"}


@dataclass(frozen=True)
class Block:
    """Tensors that are loaded together or not at all, and their names (without the prefixes).

    In names, ``{i}`` is a number, ``{n}`` 0 or 1, and ``{p}`` weight or bias.
    """

    prefixes: tuple[str, str, str]  # ours, transformers', Mask2Former's own
    rows: tuple[tuple[str, str, str], ...]


_PIXEL = ("pixel_level_module.decoder", "sem_seg_head.pixel_decoder")
_PREDICTOR = "sem_seg_head.predictor"
_CONV_NORM = (("0.{p}", "0.{p}", "{p}"), ("1.{p}", "1.{p}", "norm.{p}"))
_CROSS = "transformer_cross_attention_layers.{i}"
_SELF = "transformer_self_attention_layers.{i}"
_FFN = "transformer_ffn_layers.{i}"

BLOCKS = (
    Block(
        (
            "mlma.layers.{i}.deformable",
            _PIXEL[0] + ".encoder.layers.{i}",
            _PIXEL[1] + ".transformer.encoder.layers.{i}",
        ),
        (
            *(
                (f"self_attn.{part}.{{p}}",) * 3
                for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
            ),
            ("self_attn_layer_norm.{p}", "self_attn_layer_norm.{p}", "norm1.{p}"),
            ("fc1.{p}", "fc1.{p}", "linear1.{p}"),
            ("fc2.{p}", "fc2.{p}", "linear2.{p}"),
            ("final_layer_norm.{p}", "final_layer_norm.{p}", "norm2.{p}"),
        ),
    ),
    Block(("mlma", *_PIXEL), (("level_embed", "level_embed", "transformer.level_embed"),)),
    Block(
        (
            "mlma.image_projections.{i}",
            _PIXEL[0] + ".input_projections.{i}",
            _PIXEL[1] + ".input_proj.{i}",
        ),
        (("{n}.{p}",) * 3,),
    ),
    Block(("mask_feature.lateral", f"{_PIXEL[0]}.adapter_1", f"{_PIXEL[1]}.adapter_1"), _CONV_NORM),
    Block(("mask_feature.output", f"{_PIXEL[0]}.layer_1", f"{_PIXEL[1]}.layer_1"), _CONV_NORM),
    Block(
        ("mask_feature.projection", f"{_PIXEL[0]}.mask_projection", f"{_PIXEL[1]}.mask_features"),
        (("{p}",) * 3,),
    ),
    Block(
        ("decoder.layers.{i}", "transformer_module.decoder.layers.{i}", _PREDICTOR),
        (
            *(
                (f"cross_attn.{name}", f"cross_attn.{name}", f"{_CROSS}.multihead_attn.{name}")
                for name in ("in_proj_{p}", "out_proj.{p}")
            ),
            ("cross_attn_layer_norm.{p}", "cross_attn_layer_norm.{p}", f"{_CROSS}.norm.{{p}}"),
            *(
                (f"self_attn.{x}.{{p}}", f"self_attn.{x}.{{p}}", f"{_SELF}.self_attn.{packed}")
                for x, packed in (
                    ("q_proj", "in_proj_{p}[0]"),
                    ("k_proj", "in_proj_{p}[1]"),
                    ("v_proj", "in_proj_{p}[2]"),
                    ("out_proj", "out_proj.{p}"),
                )
            ),
            ("self_attn_layer_norm.{p}", "self_attn_layer_norm.{p}", f"{_SELF}.norm.{{p}}"),
            ("fc1.{p}", "fc1.{p}", f"{_FFN}.linear1.{{p}}"),
            ("fc2.{p}", "fc2.{p}", f"{_FFN}.linear2.{{p}}"),
            ("final_layer_norm.{p}", "final_layer_norm.{p}", f"{_FFN}.norm.{{p}}"),
        ),
    ),
    Block(
        (
            "decoder.layernorm",
            "transformer_module.decoder.layernorm",
            f"{_PREDICTOR}.decoder_norm",
        ),
        (("{p}",) * 3,),
    ),
    Block(
        (
            "decoder.mask_embedder",
            "transformer_module.decoder.mask_predictor.mask_embedder",
            f"{_PREDICTOR}.mask_embed.layers",
        ),
        (("{i}.0.{p}", "{i}.0.{p}", "{i}.{p}"),),
    ),
    Block(
        ("decoder", "transformer_module", _PREDICTOR),
        (("level_embed", "level_embed.weight", "level_embed.weight"),),
    ),
)


def source_key(name: str, column: int) -> tuple[str, str] | None:
    """The block that one of our tensors belongs to, and its name in the source."""
    for block in BLOCKS:
        for row in block.rows:
            template = re.escape(f"{block.prefixes[0]}.{row[0]}")
            pattern = re.sub(r"\\\{(\w)\\\}", lambda field: _FIELDS[field[1]], template)
            if match := re.fullmatch(pattern, name):
                fields = match.groupdict()
                key = f"{block.prefixes[column]}.{row[column]}"
                return block.prefixes[0].format(**fields), key.format(**fields)
    return None
