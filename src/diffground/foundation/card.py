"""The model card that is shipped with the mini models: what they are, and how good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffground.foundation.config import FoundationRecipe

FIGURES = {
    "vae_psnr": "autoencoder, PSNR (dB)",
    "cross_thing_iou": "Cross, IoU of things",
    "cross_stuff_iou": "Cross, IoU of stuff",
    "selfcross_thing_iou": "SelfCross, IoU of things",
    "selfcross_stuff_iou": "SelfCross, IoU of stuff",
    "self_effective_positions": "pixels that a row of the self map spreads over",
    "segmenter_ap50": "segmenter, AP50 of things",
    "generation_both_found": "both things found in generated images",
    "clip_retrieval_at_1_of_32": "CLIP, own prompt first of 32",
}


def model_card(
    recipe: FoundationRecipe,
    size: int,
    losses: Mapping[str, Mapping[str, float]],
    quality: Mapping[str, Any],
) -> str:
    """The card as Markdown. ``losses`` has the last row of each part's training history."""
    trainings = {
        "draft": recipe.segmenter.train,
        "autoencoder": recipe.autoencoder.train,
        "diffusion": recipe.diffusion.train,
        "clip": recipe.clip.train,
        "segmenter": recipe.segmenter.refine,
    }
    training = [(part, config, losses[part]) for part, config in trainings.items()]
    if recipe.diffusion.refine is not None:  # the diffusion model's last losses are of this part
        training[2] = ("diffusion", recipe.diffusion.train, {})
        training.insert(3, ("its refinement", recipe.diffusion.refine.train, losses["diffusion"]))
    lines = [
        "# The mini models of diffground",
        "",
        "Trained from nothing on procedurally rendered scenes, to stand in for weights that are",
        "too large to ship. Every figure made with them is a *mini-world* figure.",
        "",
        f"Recipe `{recipe.name}` (`kedro run --pipelines foundation`), "
        f"{recipe.scenes.count} scenes of seed {recipe.scenes.seed}, "
        f"{size} x {size} pixels.",
        "",
        "| part | steps | batch | learning rate | seed | last losses (of a mean over log_every) |",
        "|---|---|---|---|---|---|",
    ]
    for part, config, last in training:
        kept = {k: v for k, v in last.items() if k not in ("lr", "step")}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in kept.items())
        lines.append(
            f"| {part} | {config.max_steps} | {config.batch_size} | {config.learning_rate:g} "
            f"| {config.seed} | {shown} |"
        )
    lines += [
        "",
        f"Quality on {quality['config']['scenes']} held-out scenes "
        "(`kedro run --pipelines foundation_eval`):",
        "",
        "| figure | value |",
        "|---|---|",
    ]
    lines += [f"| {label} | {quality[key]:.3f} |" for key, label in FIGURES.items()]
    way = quality["config"]
    lines += [
        "",
        f"SelfCross above is {way['iterations']} iteration(s) with the self map's rows to the "
        f"power {way['sharpen']:g}; others (the paper's is 2, power 1), as things / stuff:",
        "",
    ]
    lines += [
        f"- {row['iterations']} iteration(s), power {row['sharpen']:g}: "
        f"{row['thing_iou']:.3f} / {row['stuff_iou']:.3f}"
        for row in quality["selfcross_variants"]
    ]
    lines += [
        "",
        f"Layers that localise: {quality['layers']['note']}.",
        f"Cross {', '.join(f'`{name}`' for name in quality['layers']['cross'])}; "
        f"self `{quality['layers']['self_layer']}`.",
        "",
        "The diffusion model never saw a mask: its attention localises because it learned to",
        "denoise. The segmenter is trained on the world's masks. Weights are in half precision.",
        "",
    ]
    return "\n".join(lines)
