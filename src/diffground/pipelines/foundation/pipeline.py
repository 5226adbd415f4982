"""Autoencoder, diffusion model, CLIP and segmenter, the layers that localise; how good they are."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.foundation import nodes


def create_pipeline(parts: Sequence[str] = ("training", "quality")) -> Pipeline:
    """Both, or the quality of what is there alone."""
    made = {"training": training, "quality": quality}
    return sum((made[part]() for part in parts), Pipeline([]))


def training() -> Pipeline:
    """From a recipe to the shipped folders and their model card."""
    settings = ["params:foundation", "params:world"]
    work = [*settings, "foundation_work"]
    parts = ["foundation_autoencoder", "foundation_diffusion"]
    made = {
        "train_draft_segmenter": (nodes.draft, work, "foundation_draft"),
        "train_autoencoder": (nodes.autoencoder, [*work, "foundation_draft"], parts[0]),
        "train_diffusion": (nodes.diffusion, [*work, parts[0]], parts[1]),
        "train_clip": (nodes.clip, [*work, parts[1], "mini_clip_folder"], "mini_clip"),
        "train_segmenter": (
            nodes.segmenter,
            [*work, "foundation_draft", parts[0], "mini_segmenter_folder"],
            "mini_segmenter",
        ),
        "assemble_mini_sd": (
            nodes.assemble,
            [*settings, "params:foundation_quality", *parts, "mini_sd_folder"],
            "mini_sd",
        ),
        "write_model_card": (nodes.card, [*work, "foundation_quality"], "mini_model_card"),
    }
    nodes_made = [Node(how, of, gives, name=name) for name, (how, of, gives) in made.items()]
    return Pipeline(nodes_made, tags=["foundation"])


def quality() -> Pipeline:
    """From the shipped folders to ``foundation.json`` and two picture grids."""
    return Pipeline(
        [
            Node(
                nodes.assess,
                [
                    "mini_sd",
                    "mini_clip",
                    "mini_segmenter",
                    "params:world",
                    "params:foundation_quality",
                ],
                ["foundation_quality", "foundation_generations", "foundation_attention"],
                name="assess_foundation",
            )
        ],
        tags=["foundation", "foundation_eval"],
    )
