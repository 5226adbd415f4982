"""What papers report, read from files; which rows are asked for; settings laid over others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from diffground.config import Config
from diffground.errors import InputError
from diffground.experiments.published import PublishedPaper, PublishedRow, TablesConfig, changed

TABLE: dict[str, Any] = {
    "table": "Table 1",
    "note": "Ours is smaller.",
    "columns": ["AR"],
    "rows": [
        {"name": "with", "change": {"net": {"wide": True}}, "paper": {"AR": 2}},
        {"name": "x"},
    ],
    "claims": [["with", "x", "AR"]],
}
PAPER: dict[str, Any] = {"paper": "A paper", "source": "its Table 1", "tables": {"one": TABLE}}


def read(folder: Path, **changes: Any) -> PublishedPaper[PublishedRow]:
    """The paper with parts of its table changed."""
    file = folder / "paper_tables.json"
    file.write_text(json.dumps(PAPER | {"tables": {"one": TABLE | changes}}))
    return PublishedPaper[PublishedRow].read(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [{"name": "x", "paper": {"AR": "much"}}]}, r"tables\.one\.rows\.0\.paper\.AR: "),
        ({"rows": [{"name": "x", "chagne": {}}]}, r"tables\.one\.rows\.0\.chagne: Extra inputs"),
        ({"rows": [{"name": "x"}] * 2}, r"tables\.one: .*a row's name stands twice"),
        ({"claims": [["with", "y", "AR"]]}, r"tables\.one: .*\['y'\]; there are \['with', 'x'\]"),
        ({"claims": [["with", "x", "mIoU"]]}, r"tables\.one: .*'mIoU'; there are \('AR',\)"),
        ({"claims": [["with", "x"]]}, r"tables\.one\.claims\.0\.2: Field required"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path, changes, message):
    with pytest.raises(InputError, match=rf"paper_tables\.json: {message}"):
        read(tmp_path, **changes)


def test_rows_are_asked_for_by_name(tmp_path):
    class Asked(TablesConfig):
        published: ClassVar = read(tmp_path)

    assert [row.name for row in Asked(tables=("one",), rows=None).table("one").rows] == [
        "with",
        "x",
    ]
    assert [row.name for row in Asked(tables=("one",), rows=("x",)).table("one").rows] == ["x"]
    with pytest.raises(ValidationError, match=r"no row \['y'\] in these tables; there are"):
        Asked(tables=("one",), rows=("x", "y"))


class Net(Config):
    wide: bool = False
    layers: int = 3


class Toy(Config):
    net: Net = Net()
    options: dict[str, int] | None = None
    seed: int = 0


def test_changes_are_laid_over_section_by_section():
    base = Toy(net=Net(layers=5), options={"a": 1})
    found = changed(base, "toy_tables", {"net": {"wide": True}, "options": {"b": 2}}, {"seed": 1})
    assert found == Toy(net=Net(wide=True, layers=5), options={"a": 1, "b": 2}, seed=1)
    assert changed(base, "toy_tables", {"net": Net(), "options": None}) == Toy()
    with pytest.raises(InputError, match=r"toy_tables: net\.layers: Input should be a valid int"):
        changed(base, "toy_tables", {"net": {"layers": "many"}})
