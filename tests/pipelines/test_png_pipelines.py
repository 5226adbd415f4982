"""The PNG pipelines over a tiny benchmark and a tiny diffusion model."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

import pytest
import tiny_png
from kedro.pipeline import Pipeline
from memory_runs import run_in_memory
from PIL import Image
from recipes import recipe
from recording import recorded

from diffground.adapters.run_log import flatten
from diffground.errors import InputError
from diffground.experiments.result_tables import ResultTable
from diffground.papers.png.config import FeatureExtractionConfig
from diffground.papers.png.experiment import evaluate_variant, kept_evaluation
from diffground.papers.png.keys import PngConfig, PngFolders, Variant
from diffground.papers.png.tables_config import PngTablesConfig
from diffground.papers.png.trained import load_variant
from diffground.pipelines.png import create_pipeline
from diffground.pipelines.png.nodes import evaluate_png
from diffground.tracking import numbers


def config(**changes) -> PngConfig:
    """The tiny experiment; ``model=STATIC`` changes parts of its sections."""
    train = {"max_steps": 6, "batch_size": 2, "checkpoint_every": 2, "log_every": 2}
    changes["train"] = train | changes.get("train", {})
    changes["eval"] = {"batch_size": 3, "overlays": 2} | changes.get("eval", {})
    return tiny_png.config(**changes)


STATIC = {"insertion": "none", "decode": False}  # zero-shot static prompting


def folders(root: Path, coco: Path) -> PngFolders:
    """Everything below a test's own folder."""
    return PngFolders(coco, root, root / "features", root / "doctor", root / "panoptic")


def png_train() -> Pipeline:
    return create_pipeline(["train", "evaluate"])


def png_eval() -> Pipeline:
    return create_pipeline(["find", "evaluate"])


def png_tables() -> Pipeline:
    return create_pipeline(["features", "tables"])


@pytest.fixture
def coco(tmp_path) -> Path:
    return tiny_png.make_benchmark(tmp_path / "coco")


@pytest.fixture
def run(tmp_path, coco):
    """Runs a pipeline and returns all that it made, by name."""

    def _run(pipeline, png: PngConfig, **more):
        inputs = {
            "coco": coco,
            "stable_diffusion": tiny_png.backbone().folder,
            **{f"png_{name}_folder": tmp_path / name for name in ("models", "features", "doctor")},
            "panoptic_weights": tmp_path / "panoptic",
            "params:feature_extraction": recipe(FeatureExtractionConfig, num_workers=0),
            "params:png": png,
            **{f"params:{name}": value for name, value in more.items()},
        }
        return run_in_memory(pipeline, inputs)

    return _run


def test_train_evaluates_what_it_trained_and_does_not_repeat_it(run, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        out = run(png_train(), config())
    assert out["png_training"]["trained"] and out["png_training"]["steps"] == 6
    assert out["png_training"]["skipped"] == 0
    metrics = out["png_metrics"]
    assert metrics["protocol"] == "original" and metrics["plural_rule"] == "count"
    assert metrics["phrases"] == 7
    assert set(metrics["ar"]) == {"overall", "things", "stuff", "singulars", "plurals"}
    assert metrics["variant"] == out["png_training"]["variant"] == out["png_model"].name
    assert (out["png_model"] / "png.safetensors").exists()
    assert metrics["head"] == "decoder" and not metrics["zero_shot"]
    assert "protocol original, plural rule count" in caplog.text
    json.dumps({name: out[name] for name in ("png_metrics", "png_phrases", "png_training")})
    assert isinstance(out["png_overlays"], Image.Image) and len(out["png_predictions"]) == 2
    assert len(out["png_recall_curve"].axes) == 3
    assert "Data doctor" in out["png_doctor_text"]

    again = run(png_train(), config())
    assert again["png_training"] == out["png_training"] | {"trained": False}
    assert again["png_metrics"] == metrics
    alone = run(png_eval(), config())
    assert alone["png_metrics"] == metrics

    anew = run(png_train(), config(train={"restart": True}))
    assert anew["png_training"]["trained"]
    assert anew["png_metrics"] == metrics  # the same seed, the same numbers


def test_zero_shot_needs_no_training_and_changes_with_the_time_step(run, tmp_path):
    out = run(png_eval(), config(model=STATIC))["png_metrics"]
    assert out["zero_shot"] and out["head"] == "diffusion"
    trained = run(png_train(), config(model=STATIC))
    assert not trained["png_training"]["trained"] and trained["png_model"].is_dir()
    assert trained["png_metrics"] == out
    other = run(png_eval(), config(model=STATIC | {"time_step": 500}))["png_metrics"]
    assert other["variant"] != out["variant"]


def test_evaluating_untrained_settings_names_what_there_is(run):
    run(png_train(), config())
    with pytest.raises(InputError, match="run the pipeline png_train.*both-"):
        run(png_eval(), config(model={"insertion": "encoder"}))


def test_a_model_of_other_settings_is_not_evaluated_as_one_of_these(run, tmp_path):
    """A run that begins with the evaluation gets the model that was trained last."""
    out = run(png_train(), config())
    features, folder = tmp_path / "features", tiny_png.backbone().folder
    given = (out["png_model"], out["png_val_narratives"], folder, features)
    assert evaluate_png(*given, config())[0]["variant"] == out["png_model"].name
    with pytest.raises(InputError, match="another train: begin with train_png or find_png_model"):
        evaluate_png(*given, config(train={"seed": 1}))


def test_broken_training_files_are_skipped_and_counted(run, coco):
    broken = next((coco / "images/train2017").glob("*3.png"))
    broken.write_bytes(broken.read_bytes()[:80])
    panoptic = next((coco / "annotations/panoptic_segmentation/train2017").glob("*1.png"))
    panoptic.write_bytes(
        next((coco / "annotations/panoptic_segmentation/train2017").glob("*1.png")).read_bytes()[
            :90
        ]
    )
    out = run(png_train(), config())
    assert out["png_training"]["skipped"] == 2
    assert out["png_training"]["narratives"] == 2
    assert out["png_doctor"]["deep"]["skipped"] == 2
    assert out["png_metrics"]["skipped"] == 0


def test_weights_that_never_saw_a_narrative_are_other_weights(run, coco):
    image = next((coco / "images/train2017").glob("*3.png"))
    whole = image.read_bytes()
    image.write_bytes(whole[:80])
    without = run(png_train(), config())
    assert without["png_training"]["skipped"] == 1
    found_again = run(png_eval(), config())
    assert found_again["png_metrics"]["variant"] == without["png_training"]["variant"]
    image.write_bytes(whole)
    mended = run(png_train(), config())["png_training"]
    assert mended["trained"] and mended["skipped"] == 0
    assert mended["variant"] != without["png_training"]["variant"]


def test_figures_without_files_that_could_not_be_opened_are_not_kept(coco, tmp_path, monkeypatch):
    """A table's row is not measured again, unless what it left out can be read now."""
    where = folders(tmp_path / "models", coco)
    variant = Variant.of(config(model=STATIC), where, tiny_png.backbone())
    model, path = load_variant(variant), variant.measured("evaluation")

    def measured() -> int:
        """Measures, and returns how many narratives are missing from what was kept."""
        evaluate_variant(variant, model)
        found = kept_evaluation(path)
        return -1 if found is None else found["skipped"]

    image = next((coco / "images/val2017").glob("*3.png"))
    opened = Image.open

    def refuse(file, *args, **options):
        if Path(file) == image:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(file, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", refuse)
        assert measured() == -1
    assert measured() == 0
    whole = image.read_bytes()
    image.write_bytes(whole[:80])
    assert measured() == 1
    image.write_bytes(whole)
    assert kept_evaluation(path) is None
    path.write_text("")
    assert kept_evaluation(path) is None


def test_the_tables_are_filled_and_finished_rows_are_kept(run, tmp_path):
    ablation = recipe(PngTablesConfig, seeds=(0, 1), max_steps=2, figures=2)
    out = run(png_tables(), config(), png_tables=ablation)
    tables = [ResultTable.model_validate(content) for content in out["png_tables"]]
    assert [len(table.rows) for table in tables] == [5, 5, 3]
    components, insertion, mlma = tables
    full = components.rows[-1]
    assert (full.name, full.paper["overall"]) == ("+ EIPA + MLMA", 67.1)
    assert components.rows[0].paper["overall"] == 37.8 and not components.rows[1].paper
    assert insertion.rows[-1].mean == mlma.rows[0].mean  # one experiment, two tables
    assert full.mean == mlma.rows[-1].mean
    assert all(row.seeds == 2 and row.sd for table in tables for row in table.rows)
    assert insertion.rows[0].name == "UNet blind" and not insertion.rows[0].paper
    assert insertion.orderings[1].claim == "Encoder > No-Adapter (overall)"
    assert insertion.orderings[1].paper_gap == pytest.approx(2.2)
    assert len(list((tmp_path / "models").glob("*/png.json"))) == 22
    assert "Table 3: insertion of EIPA" in out["png_tables_text"]
    assert len(out["png_figure4"].axes) == 3
    for name in ("png_figure5", "png_figure6"):
        width, height = out[name].size
        assert width > 300 and height > 150 and len(out[name].getcolors(1 << 20)) > 20

    again = run(png_tables(), config(), png_tables=ablation)
    assert again["png_tables"] == out["png_tables"]  # times too: of the runs behind the tables


def test_a_table_is_filled_once_more_without_some_nouns(run, tmp_path):
    ablation = recipe(
        PngTablesConfig,
        tables=("insertion",),
        rows=("UNet blind", "Encoder"),
        seeds=(0, 1),
        max_steps=2,
        figures=0,
        held_out=(("grass",),),
    )
    out = run(png_tables(), config(), png_tables=ablation)
    closed, held = [ResultTable.model_validate(content) for content in out["png_tables"]]
    assert set(closed.rows[0].mean) == {"overall", "things", "stuff", "singulars", "plurals"}
    for row in held.rows:
        assert set(row.mean) == set(row.sd) == {"overall", "seen nouns", "held-out nouns"}
        parts = 5 * row.mean["seen nouns"] + 2 * row.mean["held-out nouns"]
        assert parts / 7 == pytest.approx(row.mean["overall"])
    assert held.rows[1].mean["overall"] != closed.rows[1].mean["overall"]
    assert "held-out nouns: grass" in out["png_tables_text"]
    trained = [json.loads(p.read_text()) for p in (tmp_path / "models").glob("*/training.json")]
    assert sorted(each["narratives"] for each in trained) == [2] * 4 + [4] * 4


def test_a_row_is_logged_as_a_run_of_its_own_is(run, monkeypatch):
    """Full parameters, the same names of metrics, the same figures."""
    ablation = recipe(
        PngTablesConfig,
        tables=("components",),
        rows=("+ EIPA + MLMA",),
        seeds=(1,),
        max_steps=2,
        figures=0,
    )
    with recorded(monkeypatch) as tables:
        run(png_tables(), config(), png_tables=ablation)
    ((name, row),) = tables.children.items()
    assert name == "components: + EIPA + MLMA, seed 1"
    parameters = flatten(row.params)
    assert parameters["png.train.seed"] == "1" and parameters["png.train.max_steps"] == "2"
    assert parameters.keys() == flatten({"png": config()}).keys()
    with recorded(monkeypatch) as single:
        out = run(png_train(), row.params["png"])
    for saved in ("png_training", "png_metrics"):  # the hook's part
        single.log_metrics(numbers(out[saved], saved))
    assert {"png_metrics/ar/overall", "train/loss"} <= row.metrics.keys()
    # The single run finds the model trained: it has no losses to tell, and stands in no table.
    own = {m for m in row.metrics if not m.startswith(("table/", "train/"))}
    assert single.metrics.keys() == own
    assert row.metrics["png_metrics/ar/overall"] == single.metrics["png_metrics/ar/overall"]
    names = ("png_metrics.json", "png_recall_curve.png", "png_overlays.png")
    assert row.files == {f"reporting/{file}" for file in names}


def test_the_paper_recipe_runs_at_tiny_sizes(run):
    """bfloat16 throughout, checkpointing, accumulation, sampled points, seeded noise."""
    png = config(
        precision="bfloat16",
        model={"checkpoint": True, "noise": "seeded", "time_step": 0},
        loss={"points": 64},
        train={"max_steps": 2, "accumulation": 2, "mixed_precision": "bf16", "evaluate_every": 1},
        eval={"protocol": "ppmn", "plural_rule": "flag"},
    )
    out = run(png_train(), png)
    assert out["png_training"]["steps"] == 2 and "overall" in out["png_training"]["best"]
    assert (out["png_metrics"]["protocol"], out["png_metrics"]["plural_rule"]) == ("ppmn", "flag")


def test_both_environments_configure_the_png_pipelines(conf):
    for env in ("mini", "paper"):
        parameters = conf(env)["parameters"]
        png = PngConfig.model_validate(parameters["png"])
        PngTablesConfig.model_validate(parameters["png_tables"])
        assert png.scale == env
    assert png.data.image_size == 1024 and png.data.mask_size == (256, 256)
    assert (png.train.learning_rate, png.train.batch_size) == (1e-4, 16)
    assert png.train.max_steps == 180_000 and png.train.mixed_precision == "bf16"
    assert png.model.checkpoint and png.model.insertion == "both" and png.model.decode
    assert (png.model.mlma.width, png.model.mlma.layers, png.model.decoder.layers) == (256, 6, 9)
