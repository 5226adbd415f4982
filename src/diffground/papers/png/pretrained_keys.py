"""The names of MLMA's and the decoder's tensors in checkpoints of Mask2Former: the key map.

Mask2Former's own self-attention packs query, key and value in one matrix: ``…in_proj_*[k]`` is its
k-th third. All else is renaming, since levels are counted coarse to fine in the names, and in the
rows of ``sampling_offsets`` and ``attention_weights``, of all three.

The learned queries and the category head have no counterpart here and are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HUB, ORIGINAL = 1, 2  # columns: transformers', Mask2Former's own
ANCHORS = {HUB: ("pixel_level_module.", "transformer_module."), ORIGINAL: ("sem_seg_head.",)}

#: Blocks of tensors that are loaded together or not at all, by prefix, and what follows it. Columns
#: are ours, a transformers folder's, and those of Mask2Former's own code, which ODISE shares; of
#: two names the first is both ours and transformers', a single one is everybody's. ``{i}`` is a
#: number, ``{n}`` 0 or 1, ``{p}`` weight or bias; words in capitals are those of ``_SHORT``.
TABLE: Final = """
mlma.layers.{i}.deformable  PIXEL.encoder.layers.{i}  PIXEL.transformer.encoder.layers.{i}
    self_attn.sampling_offsets.{p}
    self_attn.attention_weights.{p}
    self_attn.value_proj.{p}
    self_attn.output_proj.{p}
    self_attn_layer_norm.{p}    norm1.{p}
    fc1.{p}                     linear1.{p}
    fc2.{p}                     linear2.{p}
    final_layer_norm.{p}        norm2.{p}
mlma                        PIXEL                     PIXEL
    level_embed                 transformer.level_embed
mlma.image_projections.{i}  PIXEL.input_projections.{i}  PIXEL.input_proj.{i}
    {n}.{p}
mask_feature.lateral        PIXEL.adapter_1           PIXEL.adapter_1
    0.{p}                       {p}
    1.{p}                       norm.{p}
mask_feature.output         PIXEL.layer_1             PIXEL.layer_1
    0.{p}                       {p}
    1.{p}                       norm.{p}
mask_feature.projection     PIXEL.mask_projection     PIXEL.mask_features
    {p}
decoder.layers.{i}          PREDICTOR.decoder.layers.{i}  PREDICTOR
    cross_attn.in_proj_{p}      transformer_cross_attention_layers.{i}.multihead_attn.in_proj_{p}
    cross_attn.out_proj.{p}     transformer_cross_attention_layers.{i}.multihead_attn.out_proj.{p}
    cross_attn_layer_norm.{p}   transformer_cross_attention_layers.{i}.norm.{p}
    self_attn.q_proj.{p}        transformer_self_attention_layers.{i}.self_attn.in_proj_{p}[0]
    self_attn.k_proj.{p}        transformer_self_attention_layers.{i}.self_attn.in_proj_{p}[1]
    self_attn.v_proj.{p}        transformer_self_attention_layers.{i}.self_attn.in_proj_{p}[2]
    self_attn.out_proj.{p}      transformer_self_attention_layers.{i}.self_attn.out_proj.{p}
    self_attn_layer_norm.{p}    transformer_self_attention_layers.{i}.norm.{p}
    fc1.{p}                     transformer_ffn_layers.{i}.linear1.{p}
    fc2.{p}                     transformer_ffn_layers.{i}.linear2.{p}
    final_layer_norm.{p}        transformer_ffn_layers.{i}.norm.{p}
decoder.layernorm           PREDICTOR.decoder.layernorm  PREDICTOR.decoder_norm
    {p}
decoder.mask_embedder  PREDICTOR.decoder.mask_predictor.mask_embedder  PREDICTOR.mask_embed.layers
    {i}.0.{p}                   {i}.{p}
decoder                     PREDICTOR                 PREDICTOR
    level_embed                 level_embed.weight        level_embed.weight
"""
_SHORT = {
    HUB: {"PIXEL": "pixel_level_module.decoder", "PREDICTOR": "transformer_module"},
    ORIGINAL: {"PIXEL": "sem_seg_head.pixel_decoder", "PREDICTOR": "sem_seg_head.predictor"},
}
_FIELDS = {"i": r"(?P<i>\d+)", "n": r"(?P<n>[01])", "p": r"(?P<p>weight|bias)"}

Columns = tuple[str, str, str]  # ours, transformers', Mask2Former's own


@dataclass(frozen=True)
class Block:
    """Tensors that are loaded together or not at all, and their names (without the prefixes)."""

    prefixes: Columns
    rows: tuple[Columns, ...]


def _columns(line: str) -> Columns:
    names = line.split()
    ours, hub, original = names if len(names) == 3 else (names[0], names[0], names[-1])
    for word in ("PIXEL", "PREDICTOR"):
        hub = hub.replace(word, _SHORT[HUB][word])
        original = original.replace(word, _SHORT[ORIGINAL][word])
    return ours, hub, original


BLOCKS = tuple(
    Block(_columns(prefixes), tuple(map(_columns, rows)))
    for prefixes, *rows in map(str.splitlines, re.split(r"\n(?=\S)", TABLE.strip()))
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
