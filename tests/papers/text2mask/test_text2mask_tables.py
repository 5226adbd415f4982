"""Rows as changes of the experiment, what they share, their claims, and the figures."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic import ValidationError
from tiny_text2mask import config, folders, frozen, split, tables_config

from diffground.errors import InputError
from diffground.experiments.result_tables import ResultTable, measured_row
from diffground.experiments.runner import run_tables
from diffground.io.labels import colour_map
from diffground.papers.text2mask.experiment import aggregate, label
from diffground.papers.text2mask.figures import mask_sheet, sweep_curves
from diffground.papers.text2mask.segmenter_training import train_segmenter
from diffground.papers.text2mask.similarity import (
    Similarity,
    class_similarities,
    correlation,
    similarity_figure,
    similarity_table,
)
from diffground.papers.text2mask.tables import Text2MaskTables
from diffground.papers.text2mask.tables_config import (
    SweepConfig,
    Text2MaskRow,
    Text2MaskTablesConfig,
)
from diffground.reporting.sheet import heat
from diffground.segmenters.deeplab import DeepLabV2
from diffground.segmenters.resnet import load_resnet

TRAIN = {"dataset": "voc2012", "split": "train"}
COCO = {"train": {"dataset": "coco2014", "split": "train"}}
COCO |= {"val": {"dataset": "coco2014", "split": "val"}, "change": {"attention": {"noises": 1}}}


def bench(root, *tables: str, base=None, **options) -> Text2MaskTables:
    asked = tables_config(tables=tables, train=TRAIN, **options)
    return Text2MaskTables(base or config(), asked, frozen(), **folders(root))


def tables_of(root, *tables: str, **options) -> list[ResultTable]:
    return run_tables(bench(root, *tables, **options))


def test_the_paper_s_rows_and_figures(tmp_path):
    published = Text2MaskTablesConfig.published.tables
    rows = {name: published[name].rows for name in ("noises", "attention", "prompts")}
    assert [len(found) for found in rows.values()] == [2, 9, 8]
    figures = {row.name: row.paper for row in rows["attention"]}
    assert (
        figures["SelfCross"] == {"initial": 72.7, "dCRF": 74.4}
        and not figures["DAAM, 30 time steps"]
    )
    queries = {row.name: row.paper["mIoU"] for row in rows["prompts"]}
    assert queries["composed, Syn., BG."] == 74.4 and queries["separate"] == 72.1
    seeds = published["seeds"]
    mean = sum(row.paper["mIoU"] for row in seeds.rows) / 5
    assert round(mean, 1) == seeds.average["mIoU"] == 74.4
    asked = bench(tmp_path, "noises")
    for row in [row for found in rows.values() for row in found]:
        assert asked.config(row).attention.noises == (10 if row.name == "10 noises" else 1)


def test_a_row_changes_parts_of_sections_only(tmp_path):
    base = config(attention={"timestep": 7}, masks={"threshold": 0.7})
    asked = Text2MaskRow(name="x", change={"attention": {"noises": 3}, "seed": 5})
    row = bench(tmp_path, "noises", base=base).config(asked)
    assert (row.attention.noises, row.attention.timestep, row.seed) == (3, 7, 5)
    assert row.masks == base.masks and row.segmenter == base.segmenter


def test_attention_rows_share_maps_and_are_not_made_twice(tmp_path):
    (table,) = tables_of(tmp_path, "attention")
    # Compat paper and rows not sharpened are the tiny recipe itself: no rows of their own.
    names = ["Cross", "CBP", "SelfCross", "Cross+SelfCross"]
    names += ["DAAM, one time step", "DAAM, 30 time steps", "SelfCross, compat official"]
    assert [row.name for row in table.rows] == names
    assert table.rows[4].mean != table.rows[5].mean and "head by head" in table.config["notes"][0]
    assert all(set(row.mean) == {"initial", "dCRF"} for row in table.rows)
    # SelfCross (for Cross and both as well), CBP, both DAAMs, and official.
    assert len([p for p in (tmp_path / "maps").iterdir() if p.is_dir()]) == 5
    assert [entry.claim for entry in table.orderings][:2] == [
        "SelfCross > Cross (initial)",
        "SelfCross > Cross (dCRF)",
    ]
    assert table.orderings[0].paper_gap == pytest.approx(11.0)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert tables_of(tmp_path, "attention") == [table]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == stamps


def test_query_rows_have_the_classes_that_the_data_has(tmp_path):
    asked = ("separate", "composed", "composed, BG.")
    (table,) = tables_of(tmp_path, "prompts", rows=asked)
    assert tuple(row.name for row in table.rows) == asked
    assert table.columns == ("bird", "boat", "mIoU", "images/s")
    assert table.rows[1].paper == {"bird": 85.3, "boat": 76.4, "mIoU": 73.2}
    claims = [entry.claim for entry in table.orderings]
    assert claims == ["composed > separate (mIoU)", "composed, BG. > composed (boat)"]
    with pytest.raises(ValidationError, match="no row"):
        tables_config(tables=("noises",), train=TRAIN, rows=("composed",))


def test_segmenters_of_both_datasets(tmp_path):
    trainaug, segmenter = tables_of(tmp_path, "trainaug", "segmenter", coco=COCO)
    assert [row.name for row in trainaug.rows] == ["VOC 2012 trainaug", "COCO 2014 train"]
    assert trainaug.rows[1].paper == {"initial": 43.7, "dCRF": 45.3}
    papers = [{}, {"mIoU": 71.2}, {"mIoU": 73.3}, {}, {}, {"mIoU": 45.7}]
    assert [row.paper for row in segmenter.rows] == papers
    assert all(row.mean["mIoU"] is not None for row in segmenter.rows)
    assert len(segmenter.orderings) == 3 and segmenter.seconds
    # VOC from nothing, from COCO and on true masks; COCO on true masks (for VOC's) and on pseudo.
    assert len(list((tmp_path / "models").glob("deeplab-*/training.json"))) == 5
    (voc,) = tables_of(tmp_path, "segmenter")
    assert voc.rows == (*segmenter.rows[:2], segmenter.rows[3])


def test_a_segmenter_starts_from_what_learnt_on_coco(tmp_path):
    rows = ("VOC 2012 val: DeepLabV2", "VOC 2012 val: DeepLabV2, COCO pre-trained")
    (table,) = tables_of(tmp_path, "segmenter", rows=rows, coco=COCO)
    assert [entry.claim for entry in table.orderings] == [f"{rows[1]} > {rows[0]} (mIoU)"]
    (backbone,) = (tmp_path / "models").glob("deeplab-*/backbone")
    assert load_resnet(backbone).config.hidden_sizes == [8, 8]
    trained = DeepLabV2.from_pretrained(backbone.parent / "model").backbone.state_dict()
    assert all((trained[k] == v).all() for k, v in load_resnet(backbone).state_dict().items())
    given = COCO | {"pretrained": backbone}
    (same,) = tables_of(tmp_path / "other", "segmenter", rows=rows[1:], coco=given)
    assert same.rows == table.rows[1:]
    assert len(list((tmp_path / "other/models").glob("deeplab-*"))) == 1, "none on COCO"


def test_true_masks_need_no_pseudo_masks(tmp_path):
    name = "VOC 2012 val: DeepLabV2 on true masks"
    (table,) = tables_of(tmp_path, "segmenter", rows=(name,))
    assert [row.name for row in table.rows] == [name] and not (tmp_path / "masks").exists()
    source = {"dataset": "voc2012", "split": "test", "labels": "none"}
    test = split(tmp_path, supervision="truth", source=source)
    with pytest.raises(InputError, match="has no masks"):
        train_segmenter(test, tmp_path / "models")


def test_seeds_noises_and_sweeps(tmp_path):
    sweeps = SweepConfig(
        timestep=(1, 100), self_layer=(14,), thresholds=(0.4, 0.5), powers=(1.0, 2.0), noises=(1, 2)
    )
    seeds, *curves = tables_of(tmp_path, "seeds", "sweeps", seeds=(40, 41), sweeps=sweeps)
    assert [row.name for row in seeds.rows] == ["seed 40", "seed 41", "mean"]
    assert seeds.rows[2].seeds == 2 and "mIoU" in seeds.rows[2].sd
    assert seeds.rows[0].paper == {"mIoU": 74.5}
    assert not seeds.rows[2].paper, "the paper's mean is of five seeds"
    names = [table.table for table in curves]
    assert names == [f"Figure B.8: {n}" for n in ("timestep", "self_layer", "background", "noises")]
    assert [row.name for row in curves[2].rows][:2] == [
        "power 1, threshold 0.8",
        "power 1, threshold 1",
    ]
    # The recipe at two steps, another layer, two noises, two seeds: six folders of maps.
    assert len([p for p in (tmp_path / "maps").iterdir() if p.is_dir()]) == 6
    figure = sweep_curves([seeds, *curves])
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "time step",
        "self layer",
        "background threshold",
        "noises",
    ]
    assert [len(axis.lines) for axis in figure.axes] == [2, 2, 4, 2]
    assert isinstance(sweep_curves([seeds]), Figure)


def test_figure_4_shows_the_images_with_the_most_classes(tmp_path):
    source = split(tmp_path)
    empty = mask_sheet(source, 2)  # nothing is made yet
    aggregate(source, frozen())
    label(source)
    one, two = mask_sheet(source, 1), mask_sheet(source, 2)
    titles = 7  # image, score, before, after, without uncertain pixels, pseudo mask, truth
    assert one.dtype == np.uint8
    assert {page.shape[1] for page in (empty, one, two)} == {titles * 208 + 8 * 12}
    assert one.shape[0] - empty.shape[0] == two.shape[0] - one.shape[0] > 208, "rows, with captions"
    most = max(source.samples, key=lambda sample: len(sample.classes))
    below = one[-130:].reshape(-1, 3).tolist()  # the legend under the pictures, and the scale
    for colour in [colour_map()[source.words.index(name)] for name in most.classes]:
        assert below.count(colour.tolist()) > 50
    for value in (0.0, 1.0):
        assert heat(np.array([[value]]))[0, 0].tolist() in below
    assert (empty[:40] != 255).any(), "headed"


def test_correlation_over_images_and_groups():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 200)
    y = 60 - 20 * x + rng.normal(0, 10, 200)
    points = [
        Similarity(str(i), float(a), float(b)) for i, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    lines, groups = correlation(points, 13)
    assert lines["images"]["r"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert len(groups) == 13 == lines["groups"]["points"]
    assert lines["groups"]["r"] < lines["images"]["r"] < 0 and lines["groups"]["p"] < 0.01
    assert np.mean([group[1] for group in groups]) == pytest.approx(y.mean(), abs=0.5)
    assert correlation(points[:2], 13)[0] == {} and correlation([], 13) == ({}, [])
    assert len(similarity_figure(points, groups, lines, "mini").axes) == 1
    assert len(similarity_figure([], [], {}, "mini").axes) == 1


def test_the_paper_s_p_is_that_of_thirteen_points():
    """r = -0.73 has p = 0.0049 with 13 points, and with no other number of them."""
    rng = np.random.default_rng(1)
    x = np.arange(13.0)
    noise = rng.normal(size=13)
    design = np.stack([np.ones(13), x], 1)
    noise -= design @ np.linalg.lstsq(design, noise, rcond=None)[0]
    centred = (x - x.mean()) / np.linalg.norm(x - x.mean())
    y = -0.73 * centred + np.sqrt(1 - 0.73**2) * noise / np.linalg.norm(noise)
    points = [
        Similarity(f"{i:02d}", float(a), float(b))
        for i, (a, b) in enumerate(zip(x, y, strict=True))
    ]
    line = correlation(points, 13)[0]["images"]
    assert line["r"] == pytest.approx(-0.73) and line["p"] == pytest.approx(0.0049, abs=4e-4)


def test_similarities_are_cosines_of_the_classes_of_an_image(tmp_path):
    source = split(tmp_path)
    aggregate(source, frozen())
    label(source)
    points = class_similarities(source, frozen())
    several = {sample.id for sample in source.samples if len(sample.classes) > 1}
    assert {point.id for point in points} == several
    assert all(-1 <= point.similarity <= 1.001 and 0 <= point.miou <= 100 for point in points)
    lines, _ = correlation(points, 3)
    table = similarity_table(source, lines)
    assert [row.name.split()[1] for row in table.rows] == ["groups", "images"]
    assert table.rows[0].paper == {"r": -0.73, "p": 0.0049}
    assert measured_row("x", [{"r": 1.0}]).mean == {"r": 1.0}
