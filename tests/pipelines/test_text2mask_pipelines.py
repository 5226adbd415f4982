"""The Text2Mask pipelines over a tiny dataset and a tiny diffusion model."""

from __future__ import annotations

import json
import logging
import tarfile

import numpy as np
import pytest
import tiny_png
from kedro.pipeline import Pipeline
from memory_runs import run_in_memory
from PIL import Image
from pydantic import ValidationError
from recording import recorded
from tiny_text2mask import TINY, config, tables_config, world

from diffground.adapters.run_log import flatten
from diffground.errors import InputError
from diffground.experiments.result_tables import ResultTable
from diffground.papers.text2mask.config import Text2MaskConfig
from diffground.papers.text2mask.tables_config import Text2MaskTablesConfig
from diffground.pipeline_registry import register_pipelines
from diffground.pipelines.text2mask import create_pipeline, nodes
from diffground.tracking import numbers

TABLES = tables_config(
    **{
        "tables": ["noises", "sweeps"],
        "train": {"dataset": "voc2012", "split": "train"},
        "sweeps": {"timestep": [1, 100]},
        "bins": 3,
    },
)


@pytest.fixture
def run(tmp_path):
    """Runs a pipeline and returns all that it made, by name."""

    def _run(pipeline, text2mask: Text2MaskConfig, tables: Text2MaskTablesConfig = TABLES):
        inputs = {
            "voc2012": world() / "voc2012",
            "coco2014": world() / "coco2014",
            "coco2014_folder": world() / "coco2014",
            "text2mask_diffusion": tiny_png.backbone().folder,
            "text2mask_images": tmp_path / "images",
            **{
                f"text2mask_{name}_folder": tmp_path / name
                for name in ("maps", "masks", "models", "predictions")
            },
            "params:text2mask": text2mask,
            "params:text2mask_tables": tables,
        }
        return run_in_memory(pipeline, inputs)

    return _run


def everything() -> Pipeline:
    return create_pipeline(["maps", "masks", "segmenter"])


def text2mask_tables() -> Pipeline:
    return create_pipeline(["tables"])


def test_from_images_to_a_segmenter(run, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "diffground"):
        out = run(everything(), config())
    maps, masks = out["text2mask_maps_report"], out["text2mask_masks_report"]
    assert [(row["split"], row["made"]) for row in maps] == [("train_aug", 10), ("val", 3)]
    assert [(row["split"], row["made"]) for row in masks] == [("train_aug", 10), ("val", 3)]
    metrics = out["text2mask_metrics"]
    assert [row["dcrf"]["images"] for row in metrics] == [10, 3]
    assert "initial: mIoU" in caplog.text and "DeepLabV2 on val: mIoU" in caplog.text
    assert isinstance(out["text2mask_figure4"], Image.Image)
    training = out["text2mask_training"]
    assert training["trained"] and (training["steps"], training["images"]) == (3, 10)
    found = out["text2mask_segmenter_metrics"]
    assert found["split"] == "val" and found["images"] == 3
    assert found["pseudo_masks_miou"] == metrics[1]["dcrf"]["miou"]
    assert len(list((tmp_path / "predictions").glob("val-deeplab-*/*.png"))) == 3
    assert out["text2mask_segmenter"] == tmp_path / "models" / training["folder"]
    assert (out["text2mask_segmenter"] / "model/model.safetensors").exists()
    folders = ("text2mask_maps", "text2mask_masks", "text2mask_predictions", "text2mask_segmenter")
    others = (*folders, "text2mask_splits", "text2mask_figure4")
    json.dumps({name: content for name, content in out.items() if name not in others})

    again = run(everything(), config())
    assert all(row["made"] == 0 for row in again["text2mask_maps_report"])
    assert again["text2mask_training"] == training | {"trained": False}
    assert again["text2mask_segmenter_metrics"] == found
    assert (np.asarray(again["text2mask_figure4"]) == np.asarray(out["text2mask_figure4"])).all()


def test_what_was_made_with_other_settings_is_not_taken_for_these(run, tmp_path):
    """A node gets folders and samples that an earlier run may have left."""
    out = run(create_pipeline(["maps", "masks"]), config(limit=2))
    splits, maps, masks = (out[f"text2mask_{name}"] for name in ("splits", "maps", "masks"))
    assert list(maps) == list(masks) == list(splits) == ["source", "val"]
    other = config(limit=2, attention={"timestep": 200})
    with pytest.raises(InputError, match="the maps were made with other settings"):
        nodes.label(splits, maps, tmp_path / "masks", other)
    other = config(limit=2, masks={"crf": {"iterations": 3}})
    with pytest.raises(InputError, match="the masks were made with other settings"):
        nodes.measure(splits, masks, other)
    again, _ = nodes.label(splits, maps, tmp_path / "masks", other)
    assert again["val"] != masks["val"], "the same maps, other masks"
    with pytest.raises(InputError, match=r"text2mask: limit: .*begin with read_text2mask_splits"):
        nodes.label(splits, maps, tmp_path / "masks", config(limit=3))


def test_the_test_split_is_labelled_for_its_server(run, tmp_path):
    test = {"dataset": "voc2012", "split": "test", "labels": "none"}
    run(everything(), config(limit=2, test=test))
    (out,) = (tmp_path / "predictions").glob("test-deeplab-*")
    folder = out / "results/VOC2012/Segmentation/comp6_test_cls"
    for name in (".2012_600001-12ab.part", "2007_000001.png"):  # of other runs
        (folder / name).write_bytes(b"half")
    kept = (folder / "2012_600000.png").stat().st_mtime_ns
    (folder / "2012_600001.png").unlink()
    found = run(everything(), config(limit=2, test=test))["text2mask_segmenter_metrics"]
    assert (folder / "2012_600000.png").stat().st_mtime_ns == kept
    (folder / "2007_000001.png").unlink()
    assert found["test"]["images"] == 2 and found["test"]["skipped"]["skipped"] == 0
    labels = sorted(out.glob("results/VOC2012/Segmentation/comp6_test_cls/*.png"))
    assert [path.stem for path in labels] == ["2012_600000", "2012_600001"]
    assert Image.open(labels[0]).mode == "P" and Image.open(labels[0]).size == (64, 64)
    with tarfile.open(out / "results.tgz") as archive:
        files = [member.name for member in archive.getmembers() if member.isfile()]
    assert sorted(files) == [path.relative_to(out).as_posix() for path in labels]


def test_the_segmenter_is_judged_while_it_trains(run, monkeypatch):
    rows = []
    monkeypatch.setattr(
        "diffground.tracking.Tracker.log_metrics",
        lambda self, row, step=None: rows.append((row, step)),
    )
    train = TINY["segmenter"]["train"] | {"evaluate_every": 2}
    often = config(segmenter={"train": train}, limit=2)
    out = run(everything(), often)
    assert [step for row, step in rows if "eval/miou" in row] == [2, 3]
    training = out["text2mask_training"]
    found = out["text2mask_segmenter_metrics"]["scores"]
    assert training["metrics"] == {name: found[name] for name in ("miou", "pixel_accuracy")}
    seldom = run(everything(), config(limit=2))["text2mask_training"]
    assert seldom == training | {"trained": False}, "the same network, in the same folder"


def test_a_missing_test_split_is_said_before_the_training(run, tmp_path):
    test = {"dataset": "folder", "csv": "test.csv", "labels": "none"}
    with pytest.raises(InputError, match="test.csv: list: there is no such file"):
        run(everything(), config(limit=2, test=test))
    assert not list(tmp_path.glob("models/*"))


def test_without_validation_nothing_is_judged(run):
    out = run(create_pipeline(["maps", "masks"]), config(val=None, limit=2))
    assert [row["split"] for row in out["text2mask_metrics"]] == ["train_aug"]
    with pytest.raises(InputError, match="text2mask: val"):
        run(everything(), config(val=None, limit=2))
    with pytest.raises(InputError, match="segmenter"):
        run(everything(), config(segmenter=None, limit=2))
    train = TINY["segmenter"]["train"] | {"evaluate_every": 2}
    with pytest.raises(InputError, match="evaluate_every: there are no true masks"):
        run(everything(), config(segmenter={"train": train}, val=None, limit=2))


def test_the_tables_and_figures(run):
    out = run(text2mask_tables(), config())
    tables = [ResultTable.model_validate(content) for content in out["text2mask_tables"]]
    assert [table.table.partition(":")[0] for table in tables] == [
        "Table 1",
        "Figure B.8",
        "Figure D.9",
    ]
    assert tables[0].rows[1].paper == {"initial": 74.2, "dCRF": 76.1}
    assert tables[0].orderings[1].claim == "10 noises > 1 noise (dCRF)"
    assert "Table 1: pseudo masks" in out["text2mask_tables_text"]
    assert len(out["text2mask_figure_b8"].axes) == len(out["text2mask_figure_d9"].axes) == 1
    assert out["text2mask_figure_b8"].get_suptitle().startswith("mini world")
    assert out["text2mask_figure_d9"].axes[0].get_title() == "mini world"
    again = run(text2mask_tables(), config())
    assert again["text2mask_tables"] == out["text2mask_tables"]


def test_rows_are_logged_as_runs_of_their_own_are(run, monkeypatch):
    """Full parameters, the same names of metrics, Figure 4 as well."""
    tables = tables_config(
        **(
            {"tables": ["segmenter"], "rows": ["VOC 2012 val: DeepLabV2"], "bins": 3}
            | {"train": {"dataset": "voc2012", "split": "train"}}
        ),
    )
    with recorded(monkeypatch) as told:
        run(text2mask_tables(), config(), tables)
    ((name, row),) = told.children.items()
    assert name == "segmenter: VOC 2012 val: DeepLabV2"
    assert flatten(row.params).keys() == flatten({"text2mask": config()}).keys()
    with recorded(monkeypatch) as single:
        out = run(everything(), config())
    saved = "text2mask_segmenter_metrics"
    single.log_metrics(numbers(out[saved], saved))
    own = {m for m in row.metrics if not m.startswith(("table/", "train/"))}
    assert {"miou/train_aug/dcrf", "miou/val/segmenter", f"{saved}/scores/miou"} <= own
    assert own <= single.metrics.keys()
    assert row.files == {"reporting/text2mask_figure4.png"}


def test_parameters_fail_before_a_run():
    with pytest.raises(ValidationError, match="compat"):
        config(attention={"compat": "mine"})
    with pytest.raises(ValidationError, match="style"):
        config(query={"style": "chatty"})
    with pytest.raises(ValidationError, match="dataset"):
        config(source={"dataset": "imagenet"})


def test_both_environments_configure_the_pipelines(conf):
    for env in ("mini", "paper"):
        parameters = conf(env)["parameters"]
        text2mask = Text2MaskConfig.model_validate(parameters["text2mask"])
        tables = Text2MaskTablesConfig.model_validate(parameters["text2mask_tables"])
        assert text2mask.scale == env
        assert text2mask.segmenter and tables.coco
    attention = text2mask.attention
    assert (attention.compat, attention.timestep, attention.noises) == ("official", 150, 10)
    assert (attention.cross_layers, attention.self_layer) == (None, None)  # see test_layers
    assert attention.long_side is None and text2mask.query.lead is None
    train = text2mask.segmenter.train
    assert (train.optimizer, train.max_steps, train.batch_size) == ("sgd", 20_000, 10)
    assert train.rate_factor("aspp.0.bias") == 20 and train.rate_factor("aspp.0.weight") == 10
    assert train.decay_factor("aspp.3.bias") == 0 and train.decay_factor("aspp.3.weight") == 1
    assert text2mask.segmenter.network.batch_norm == "frozen"


def test_the_registry_begins_with_the_data():
    pipelines = register_pipelines()
    for name in ("attention_aggregation", "pseudo_labels", "segmenter_train", "text2mask"):
        assert "make_voc2012" in {node.name for node in pipelines[name].nodes}
    nodes = {node.name for node in pipelines["text2mask"].nodes}
    assert {"aggregate_attention", "make_pseudo_labels", "measure_pseudo_labels"} <= nodes
    assert {"train_segmenter", "evaluate_segmenter"} <= nodes
    tables = {node.name for node in pipelines["text2mask_tables"].nodes}
    assert {"make_voc2012", "make_coco2014", "run_text2mask_tables"} <= tables
