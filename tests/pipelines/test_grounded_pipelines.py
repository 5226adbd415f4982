"""Training and measuring grounding modules over tiny synthetic sets: those of 003 and of 004."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_grounded
import tiny_png
from matplotlib.figure import Figure
from memory_runs import run_in_memory
from PIL import Image

from diffground.errors import InputError
from diffground.papers.grounded.figure_config import GroundingFigureConfig
from diffground.papers.grounded.trained import read_card
from diffground.pipeline_registry import PIPELINES
from diffground.pipelines.grounded import create_pipeline
from diffground.shipped import shipped

CLIP = shipped("data/06_models/mini-clip")
FIGURE = {
    "scale": "mini", "seed": 0, "rows": [{"prompt": "a photo of a mug", "classes": ["mug"]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """Runs a registered pipeline and returns all that it made, by name."""
    root = tmp_path_factory.mktemp("grounded")

    def _run(name: str, **changes: Any) -> dict[str, Any]:
        of = "iosd" if name == "iosd" else "grounding"
        (recipe_,) = PIPELINES[name]
        pipeline = create_pipeline(recipe_.partition(":")[2].split(","))
        inputs = {
            "stable_diffusion": tiny_png.backbone().folder,
            "iosd_diffusion": tiny_grounded.turbo().folder,
            "grounding_segmenter": tiny_grounded.segmenter(),
            "grounding_clip": CLIP,
            **{
                f"{of}_{n}_folder": root / of / n
                for n in ("samples", "scores", "features", "models")
            },
            "params:grounding_figure": GroundingFigureConfig.model_validate(FIGURE),
            **tiny_grounded.parameters(of),
            **changes,
        }
        needed = pipeline.inputs()
        return run_in_memory(pipeline, {n: each for n, each in inputs.items() if n in needed})

    return _run


@pytest.mark.parametrize(("name", "of"), [("grounded", "grounding"), ("iosd", "iosd")])
def test_from_prompts_to_miou(run, name: str, of: str) -> None:
    out = run(name)
    training = out[f"{of}_training"]
    assert training["trained"] and training["steps"] == 4
    assert [row["step"] for row in training["evaluations"]] == [2.0, 4.0]
    assert out[f"{of}_module"].name == training["module"]
    card = read_card(out[f"{of}_module"])
    assert set(card.classes) <= set(tiny_grounded.EVERYTHING)
    assert card.module.pyramid == (of == "iosd")
    for metrics in (out[f"{of}_metrics"], out[f"{of}_daam_metrics"]):
        assert {*metrics["groups"]} == {*tiny_grounded.GROUPS[of]}
        assert metrics["scale"] == "mini"
        for scores in metrics["groups"].values():
            assert scores["images"] == 2
            assert 0 <= scores["class"] <= 100 and 0 <= scores["image"] <= 100
    assert out[f"{of}_daam_metrics"]["threshold"] in (0.3, 0.6)
    assert isinstance(out[f"{of}_curve"], Figure)
    overlays = out[f"{of}_overlays"]
    assert isinstance(overlays, Image.Image) and overlays.width > 3 * 208
    assert isinstance(out[f"{of}_figure1"], Image.Image)
    json.dumps([training, out[f"{of}_metrics"], out[f"{of}_daam_metrics"]], allow_nan=False)


def test_a_module_that_is_there_is_found_and_measured(run) -> None:
    made = run("grounding_train")
    again = run("grounding_train")["grounding_training"]
    assert not again["trained"]
    without = tiny_grounded.parameters("grounding")["params:grounding_eval"].model_copy(
        update={"daam": None}
    )
    out = run("grounding_eval", **{"params:grounding_eval": without})
    assert out["grounding_module"] == made["grounding_module"]
    assert out["grounding_daam_metrics"] == out["grounding_daam_predictions"] == {}
    assert out["grounding_metrics"]["grounder"] == made["grounding_module"].name
    other = tiny_grounded.learning(train=tiny_grounded.SHORT | {"seed": 5})
    with pytest.raises(InputError, match="no module was trained with these settings"):
        run("grounding_eval", **{"params:grounding_train": other})


def test_sets_that_a_training_needs(run) -> None:
    data = tiny_grounded.parameters("grounding")["params:grounding_data"]
    fewer = {name: one for name, one in data.sets.items() if name != "val"}
    with pytest.raises(InputError, match=r"sets\.val: a set of this name is needed beside train"):
        run("grounding_train", **{"params:grounding_data": data.model_copy(update={"sets": fewer})})


def test_every_node_hands_on_what_another_needs() -> None:
    """No node reads what it could be given, and nothing is passed for the order alone."""
    for name in ("grounded", "iosd"):
        (recipe_,) = PIPELINES[name]
        pipeline = create_pipeline(recipe_.partition(":")[2].split(","))
        of = "iosd" if name == "iosd" else "grounding"
        readers = {
            part: sorted(node.name for node in pipeline.nodes if f"{of}_{part}" in node.inputs)
            for part in ("chosen", "module", "training", "predictions")
        }
        assert readers == {
            "chosen": [
                f"draw_{of}_overlays", f"measure_{of}_daam", f"measure_{of}_module",
                f"train_{of}_module",
            ],
            "module": [f"draw_{of}_figure1", f"measure_{of}_module"],
            "training": [f"draw_{of}_curve"],
            "predictions": [f"draw_{of}_overlays"],
        }  # fmt: skip
