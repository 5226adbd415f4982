"""Rows as changes of the experiment, what they share, their claims, and Figure 5."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from recipes import recipe
from tiny_personalized import config, frozen, scenes

from diffground.experiments.runner import run_tables
from diffground.papers.personalized.rows import METHODS
from diffground.papers.personalized.tables import PersonalizedTables
from diffground.papers.personalized.tables_config import PersonalizedTablesConfig

ROWS = ("Ours", "Context Only", "Chance")


def bench(root: Path, *tables: str, **options) -> PersonalizedTables:
    asked = recipe(PersonalizedTablesConfig, tables=tables, **{"figures": 1, **options})
    return PersonalizedTables(
        config(), asked, scenes(), frozen(), root / "tokens", root / "answers"
    )


def test_the_paper_s_rows_and_figures() -> None:
    published = PersonalizedTablesConfig.published.tables
    rows = {row.name: row for row in published["splits"].rows}
    assert len(rows) == 7 and all(len(row.paper) in (0, 9) for row in rows.values())
    assert rows["Ours"].paper["All af_acc"] == 83.3 and rows["Ours"].paper["Visual mIoU"] == 56.8
    assert rows["Subject Only"].paper["Semantic bf_acc"] == 79.3
    # Its masks are the truth: what is right has an IoU of 1, and mIoU is af_acc.
    for split in ("All", "Semantic", "Visual"):
        paper = rows["Mask R-CNN"].paper
        assert paper[f"{split} mIoU"] == paper[f"{split} af_acc"]
    combined = {row.name: row for row in published["combinations"].rows}
    assert combined["Custom + SelfCross"].paper == rows["Ours"].paper
    assert combined["PALAVRA + SelfCross"].paper["Visual af_acc"] == 74.5
    variant = {row.name: row.paper for row in published["variant"].rows}
    assert variant["Ours"] == {
        "Variant mIoU": 69.2, "Variant bf_acc": 60.7, "Variant af_acc": 88.3
    }  # fmt: skip
    assert len(variant) == 7
    for table in published.values():
        for row in table.rows:
            assert row.change.get("method", "ours") in METHODS


def test_rows_share_tokens_and_are_run_once(tmp_path: Path) -> None:
    asked = bench(tmp_path, "splits", "variant", rows=ROWS)
    splits, variant = run_tables(asked, (0, 1))
    assert [row.name for row in splits.rows] == ["Context Only", "Ours", "Chance"]
    ours = splits.rows[1]
    assert ours.seeds == 2 and {"All mIoU", "All bound", "Visual af_acc"} <= set(ours.mean)
    assert ours.mean["All bound"] >= ours.mean["All mIoU"] and ours.commit
    assert [entry.claim for entry in splits.orderings] == [
        "Ours > Context Only (All af_acc)",
        "Ours > Context Only (All mIoU)",
        "Ours > Chance (All af_acc)",
    ]
    assert set(variant.rows[0].mean) == {
        "Variant mIoU", "Variant bf_acc", "Variant af_acc", "Variant bound"
    }  # fmt: skip
    # Two seeds of tokens; three methods with two seeds.
    assert len(list((tmp_path / "tokens").glob("tokens-*/manifest.json"))) == 2
    assert len(list((tmp_path / "answers").glob("*-*/manifest.json"))) == 6
    assert splits.config["compat"] == "paper" and splits.seconds
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    again = run_tables(asked, (0, 1))
    assert again == [splits, variant]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == files
    figure = asked.figure5()
    assert figure.width == 5 * 208 + 6 * 12, "item, three methods, scene"


def test_own_rows_that_are_the_recipe_are_left_out(tmp_path: Path) -> None:
    (found,) = [table for _, table in bench(tmp_path, "settings").tables()]
    names = [row.name for row in found.rows]
    assert "Ours" in names and "segments by the eigengap" in names
    # The tiny recipe has these settings.
    assert not {"as many segments as objects", "every word is read", "compat paper"} & {*names}
    with pytest.raises(ValidationError, match="no row"):
        bench(tmp_path, "variant", rows=("PALAVRA + CLIP-ES",))
