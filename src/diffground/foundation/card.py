"""The model card that is shipped with the mini models: what they are, and how good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffground.foundation.config import FoundationRecipe
from diffground.training.config import TrainConfig
from diffground.world.config import WorldConfig

FIGURES = {
    "vae_psnr": "autoencoder, PSNR (dB)",
    "found_in_renders": "things found in renders",
    "found_in_reconstructions": "things found in reconstructions, of those found in renders",
    "found_each": "each of two things found in generated images",
    "found_each_by_chance": "the same, asked for another prompt's things",
    "generation_both_found": "both things found in generated images",
    "generation_both_found_by_chance": "the same, asked for another prompt's things",
    "found_each_bare": 'each found, prompts as "a photo of a ball and a cat"',
    "generation_both_found_bare": 'both found, prompts as "a photo of a ball and a cat"',
    "found_alone_bare": 'found, prompts as "a photo of a ball"',
    "cross_thing_iou": "Cross, IoU of things",
    "cross_stuff_iou": "Cross, IoU of stuff",
    "cross_thing_iou_bare": "Cross, IoU of things, bare names",
    "cross_stuff_iou_bare": "Cross, IoU of stuff, bare names",
    "selfcross_thing_iou_paper": "SelfCross (2 iterations, power 1), IoU of things",
    "selfcross_stuff_iou_paper": "SelfCross (2 iterations, power 1), IoU of stuff",
    "self_effective_positions": "pixels that a row of the self map spreads over",
    "segmenter_ap50": "segmenter, AP50 of things",
    "clip_retrieval_at_1_of_32": "CLIP, own prompt first of 32",
}

_Training = tuple[str, TrainConfig, Mapping[str, float]]


def model_card(
    recipe: FoundationRecipe,
    world: WorldConfig,
    losses: Mapping[str, Mapping[str, float]],
    quality: Mapping[str, Any],
    turbo: Mapping[str, Any],
) -> str:
    """The card as Markdown. ``losses`` has the last row of each training's history.

    ``quality`` are the figures of :mod:`.quality`, ``turbo`` those of :mod:`.few_steps`.
    """
    source, sizes = recipe.scenes, ", ".join(f"{size:g}" for size in world.sizes)
    lines = [
        "# The mini models of diffground",
        "",
        "Trained from nothing on procedurally rendered scenes, to stand in for weights that are",
        "too large to ship. Every figure made with them is a *mini-world* figure.",
        "",
        f"Recipe `{recipe.name}` (`kedro run --pipelines foundation`): {recipe.cost}. "
        f"{source.count} scenes of seed {source.seed}, {world.size} x {world.size} pixels, "
        f"{source.simple:.0%} of them of one or two single things and {source.mugs:.0%} of mugs "
        f"alone, none of the personal ones; things are {sizes} of the height where there are 1, 2, "
        "... of them.",
        "",
        "| part | steps | batch | learning rate | seed | last losses (of a mean over log_every) |",
        "|---|---|---|---|---|---|",
    ]
    for part, config, last in _trainings(recipe, losses):
        kept = {k: v for k, v in last.items() if k not in ("lr", "step")}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in kept.items())
        lines.append(
            f"| {part} | {config.max_steps} | {config.batch_size} | {config.learning_rate:g} "
            f"| {config.seed} | {shown} |"
        )
    lines += ["", *_quality(quality), "", *_turbo(recipe, turbo), ""]
    lines += [
        f"Layers that localise: {quality['layers']['note']}.",
        f"Cross {', '.join(f'`{name}`' for name in quality['layers']['cross'])}; "
        f"self `{quality['layers']['self_layer']}`.",
        "",
        "The diffusion model never saw a mask: its attention localises because it learned to",
        "denoise. The segmenter is trained on the world's masks, and the features of its first",
        "draft judge the autoencoder. The ViT saw pictures alone. Weights are in half precision.",
        "",
    ]
    return "\n".join(lines)


def _trainings(
    recipe: FoundationRecipe, losses: Mapping[str, Mapping[str, float]]
) -> Iterator[_Training]:
    """Every training, in the order of the recipe."""
    yield "draft of the segmenter", recipe.segmenter.train, losses["draft"]
    yield "autoencoder", recipe.autoencoder.train, losses["autoencoder"]
    yield "its decoder alone", recipe.autoencoder.refine, losses["autoencoder/refine"]
    for number, phase in enumerate(recipe.diffusion.phases, 1):
        name = f"diffusion, phase {number}: t = 1000 u^{phase.timestep_power:g}"
        if phase.bare:
            name += f", {phase.bare:.0%} of prompts bare"
        yield name, phase.train, losses[f"diffusion/phase-{number}"]
    phase = recipe.turbo.pretrain
    name = f"turbo on scenes: t = 1000 u^{phase.timestep_power:g}, {phase.bare:.0%} of prompts bare"
    yield name, phase.train, losses["turbo/pretrain"]
    yield "turbo, distilled", recipe.turbo.distil.train, losses["turbo/distil"]
    yield "clip", recipe.clip.train, losses["clip"]
    yield "vit", recipe.vit.train, losses["vit"]
    yield "segmenter, on from the draft", recipe.segmenter.refine, losses["segmenter"]


def _quality(quality: Mapping[str, Any]) -> Iterator[str]:
    """The figures as a table of all worlds, and SelfCross in its variants."""
    config, worlds = quality["config"], quality["per_eval_seed"]
    yield (
        f"Quality (`kedro run --pipelines foundation_eval`) on {config['scenes']} held-out scenes "
        f"and {config['images']} prompts of each of {len(worlds)} worlds, mean and standard "
        "deviation (n - 1) over them:"
    )
    yield ""
    yield f"| figure | mean | deviation | {' | '.join(f'seed {seed}' for seed in worlds)} |"
    yield "|---" * (3 + len(worlds)) + "|"
    for key, label in FIGURES.items():
        deviation = quality["deviation"].get(key)
        cells = [quality[key], *(world[key] for world in worlds.values())]
        mean, *each = (f"{value:.3f}" for value in cells)
        spread = "" if deviation is None else f"{deviation:.3f}"
        yield f"| {label} | {' | '.join([mean, spread, *each])} |"
    yield ""
    yield "SelfCross in other ways, the paper's is 2 iterations and power 1 (things / stuff):"
    yield ""
    for row in quality["selfcross_variants"]:
        yield (
            f"- {row['iterations']} iteration(s), rows to the power {row['sharpen']:g}: "
            f"{row['thing_iou']:.3f} / {row['stuff_iou']:.3f}"
        )


def _turbo(recipe: FoundationRecipe, turbo: Mapping[str, Any]) -> Iterator[str]:
    """What the distilled model is, and its figures beside its teacher's."""
    source, config = recipe.turbo.trajectories, turbo["config"]
    yield (
        "`mini-sdxl-turbo` has SDXL's topology (three levels, no attention on the first, two text "
        "encoders of one layer, pooled text and time ids) and the same autoencoder, distilled "
        f"from {source.count} trajectories of the mini Stable Diffusion ({source.steps} steps, "
        f"guidance {source.guidance:g}), {source.bare:.0%} of them of bare prompts, and paints "
        "without guidance. Means over the worlds, (deviation):"
    )
    yield ""
    rows = {f"{steps} step(s)": found for steps, found in turbo["steps"].items()}
    rows[f"its teacher, {config['inference_steps']} guided steps"] = turbo["teacher"]
    yield f"| figure | {' | '.join(rows)} |"
    yield "|---" * (1 + len(rows)) + "|"
    for key, label in FIGURES.items():
        if key not in turbo["teacher"]:
            continue
        cells = []
        for row in rows.values():
            deviation = row["deviation"].get(key)
            cells.append(f"{row[key]:.3f}" + ("" if deviation is None else f" ({deviation:.3f})"))
        yield f"| {label} | {' | '.join(cells)} |"
