"""Text2Mask's public code, step by step and without any of our shortcuts, for one image.

The classifier-free pair is run through the whole UNet, every attention matrix that is read is
written out, Self is squared, and the box mask multiplies its columns. Its second, discarded sampler
step is the only thing left out. Random numbers are those of our seeds.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from text2mask_golden import content_size
from torch.nn import functional

from diffground.attention.queries import Prompt
from diffground.backbone.frozen import FrozenDiffusion
from diffground.seeds import derive_seed

CROSS = (
    "down_blocks.2.attentions.0",
    "down_blocks.2.attentions.1",
    "mid_block.attentions.0",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
)
SELF = "up_blocks.2.attentions.1"
ROOT = Path(__file__).parents[1]


@torch.no_grad()
def reference(
    model: FrozenDiffusion,
    image: np.ndarray,
    prompt: Prompt,
    *,
    item: str,
    seed: int,
    noises: int = 1,
    threshold: float = 0.5,
    boxes: float = 0.2,
    timestep: int = 150,
    native: int = 512,
) -> dict[str, Any]:
    """``maps`` (K, h, w) on the grid, ``high_res`` (K+1, H, W), ``initial`` (H, W) of indices."""
    # 1. Image: long side by aspect ratio, the other side cut, padded right and bottom.
    height, width = image.shape[:2]
    content = content_size(height, width, native)
    padded = tuple(math.ceil(side / 64) * 64 for side in content)
    small = Image.fromarray(image).resize((content[1], content[0]), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (padded[1], padded[0]), (123, 117, 104))
    canvas.paste(small, (0, 0))
    pixels = torch.from_numpy(np.array(canvas)).float().permute(2, 0, 1)[None] / 255 * 2 - 1

    # 2. Latent: a sample of the posterior, once.
    def gaussian(like: torch.Tensor, draw: str) -> torch.Tensor:
        random = torch.Generator().manual_seed(derive_seed(seed, item, draw))
        return torch.randn(like.shape[1:], generator=random)[None]

    posterior = model.vae.encode(pixels).latent_dist
    drawn = posterior.mean + posterior.std * gaussian(posterior.mean, "vae")
    latent = model.vae.config.scaling_factor * drawn

    # 3. Text: 77 tokens, the rest is cut off; a class has every token under its letters.
    tokenizer, encoder = model.tokenizers[0], model.text_encoders[0]
    texts = tokenizer(
        ["", prompt.text],
        padding="max_length",
        truncation=True,
        max_length=77,
        return_tensors="pt",
        return_offsets_mapping=True,
    )
    context = encoder(texts.input_ids).last_hidden_state
    offsets = texts.offset_mapping[1].tolist()
    classes = [phrase for phrase in prompt.phrases if not phrase.background]
    tokens = [
        [
            index
            for index, (first, last) in enumerate(offsets)
            if any(first < end and last > start for start, end in phrase.spans)
        ]
        for phrase in classes
    ]

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # SD 1.x
    alpha = float((1 - betas).cumprod(0)[timestep])
    selfcross = []
    for draw in range(noises):
        # 4. One pass with and without the prompt; what is read is of the half with it.
        noise = gaussian(latent, f"noise {draw}")
        noisy = math.sqrt(alpha) * latent + math.sqrt(1 - alpha) * noise
        caught = _attention_of_a_pass(model.unet, noisy, timestep, context)

        # 5. Cross: tokens, then bilinearly to the self layer's grid, then the layers' mean.
        affinity = caught[f"{SELF}.transformer_blocks.0.attn1"]
        h, w = (side // model.latent_stride // 2 for side in padded)
        assert affinity.shape == (h * w, h * w)
        squared = affinity @ affinity
        of_layers = []
        for layer in CROSS:
            probabilities = caught[f"{layer}.transformer_blocks.0.attn2"]  # (n, 77)
            step = round(math.sqrt(h * w / len(probabilities)))
            grid = probabilities.T.reshape(77, h // step, w // step)
            chosen = torch.stack([grid[index].mean(dim=0) for index in tokens])
            of_layers.append(functional.interpolate(chosen[None], (h, w), mode="bilinear")[0])
        cross = torch.stack(of_layers).mean(dim=0)

        # 6. Min-max, boxes, propagation, min-max.
        of_classes = []
        for one in cross:
            normalised = (one - one.min()) / (one.max() - one.min())
            mask = _boxes(normalised.numpy(), boxes)
            transition = squared * torch.from_numpy(mask).to(squared).reshape(1, h * w)
            propagated = (transition @ normalised.double().reshape(h * w, 1)).reshape(h, w)
            span = propagated.max() - propagated.min()
            of_classes.append((propagated - propagated.min()) / span)
        selfcross.append(torch.stack(of_classes))
    maps = torch.stack(selfcross).mean(dim=0)

    # 7. Background, and back to the image in both ways.
    background = (2 * threshold - maps.max(dim=0).values) ** 2
    every = torch.cat([background[None], maps])
    high = functional.interpolate(every[None], padded, mode="bilinear", align_corners=False)
    high = high[:, :, : content[0], : content[1]]
    high = functional.interpolate(high, (height, width), mode="bilinear", align_corners=False)[0]
    initial = functional.interpolate(every.argmax(dim=0)[None, None].float(), padded)
    initial = functional.interpolate(initial[:, :, : content[0], : content[1]], (height, width))
    return {"maps": maps, "high_res": high, "initial": initial[0, 0].numpy().astype(np.uint8)}


def _attention_of_a_pass(
    unet: Any, noisy: torch.Tensor, timestep: int, context: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The conditional half's probabilities (queries, keys), mean over heads, in double."""
    caught: dict[str, torch.Tensor] = {}
    handles = []

    def catching(name: str) -> Any:
        def hook(attention: Any, args: Any, kwargs: Any) -> None:
            hidden = (args[0] if args else kwargs["hidden_states"])[1]
            cross = name.endswith("attn2")
            keys = kwargs["encoder_hidden_states"][1] if cross else hidden
            heads = attention.heads
            query = attention.to_q(hidden).double().unflatten(-1, (heads, -1))  # (N, H, d)
            key = attention.to_k(keys).double().unflatten(-1, (heads, -1))
            width = query.shape[-1]
            caught[name] = sum(
                (query[:, head] @ key[:, head].T / math.sqrt(width)).softmax(dim=1)
                for head in range(heads)
            ) / torch.tensor(heads, dtype=torch.float64)

        return hook

    for name, module in unet.named_modules():
        wanted = {f"{SELF}.transformer_blocks.0.attn1"}
        wanted |= {f"{layer}.transformer_blocks.0.attn2" for layer in CROSS}
        if name in wanted:
            handles.append(module.register_forward_pre_hook(catching(name), with_kwargs=True))
    unet(torch.cat([noisy, noisy]), timestep, encoder_hidden_states=context)
    for handle in handles:
        handle.remove()
    return caught


def _boxes(heat: np.ndarray, threshold: float) -> np.ndarray:
    """The union of all boxes, whose last row and column are cut off at the border."""
    height, width = heat.shape
    levels = (heat.astype(np.float32) * 255).astype(np.uint8)
    labels, count = ndimage.label(levels > int(threshold * levels.max()), np.ones((3, 3)))
    mask = np.zeros((height, width))
    for number in range(1, count + 1):
        ys, xs = np.nonzero(labels == number)
        x0, y0 = xs.min(), ys.min()
        x1, y1 = x0 + (xs.max() - x0 + 1), y0 + (ys.max() - y0 + 1)
        mask[y0 : min(y1, height - 1), x0 : min(x1, width - 1)] = 1
    return mask
