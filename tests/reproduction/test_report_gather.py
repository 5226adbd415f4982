"""What was measured stands beside what the papers print, whatever part of it is there."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from report_world import COMMIT, kept, table

from diffground.errors import InputError
from diffground.reproduction.contents import PARTS, Contents
from diffground.reproduction.gather import ReportItem, ReportPart, gather


def gathered(part: str, **found: Any) -> ReportPart:
    contents = Contents.of(part)
    assert {*found} <= {*contents.entries}
    return gather(contents, dict.fromkeys(contents.entries) | found)


def item(part: ReportPart, label: str) -> ReportItem:
    return next(one for one in part.items if label in (one.label, one.title))


@pytest.mark.parametrize("part", PARTS)
def test_with_nothing_measured_everything_is_named(part: str) -> None:
    for one in gathered(part).items:
        assert one.state in ("not measured yet", "in the code", "not reproduced")
        assert {bool(one.command), bool(one.code), bool(one.reason)} == {True, False}
        assert bool(one.missing) == (one.state == "not measured yet") and not one.pictures
        for shown in one.tables:
            assert shown.scale is None and all(row.seeds == 0 for row in shown.rows)
            assert all(entry.holds is None for entry in shown.orderings)


def test_the_papers_figures_stand_there_before_a_run() -> None:
    [shown] = item(gathered("png"), "Table 2").tables
    rows = {row.name: row for row in shown.rows}
    assert rows["+ EIPA"].paper["overall"] == 62.9 and "Baseline, learned projection" not in rows
    assert rows["+ EIPA"].settings["change"]["model"]["insertion"] == "both"
    assert shown.orderings[0].paper_gap == pytest.approx(62.9 - 37.8)
    [seeds] = item(gathered("text2mask"), "Table B.8").tables
    assert (seeds.rows[-1].name, seeds.rows[-1].paper) == ("mean", {"mIoU": 74.4})
    [others] = item(gathered("png"), "Table 1").tables
    assert len(others.rows) == 14 and others.rows[0].paper["overall"] == 49.7


def test_measured_rows_and_orderings_stand_beside_those_that_are_not() -> None:
    measured = table("png", "components", {"+ EIPA": [50.0, 52.0], "Baseline": [54.0]})
    one = item(gathered("png", png_tables=kept(measured)), "Table 2")
    [shown] = one.tables
    assert (one.state, one.missing) == ("measured", ())
    assert (shown.scale, shown.seconds, shown.hardware) == ("mini", 90.0, "cpu: toy")
    assert shown.notes == ("Mind <this> & `that`.",) and shown.config == {
        "compat": "paper",
        "seed": 3,
    }
    rows = {row.name: row for row in shown.rows}
    assert [*rows] == ["Baseline", "+ EIPA", "+ MLMA", "+ EIPA + MLMA"], "in the paper's order"
    assert rows["+ EIPA"].mean == {"overall": 51.0} and rows["+ EIPA"].commit == COMMIT
    assert (rows["+ MLMA"].seeds, rows["+ MLMA"].paper["overall"]) == (0, 64.1)
    verdicts = {entry.claim: entry.holds for entry in shown.orderings}
    assert verdicts["+ EIPA > Baseline (overall)"] is False
    assert verdicts["+ MLMA > Baseline (overall)"] is None and len(verdicts) == 5


def test_tables_that_are_not_there_are_named_beside_those_that_are() -> None:
    part = gathered("png", png_tables=kept(table("png", "mlma", {"Deform-Attn": [1.0]})))
    assert item(part, "Table 4").state == "measured"
    assert item(part, "Table 2").state == item(part, "Figure 4").state == "not measured yet"
    assert item(part, "Figure 4").missing == ("png_figure4",)


def test_one_measured_table_may_be_two_of_the_papers() -> None:
    values = {
        "VOC 2012 val: pseudo masks": [40.0],
        "VOC 2012 val: DeepLabV2": [45.0],
        "COCO 2014 val: DeepLabV2": [30.0],
    }
    part = gathered("text2mask", text2mask_tables=kept(table("text2mask", "segmenter", values)))
    [voc], [coco] = item(part, "Table 3").tables, item(part, "Table 4").tables
    deeplab = next(row for row in voc.rows if row.name == "VOC 2012 val: DeepLabV2")
    assert deeplab.mean == {"mIoU": 45.0} and deeplab.paper == {"mIoU": 71.2, "test": 71.5}
    assert [row.name for row in coco.rows if row.seeds] == ["COCO 2014 val: DeepLabV2"]
    assert not [row for row in voc.rows if "COCO 2014" in row.name]
    assert all("COCO 2014" not in entry.claim for entry in voc.orderings)
    assert {entry.holds for entry in voc.orderings} == {True, None}


def test_curves_groups_and_sets_of_nouns_are_shown_as_they_were_run() -> None:
    curve = table("text2mask", "sweeps", {"time step 50": [1.0]}, table="Figure B.8: timestep")
    groups = table("text2mask", "similarity", {"13 groups": [-0.5]})
    part = gathered("text2mask", text2mask_tables=kept(curve, groups))
    sweeps = item(part, "Figure B.8")
    assert [one.title for one in sweeps.tables] == ["Figure B.8: timestep"]
    assert (sweeps.state, sweeps.missing) == ("partly measured", ("text2mask_figure_b8",))
    [similar] = item(part, "Figure D.9").tables
    assert [row.name for row in similar.rows] == ["13 groups"], "which are the paper's groups"
    title = "Table 3: insertion of EIPA, held-out nouns: ball"
    held_out = table("png", "insertion", {"Encoder": [1.0]}, table=title)
    whole = table("png", "insertion", {"Encoder": [2.0]})
    both = item(gathered("png", png_tables=kept(whole, held_out)), "Table 3").tables
    assert [one.title for one in both] == ["Table 3: insertion of EIPA", title]


def test_figures_that_a_pipeline_keeps_are_a_table_with_deviations() -> None:
    ar = {"overall": 40.0, "things": None}
    metrics = {"ar": ar, "insertion": "both", "zero_shot": False, "scale": "mini", "commit": "c"}
    one = item(gathered("png", png_metrics=metrics), "Table 1")
    row = one.tables[0].rows[-1]
    assert one.state == "measured" and one.tables[0].config["insertion"] == "both"
    assert (
        row.mean["overall"] == 40.0 and row.mean["things"] is None and row.paper["overall"] == 64.5
    )
    other = item(gathered("png", png_metrics=metrics | {"insertion": "none"}), "Table 1")
    assert other.state == "not measured yet", "the last evaluation was of another model"
    turbo = {"steps": {"1": {"found_each": 0.5, "deviation": {"found_each": 0.1}}}}
    part = gathered("foundation", foundation_turbo=turbo)
    first, second, *_ = item(part, "the mini SDXL-Turbo").tables[0].rows
    assert (first.mean["each"], first.sd) == (0.5, {"each": 0.1})
    assert second.mean == {"each": None, "both": None}


def test_pictures_are_small_copies() -> None:
    part = gathered("png", png_figure5=Image.new("RGB", (2800, 100), "red"))
    [picture] = item(part, "Figure 5").pictures
    assert (picture.entry, picture.width, picture.height) == ("png_figure5", 1400, 50)
    assert picture.png.startswith(b"\x89PNG") and "png" not in picture.model_dump()


@pytest.mark.parametrize("content", [[{"table": "x"}], {"rows": []}])
def test_what_is_no_table_names_the_entry(content: Any) -> None:
    with pytest.raises(InputError, match=r"^png_tables: ") as caught:
        gathered("png", png_tables=content)
    assert caught.value.file == "png_tables"


def test_what_is_no_object_names_the_entry() -> None:
    with pytest.raises(InputError, match="png_metrics: content: is no object"):
        gathered("png", png_metrics=[1])
