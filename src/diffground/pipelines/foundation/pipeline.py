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
    return Pipeline(
        [
            Node(
                nodes.autoencoder,
                ["params:foundation", "foundation_work"],
                "foundation_autoencoder",
                name="train_autoencoder",
            ),
            Node(
                nodes.diffusion,
                ["params:foundation", "foundation_work", "foundation_autoencoder"],
                "foundation_diffusion",
                name="train_diffusion",
            ),
            Node(
                nodes.clip,
                [
                    "params:foundation",
                    "foundation_work",
                    "foundation_diffusion",
                    "mini_clip_folder",
                ],
                "mini_clip",
                name="train_clip",
            ),
            Node(
                nodes.segmenter,
                ["params:foundation", "foundation_work", "mini_segmenter_folder"],
                "mini_segmenter",
                name="train_segmenter",
            ),
            Node(
                nodes.assemble,
                [
                    "params:foundation",
                    "params:foundation_quality",
                    "foundation_autoencoder",
                    "foundation_diffusion",
                    "mini_sd_folder",
                ],
                "mini_sd",
                name="assemble_mini_sd",
            ),
            Node(
                nodes.card,
                ["params:foundation", "foundation_work", "foundation_quality"],
                "mini_model_card",
                name="write_model_card",
            ),
        ],
        tags=["foundation"],
    )


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
