"""CLIP-ES: Grad-CAM and its spreading against the same written plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scene_of_squares import MASKS, Squares, query, scene
from scipy import ndimage

from diffground.backbone.contrastive import Contrastive, unit
from diffground.papers.personalized.baselines import clip_es
from diffground.papers.personalized.baselines.clip_es import ClipEs, localise, refined
from diffground.papers.personalized.baselines.config import ClipEsConfig
from diffground.shipped import shipped

CONFIG = ClipEsConfig(template="a photo of a {}", background=("sky", "grass"))


@pytest.fixture(scope="module")
def clip() -> Contrastive:
    return Contrastive.from_pretrained(shipped("data/06_models/mini-clip"))


def test_grad_cam_is_the_gradient_of_the_probability(clip: Contrastive) -> None:
    """Weights are what the probability gains per channel, by finite differences of the network."""
    vision = clip.model.double().vision_model
    try:
        texts = unit(clip.texts(["a red ball", "sky", "grass"]))
        activations, logits, _, size = clip_es._seen(clip, scene(), texts, CONFIG)
        assert size == (4, 7) and activations.shape == (1, 29, 96)
        found = clip_es._grad_cam(activations, logits.softmax(-1)[0])
        hidden: list[torch.Tensor] = []
        hook = vision.encoder.layers[-1].register_forward_pre_hook(
            lambda module, inputs: hidden.append(inputs[0])
        )
        vision(clip_es._pixels(clip, scene(), None)[0], interpolate_pos_encoding=True)
        hook.remove()
        last, (state,) = vision.encoder.layers[-1], hidden
        scale = clip.model.logit_scale.exp()

        def probability(normed: torch.Tensor) -> float:
            """The network from the last layer's normed input on."""
            after = state + last.self_attn(hidden_states=normed, attention_mask=None)[0]
            after = after + last.mlp(last.layer_norm2(after))
            pooled = vision.post_layernorm(after)[0, 1:].mean(0)
            feature = unit(clip.model.visual_projection.weight @ pooled)
            return float((scale * texts @ feature).softmax(-1)[0])

        normed = last.layer_norm1(state)
        # A long step, for attention's softmax is in single precision; so from both sides.
        step, gains = 3e-3, []
        for channel in range(normed.shape[-1]):
            moved = torch.zeros_like(normed)
            moved[:, 1:, channel] = step  # of all patches at once: the sum of their gradients
            gains.append((probability(normed + moved) - probability(normed - moved)) / (2 * step))
    finally:
        clip.model.float()
    weights = torch.tensor(gains, dtype=torch.float64) / (normed.shape[1] - 1)
    wanted = (normed[0, 1:] @ weights).relu()
    assert wanted.max() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=float(wanted.max()) * 1e-2)


def test_spreading_is_that_of_the_public_code() -> None:
    rng = np.random.default_rng(0)
    cams, affinity = rng.random((2, 4, 5)), rng.random((20, 20))
    matrix = affinity.copy()
    for _ in range(3):
        matrix = matrix / matrix.sum(0)
        matrix = matrix / matrix.sum(1)[:, None]
    matrix = (matrix + matrix.T) / 2
    matrix = matrix @ matrix
    wanted = []
    for cam in cams:
        above = (cam * 255).astype(np.uint8) > int(0.4 * int((cam * 255).astype(np.uint8).max()))
        box = np.zeros(cam.shape)
        components, _ = ndimage.label(above, structure=np.ones((3, 3)))
        for rows, columns in ndimage.find_objects(components):
            box[rows.start : min(rows.stop, 3), columns.start : min(columns.stop, 4)] = 1
        transition = matrix * box.reshape(1, -1)
        wanted.append((transition @ cam.reshape(-1, 1)).reshape(4, 5))
    found = refined(torch.from_numpy(cams), torch.from_numpy(affinity), 0.4)
    np.testing.assert_allclose(found.numpy(), np.stack(wanted), rtol=1e-9)


def test_maps_of_sentences(clip: Contrastive) -> None:
    sentences = clip.texts(["a photo of a red ball", "a photo of a blue ball"])
    maps = localise(clip, scene(), sentences, CONFIG)
    assert maps.shape == (2, 4, 7) and not maps.requires_grad
    assert 0 <= float(maps.min()) and float(maps.max()) <= 1
    alone = localise(clip, scene(), sentences[1:], CONFIG)
    torch.testing.assert_close(maps[1:], alone), "who else is asked for changes nothing"
    assert not clip.model.vision_model.encoder.layers[-1].layer_norm1._forward_hooks
    fine = localise(clip, scene(), sentences[:1], CONFIG.model_copy(update={"short_side": 128}))
    assert fine.shape == (1, 8, 14)


def test_relevance_is_the_mean_of_the_map(clip: Contrastive) -> None:
    words = {"mug01": clip.word("red"), "mug02": clip.word("blue")}
    row = ClipEs(clip, lambda asked: words[asked.item], Squares(), CONFIG)
    asked = [query("mug01", ()), query("mug02", (), "an empty mug")]
    assert row.segments(scene(), asked, item="s", seed=0) is MASKS
    table = row.relevance(scene(), MASKS, asked, item="s", seed=0)
    sentences = clip.texts(["a photo of a red mug filled with cola", "a photo of a empty blue mug"])
    maps = localise(clip, scene(), sentences, CONFIG)
    np.testing.assert_allclose(table[0], [_mean(maps[0], mask) for mask in MASKS], rtol=1e-5)
    assert table.shape == (2, 2) and np.isfinite(table).all()
    none = row.relevance(scene(), np.zeros((0, 64, 112), bool), asked, item="s", seed=0)
    assert none.shape == (2, 0)


def _mean(grid: torch.Tensor, mask: np.ndarray) -> float:
    cells = torch.from_numpy(mask).float().view(4, 16, 7, 16).mean((1, 3))
    return float((grid * cells).sum() / cells.sum())
