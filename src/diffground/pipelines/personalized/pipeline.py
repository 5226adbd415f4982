"""scenes ─► tokens ─► answers ─► scores and overlays; what learning did; and the tables."""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.personalized import nodes

SETTINGS = "params:personalized"
MODELS = {part: f"personalized_{part}" for part in ("clip", "segmenter", "vit")}  # of baselines


def create_pipeline(parts: Sequence[str]) -> Pipeline:
    """The sum of the parts, each of which goes on with what the last one made."""
    made = {"scenes": scenes, "method": method, "checks": checks, "tables": tables}
    return sum((made[part]() for part in parts), Pipeline([]))


def scenes() -> Pipeline:
    """What of Mug19 is looked at, and the doctor."""
    reading = Node(
        nodes.read_scenes,
        ["mug19", SETTINGS],
        ["personalized_scenes", "mug19_doctor", "mug19_doctor_text"],
        name="read_mug19",
    )
    return Pipeline([reading], tags=["personalized"])


def method() -> Pipeline:
    """One method, from learned items to scores."""
    return Pipeline(
        [
            Node(
                nodes.learn_tokens,
                [
                    "personalized_scenes",
                    "text2mask_diffusion",
                    "personalized_tokens_folder",
                    SETTINGS,
                ],
                ["personalized_tokens", "personalized_tokens_report"],
                name="learn_personal_tokens",
            ),
            Node(
                nodes.find_objects,
                [
                    "personalized_scenes",
                    "personalized_tokens",
                    "text2mask_diffusion",
                    "personalized_answers_folder",
                    *MODELS.values(),
                    SETTINGS,
                ],
                ["personalized_answers", "personalized_answers_report"],
                name="find_personal_objects",
            ),
            Node(
                nodes.evaluate,
                ["personalized_scenes", "personalized_answers", SETTINGS],
                "personalized_metrics",
                name="measure_personal_objects",
            ),
            Node(
                nodes.draw_overlays,
                ["personalized_scenes", "personalized_answers", SETTINGS],
                "personalized_overlays",
                name="draw_personal_objects",
            ),
        ],
        tags=["personalized"],
    )


def checks() -> Pipeline:
    """What learning an item does, beside teaching its token."""
    return Pipeline(
        [
            Node(
                nodes.check_tokens,
                {
                    "scenes": "personalized_scenes",
                    "tokens": "personalized_tokens",
                    "diffusion": "text2mask_diffusion",
                    "voc2012": "voc2012",
                    "personalized": SETTINGS,
                    "text2mask": "params:text2mask",
                    "checks": "params:personalized_checks",
                },
                ["personalized_checks", "personalized_token_pictures"],
                name="check_personal_tokens",
            )
        ],
        tags=["personalized", "personalized_checks"],
    )


def tables() -> Pipeline:
    """All tables and the figure that ``params:personalized_tables`` asks for."""
    return Pipeline(
        [
            Node(
                nodes.run_personalized_tables,
                {
                    "scenes": "personalized_scenes",
                    "tokens": "personalized_tokens_folder",
                    "answers": "personalized_answers_folder",
                    "diffusion": "text2mask_diffusion",
                    **MODELS,
                    "personalized": SETTINGS,
                    "tables": "params:personalized_tables",
                },
                [
                    "personalized_table_answers",
                    "personalized_tables",
                    "personalized_tables_text",
                    "personalized_figure5",
                ],
                name="run_personalized_tables",
            )
        ],
        tags=["personalized", "personalized_tables"],
    )
