"""Descriptors of vision transformers: keys, saliency, sizes, and folders that are no such thing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from diffground.errors import InputError
from diffground.segmenters.vit import VitDescriptors, similarity

HALF = [0.5, 0.5, 0.5]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
         "patch_size": 4, "intermediate_size": 32}  # fmt: skip


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def network() -> ViTModel:
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, attn_implementation="eager")
    return ViTModel(config, add_pooling_layer=False).eval()


def test_keys_and_saliency_are_those_of_the_network(network: ViTModel) -> None:
    image = picture(12, 20)  # of another shape than what it was made for
    found = VitDescriptors(network, HALF, HALF)(image, short_side=12, layer=0)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    output = network(
        pixels, interpolate_pos_encoding=True, output_hidden_states=True, output_attentions=True
    )
    layer = network.layers[0]
    keys = layer.attention.k_proj(layer.layernorm_before(output.hidden_states[0]))[0, 1:]
    torch.testing.assert_close(found.keys, keys.T.view(16, 3, 5))
    attention = output.attentions[-1][0, :, 0, 1:].mean(0).view(3, 5)
    low, high = attention.min(), attention.max()
    torch.testing.assert_close(found.saliency, (attention - low) / (high - low))
    states = output.last_hidden_state[0, 1:].T.view(16, 3, 5)
    torch.testing.assert_close(found.states, states)


def test_sides_become_multiples_of_the_patch(network: ViTModel) -> None:
    vit = VitDescriptors(network, HALF, HALF)
    assert vit(picture(64, 113), short_side=16).keys.shape == (16, 4, 7)
    assert vit(picture(113, 64), short_side=18).saliency.shape == (8, 4)
    assert vit(picture(2, 90), short_side=4).keys.shape == (16, 1, 45)
    assert not network.layers[0].attention.k_proj._forward_hooks, "nothing stays behind"


def test_dinov2_is_described_too(tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16,
                          patch_size=4)  # fmt: skip
    Dinov2Model(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": HALF, "image_std": HALF})
    )
    vit = VitDescriptors.from_pretrained(tmp_path)
    assert vit(picture(16, 32), short_side=16).keys.shape == (16, 4, 8)
    assert vit.layers == 2


def test_similarity_is_the_largest_cosine() -> None:
    references = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    descriptors = torch.tensor([[0.0, 2.0], [1.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(
        similarity(descriptors, references), torch.tensor([1.0, 0.5**0.5, 0.0])
    )


def test_folders_that_are_none(network: ViTModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config.json"):
        VitDescriptors.from_pretrained(tmp_path)
    network.save_pretrained(tmp_path)
    scale = tmp_path / "preprocessor_config.json"
    with pytest.raises(InputError, match="preprocessor_config.json"):
        VitDescriptors.from_pretrained(tmp_path)
    scale.write_text(json.dumps({"image_mean": HALF}))
    with pytest.raises(InputError, match="image_std: three numbers"):
        VitDescriptors.from_pretrained(tmp_path)
    scale.write_text(json.dumps({"image_mean": HALF, "image_std": HALF}))
    vit = VitDescriptors.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="layer: 2, but the vision transformer has 2 layers"):
        vit(picture(16, 16), short_side=16, layer=2)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "clip"}))
    with pytest.raises(InputError, match="model_type: 'clip', not one of vit, dinov2"):
        VitDescriptors.from_pretrained(tmp_path)
