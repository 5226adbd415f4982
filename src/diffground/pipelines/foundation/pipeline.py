"""The mini models part by part, the layers that localise, and how good they are."""

from collections.abc import Callable, Sequence
from typing import Any

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.foundation import nodes


def create_pipeline(parts: Sequence[str] = ("training", "quality")) -> Pipeline:
    """Both, or one of them alone; or the mini Stable Diffusion is trained on."""
    made = {"training": training, "quality": quality, "fine_tuning": fine_tuning}
    return sum((made[part]() for part in parts), Pipeline([]))


def training() -> Pipeline:
    """From a recipe to the shipped folders and their model card."""
    settings = ["params:foundation", "params:world"]
    work = [*settings, "foundation_work"]
    parts = ["foundation_autoencoder", "foundation_diffusion"]
    made: dict[str, tuple[Callable[..., Any], list[str], str]] = {
        "train_draft_segmenter": (nodes.draft, work, "foundation_draft"),
        "train_autoencoder": (nodes.autoencoder, [*work, "foundation_draft"], parts[0]),
        "train_diffusion": (nodes.diffusion, [*work, parts[0]], parts[1]),
        "train_clip": (nodes.clip, [*work, parts[1], "mini_clip_folder"], "mini_clip"),
        "train_vit": (nodes.vit, [*work, "mini_vit_folder"], "mini_vit"),
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
        "train_turbo": (
            nodes.turbo,
            [*work, parts[0], "mini_sd", "mini_turbo_folder"],
            "mini_turbo",
        ),
        "write_model_card": (
            nodes.card,
            [*work, "foundation_quality", "foundation_turbo"],
            "mini_model_card",
        ),
    }
    nodes_made = [Node(how, of, gives, name=name) for name, (how, of, gives) in made.items()]
    return Pipeline(nodes_made, tags=["foundation"])


def quality() -> Pipeline:
    """From the shipped folders to their figures and picture grids."""
    settings = ["params:world", "params:foundation_quality"]
    return Pipeline(
        [
            Node(
                nodes.assess,
                ["mini_sd", "mini_clip", "mini_segmenter", *settings],
                "foundation_quality",
                name="assess_foundation",
            ),
            Node(
                nodes.assess_vit,
                ["mini_vit", *settings],
                "foundation_vit",
                name="assess_vit",
            ),
            Node(
                nodes.assess_turbo,
                [
                    "mini_turbo",
                    "mini_segmenter",
                    "foundation_quality",
                    "params:foundation_quality",
                ],
                "foundation_turbo",
                name="assess_turbo",
            ),
            Node(
                nodes.draw_turbo,
                ["mini_turbo", "params:foundation_quality"],
                "foundation_turbo_generations",
                name="draw_turbo",
            ),
            Node(
                nodes.draw,
                ["mini_sd", *settings],
                ["foundation_generations", "foundation_attention"],
                name="draw_foundation",
            ),
        ],
        tags=["foundation", "foundation_eval"],
    )


def fine_tuning() -> Pipeline:
    """The mini Stable Diffusion trained on."""
    node = Node(
        nodes.fine_tuning,
        [
            "params:foundation",
            "params:foundation_fine_tuning",
            "params:world",
            "foundation_work",
            "mini_sd",
            "mini_fine_tuned_folder",
        ],
        "mini_fine_tuned",
        name="fine_tune_mini_sd",
    )
    return Pipeline([node], tags=["foundation", "foundation_fine_tuning"])
