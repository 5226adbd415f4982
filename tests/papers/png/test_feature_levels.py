"""Where image and phrase levels are in a UNet."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffground.backbone.layers import CROSS_SITES, cross_sites
from diffground.errors import InputError
from diffground.papers.png.eipa import insertion_sites
from diffground.papers.png.feature_levels import ImageLevels, phrase_levels, site_stride

SD15 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
}


def unet(**options) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**options)


def test_stable_diffusion_1():
    model = unet(**SD15)
    levels = ImageLevels.of(model)
    assert levels.modules == (
        "up_blocks.3.attentions.2",
        "up_blocks.2.attentions.2",
        "up_blocks.1.attentions.2",
    )
    assert levels.widths == (320, 640, 1280)
    both = insertion_sites(CROSS_SITES, "both")
    assert [both[i] for i in phrase_levels(both, model)] == [
        f"up_blocks.{block}.attentions.2.transformer_blocks.0.attn2" for block in (3, 2, 1)
    ]
    encoder = insertion_sites(CROSS_SITES, "encoder")
    assert [encoder[i] for i in phrase_levels(encoder, model)] == [
        f"down_blocks.{block}.attentions.1.transformer_blocks.0.attn2" for block in (0, 1, 2)
    ]


def test_sdxl_has_no_adapter_at_the_finest_level():
    model = unet(**SDXL)
    levels = ImageLevels.of(model)
    assert levels.modules[0].startswith("up_blocks.2.resnets.")
    assert levels.modules[1:] == ("up_blocks.1.attentions.2", "up_blocks.0.attentions.2")
    assert levels.widths == (320, 640, 1280)
    sites = insertion_sites(cross_sites(model), "both")
    fine, middle, coarse = (sites[i] for i in phrase_levels(sites, model))
    assert fine == middle == "up_blocks.1.attentions.2.transformer_blocks.1.attn2"
    assert coarse == "up_blocks.0.attentions.2.transformer_blocks.9.attn2"
    assert {site_stride(site, model) for site in sites} == {2, 4}


def test_a_unet_of_two_resolutions_is_refused():
    small = unet(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
    )
    with pytest.raises(InputError, match="up_blocks"):
        ImageLevels.of(small)
