"""coco ─► narratives ─► features, training ─► model ─► Average Recall, pictures; and the tables."""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.png import nodes, tables

SETTINGS = "params:png"
MODEL = "stable_diffusion"
KEYS = ["png_doctor_folder", "panoptic_weights"]  # a model's key says what it learnt without


def create_pipeline(parts: Sequence[str]) -> Pipeline:
    """The sum of the parts, each of which goes on with what others made."""
    return sum((PARTS[part]() for part in parts), Pipeline([]))


def features() -> Pipeline:
    """What is frozen, extracted once for all trainings and evaluations (section 3.1)."""
    extraction = Node(
        nodes.extract_features,
        [
            "png_train_narratives",
            "png_val_narratives",
            MODEL,
            "png_features_folder",
            SETTINGS,
            "params:feature_extraction",
        ],
        ["png_features", "png_features_report"],
        name="extract_png_features",
    )
    read = Pipeline([_reading("train"), _reading("val")])
    return read + Pipeline([extraction], tags=["png", "feature_extraction"])


def train() -> Pipeline:
    """The data doctor, then the training (section 3)."""
    training = Node(
        nodes.train_png,
        {
            "training": "png_train_narratives",
            "validation": "png_val_narratives",
            "doctor": "png_doctor",
            "diffusion": MODEL,
            "features": "png_features_folder",
            "findings": "png_doctor_folder",
            "panoptic": "panoptic_weights",
            "models": "png_models_folder",
            "png": SETTINGS,
        },
        ["png_model", "png_training"],
        name="train_png",
    )
    read = Pipeline([_reading("train"), _reading("val"), _doctor()])
    return read + Pipeline([training], tags=["png", "png_train"])


def find() -> Pipeline:
    """A model that was trained before, or one that needs no training."""
    node = Node(
        nodes.find_png_model,
        ["coco", MODEL, "png_models_folder", *KEYS, SETTINGS],
        "png_model",
        name="find_png_model",
    )
    return Pipeline([node], tags=["png", "png_eval"])


def evaluate() -> Pipeline:
    """Average Recall of the model on the validation split, and its two figures."""
    return Pipeline([_reading("val")]) + Pipeline(
        [
            Node(
                nodes.evaluate_png,
                ["png_model", "png_val_narratives", MODEL, "png_features_folder", SETTINGS],
                ["png_metrics", "png_phrases", "png_predictions"],
                name="evaluate_png",
            ),
            Node(
                nodes.draw_recall_curve,
                ["png_phrases", "png_metrics"],
                "png_recall_curve",
                name="draw_png_recall_curve",
            ),
            Node(
                nodes.draw_overlays,
                ["png_predictions", SETTINGS],
                "png_overlays",
                name="draw_png_overlays",
            ),
        ],
        tags=["png", "png_eval"],
    )


def ablations() -> Pipeline:
    """Tables 2 to 4, and Figures 4 to 6, which are drawn from the rows' models."""
    return Pipeline([_doctor()]) + Pipeline(
        [
            Node(
                tables.run_png_tables,
                {
                    "coco": "coco",
                    "diffusion": MODEL,
                    "doctor": "png_doctor",
                    "features": "png_features",
                    "findings": "png_doctor_folder",
                    "panoptic": "panoptic_weights",
                    "models": "png_models_folder",
                    "png": SETTINGS,
                    "ablation": "params:png_tables",
                },
                ["png_table_models", "png_tables", "png_tables_text"],
                name="run_png_tables",
            ),
            Node(
                tables.draw_figures,
                ["coco", MODEL, "png_table_models", *KEYS, SETTINGS, "params:png_tables"],
                ["png_figure4", "png_figure5", "png_figure6"],
                name="draw_png_figures",
            ),
        ],
        tags=["png", "png_tables"],
    )


def _doctor() -> Node:
    """Whatever trains on the data begins with this."""
    return Node(
        nodes.examine_training_data,
        ["coco", "png_doctor_folder", SETTINGS],
        ["png_doctor", "png_doctor_text"],
        name="examine_png_data",
        tags=["png"],
    )


def _reading(split: str) -> Node:
    read = {"train": nodes.read_training_narratives, "val": nodes.read_validation_narratives}
    return Node(
        read[split],
        ["coco", SETTINGS],
        f"png_{split}_narratives",
        name=f"read_png_{split}_narratives",
        tags=["png"],
    )


PARTS = {
    "features": features,
    "train": train,
    "find": find,
    "evaluate": evaluate,
    "tables": ablations,
}
