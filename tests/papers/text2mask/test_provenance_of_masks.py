"""Maps, masks and segmenters of other code are made again; rows say which commit made them."""

from __future__ import annotations

import pytest
from tiny_text2mask import config, folders, frozen, tables_config

from diffground.attention import aggregate as aggregation
from diffground.attention import baselines
from diffground.experiments.runner import run_tables
from diffground.masks import crf
from diffground.masks import mask_files as masks
from diffground.papers.text2mask.tables import Text2MaskTables
from diffground.segmenters import crops as labelled

TRAIN = {"dataset": "voc2012", "split": "train"}


@pytest.fixture
def rows(tmp_path, caplog):
    """Runs rows of a table; what made them, by name, and which versions had changed."""

    def run(table: str, *names: str) -> tuple[dict[str, str], list[str]]:
        caplog.clear()
        asked = tables_config(tables=(table,), train=TRAIN, rows=names)
        (found,) = run_tables(Text2MaskTables(config(), asked, frozen(), **folders(tmp_path)))
        lines = [m for m in caplog.messages if "made again, as the code" in m]
        made = {row.name: row.commit for row in found.rows}
        assert set(made) == set(names) and all(row.date for row in found.rows)
        return made, [line.partition("another one: ")[2] for line in lines]

    return run


def test_rows_keep_the_commit_that_made_them_until_their_code_changes(rows, made_by, monkeypatch):
    names = "SelfCross", "CBP"
    first = made_by("a")
    assert rows("attention", *names) == ({name: first for name in names}, [])
    second = made_by("b")
    assert rows("attention", *names) == ({name: first for name in names}, [])  # found
    monkeypatch.setattr(baselines, "CODE_VERSION", 2)
    found, why = rows("attention", *names)
    assert found == {"SelfCross": first, "CBP": second}
    assert why == ["baselines 1 → 2"] * 2  # maps, and the masks that are made of them
    third = made_by("c")
    monkeypatch.setattr(crf, "CODE_VERSION", 2)
    found, why = rows("attention", *names)
    assert found == {"SelfCross": f"{first}, {third}", "CBP": f"{second}, {third}"}
    assert why == ["crf 1 → 2"] * 2  # masks only
    assert rows("attention", *names) == (found, [])


@pytest.mark.parametrize(
    ("module", "lines"),
    [
        (aggregation, ["aggregate 2 → 3"] * 3),  # maps, masks, segmenter
        (masks, ["masks 1 → 2"] * 2),
        (labelled, ["crops 1 → 2"]),
    ],
)
def test_a_segmenter_follows_its_own_code_and_that_of_its_masks(
    rows, made_by, monkeypatch, module, lines
):
    name = "VOC 2012 val: DeepLabV2"
    first = made_by("a")
    assert rows("segmenter", name) == ({name: first}, [])
    second = made_by("b")
    assert rows("segmenter", name) == ({name: first}, [])
    monkeypatch.setattr(module, "CODE_VERSION", module.CODE_VERSION + 1)
    found, why = rows("segmenter", name)
    assert why == lines and second in found[name]
    assert (first in found[name]) == (len(lines) < 3)  # whose maps are still the first's
