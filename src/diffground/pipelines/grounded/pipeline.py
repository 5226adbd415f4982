"""prompts ─► samples ─► scores ─► what is taken ─► module ─► mIoU beside DAAM's, and pictures.

The same nodes make 003's experiment and 004's, each with parameters and datasets of its own:
``params:grounding_data`` and ``grounding_samples``, ``params:iosd_data`` and ``iosd_samples``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.grounded import nodes
from diffground.pipelines.grounded.export import export_samples, read_lesson, teach
from diffground.pipelines.grounded.tables import grounded_tables, iosd_tables


@dataclass(frozen=True)
class Experiment:
    """Names of its datasets, parameters and nodes."""

    of: str  # what they begin with
    diffusion: str  # the frozen model

    def named(self, *parts: str) -> list[str]:
        """Datasets."""
        return [f"{self.of}_{part}" for part in parts]

    @property
    def data(self) -> str:
        """Settings of the synthetic sets."""
        return f"params:{self.of}_data"


EXPERIMENTS = {
    "": Experiment("grounding", "stable_diffusion"),
    "iosd_": Experiment("iosd", "iosd_diffusion"),
}


def create_pipeline(parts: Sequence[str]) -> Pipeline:
    """The sum of the parts, each of which goes on with what the last one made.

    Parts of 004 begin with ``iosd_``.
    """
    made = {
        "data": data, "train": train, "find": find, "evaluate": evaluate,
        "figure": figure, "export": export, "teaching": teaching, "tables": tables,
    }  # fmt: skip
    found = {
        f"{start}{name}": (part, experiment)
        for start, experiment in EXPERIMENTS.items()
        for name, part in made.items()
    }
    return sum((part(of) for part, of in (found[name] for name in parts)), Pipeline([]))


def data(of: Experiment) -> Pipeline:
    """The synthetic sets."""
    return Pipeline(
        [
            Node(nodes.plan_prompts, of.data, f"{of.of}_prompts", name=f"plan_{of.of}_prompts"),
            Node(
                nodes.make_samples,
                [
                    f"{of.of}_prompts",
                    of.diffusion,
                    "grounding_segmenter",
                    f"{of.of}_samples_folder",
                    of.data,
                ],
                of.named("samples", "samples_report"),
                name=f"make_{of.of}_samples",
            ),
            Node(
                nodes.score_samples,
                [
                    f"{of.of}_samples",
                    of.diffusion,
                    "grounding_clip",
                    f"{of.of}_scores_folder",
                    of.data,
                ],
                f"{of.of}_scores",
                name=f"score_{of.of}_samples",
            ),
            Node(
                nodes.report_samples,
                [*of.named("samples", "scores"), of.data],
                of.named("data_report", "grid"),
                name=f"report_{of.of}_samples",
            ),
        ],
        tags=["grounded", f"{of.of}_data"],
    )


def train(of: Experiment) -> Pipeline:
    """The module, or where it is found trained."""
    return _chosen(of) + Pipeline(
        [
            Node(
                nodes.learn_module,
                {
                    "chosen": f"{of.of}_chosen",
                    "diffusion": of.diffusion,
                    "features": f"{of.of}_features_folder",
                    "models": f"{of.of}_models_folder",
                    "data": of.data,
                    "learning": f"params:{of.of}_train",
                },
                of.named("module", "training"),
                name=f"train_{of.of}_module",
            ),
            Node(
                nodes.draw_learning,
                [f"{of.of}_training", of.data],
                f"{of.of}_curve",
                name=f"draw_{of.of}_curve",
            ),
        ],
        tags=["grounded", f"{of.of}_train"],
    )


def find(of: Experiment) -> Pipeline:
    """A module that was trained before."""
    node = Node(
        nodes.find_module,
        {
            "chosen": f"{of.of}_chosen",
            "diffusion": of.diffusion,
            "models": f"{of.of}_models_folder",
            "data": of.data,
            "learning": f"params:{of.of}_train",
        },
        f"{of.of}_module",
        name=f"find_{of.of}_module",
    )
    return _chosen(of) + Pipeline([node], tags=["grounded", f"{of.of}_eval"])


def evaluate(of: Experiment) -> Pipeline:
    """mIoU of the module, and of DAAM on the same samples."""
    asked = [of.data, f"params:{of.of}_eval"]
    return _chosen(of) + Pipeline(
        [
            Node(
                nodes.measure_module,
                [*of.named("module", "chosen"), of.diffusion, *asked],
                of.named("metrics", "predictions"),
                name=f"measure_{of.of}_module",
            ),
            Node(
                nodes.measure_daam,
                [f"{of.of}_chosen", of.diffusion, *asked],
                of.named("daam_metrics", "daam_predictions"),
                name=f"measure_{of.of}_daam",
            ),
            Node(
                nodes.draw_masks,
                [*of.named("chosen", "predictions", "daam_predictions"), of.data],
                f"{of.of}_overlays",
                name=f"draw_{of.of}_overlays",
            ),
        ],
        tags=["grounded", f"{of.of}_eval"],
    )


def figure(of: Experiment) -> Pipeline:
    """Figure 1: pictures of prompts, with their masks."""
    node = Node(
        nodes.draw_figure1,
        [f"{of.of}_module", of.diffusion, of.data, "params:grounding_figure"],
        f"{of.of}_figure1",
        name=f"draw_{of.of}_figure1",
    )
    return Pipeline([node], tags=["grounded", f"{of.of}_figure"])


def export(of: Experiment) -> Pipeline:
    """Synthetic sets as a dataset that others can train on."""
    node = Node(
        export_samples,
        [
            *of.named("chosen", "scores"),
            of.diffusion,
            f"{of.of}_export_folder",
            of.data,
            f"params:{of.of}_export",
        ],
        of.named("export", "export_report"),
        name=f"export_{of.of}_samples",
    )
    return _chosen(of) + Pipeline([node], tags=["grounded", f"{of.of}_export"])


def teaching(of: Experiment) -> Pipeline:
    """DeepLabV2 that learns from that dataset, judged on pictures that nobody generated."""
    return Pipeline(
        [
            Node(
                read_lesson,
                [
                    f"{of.of}_export",
                    "voc2012",
                    "coco2014_folder",
                    "text2mask_images",
                    f"{of.of}_teaching_masks_folder",
                    of.data,
                    "params:text2mask",
                ],
                f"{of.of}_lesson",
                name=f"read_{of.of}_lesson",
            ),
            Node(
                teach,
                [
                    *of.named("lesson", "teaching_folder"),
                    "params:text2mask",
                    f"params:{of.of}_teaching",
                ],
                of.named("teaching_models", "teaching"),
                name=f"teach_{of.of}_segmenters",
            ),
        ],
        tags=["grounded", f"{of.of}_teaching"],
    )


def _chosen(of: Experiment) -> Pipeline:
    """What is taken of the samples: whoever learns or measures begins with it."""
    node = Node(
        nodes.choose_samples,
        [*of.named("samples", "scores"), of.data],
        f"{of.of}_chosen",
        name=f"choose_{of.of}_samples",
    )
    return Pipeline([node], tags=["grounded"])


def tables(of: Experiment) -> Pipeline:
    """All tables of a paper that are asked for; their rows make what they need themselves."""
    return grounded_tables() if of.of == "grounding" else iosd_tables()
