"""What the report lists is what the papers have, what the index says, and what pipelines write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from diffground.adapters.catalog_docs import load_catalog
from diffground.pipeline_registry import register_pipelines
from diffground.reproduction.contents import PARTS, PUBLISHED, Contents, Item

ROOT = Path(__file__).resolve().parents[2]
#: How many tables and figures the papers have.
COUNTS = {"png": (4, 6), "text2mask": (10, 9), "grounded": (10, 15), "iosd": (2, 5)}
#: Whose section of papers.md is whose; two papers share one.
SECTIONS = {
    "png": ("Dynamic Prompting", ""),
    "text2mask": ("From Text to Mask", ""),
    "grounded": ("Improved grounded", "003"),
    "iosd": ("Improved grounded", "004"),
}
ITEMS = [(part, item) for part in PARTS for item in Contents.of(part).items]
NUMBER = r"(?:[A-Z]\.)?\d+"


def labels(words: str) -> Iterator[str]:
    """``Figures 4, 6 to 8 and B.7`` one by one."""
    for kind, listed in re.findall(
        rf"(Table|Figure)s? ({NUMBER}(?:(?:, | and | to ){NUMBER})*)", words
    ):
        for span in re.split(", | and ", listed):
            first, _, last = span.partition(" to ")
            named = range(int(first), int(last) + 1) if last else [first]
            yield from (f"{kind} {number}" for number in named)


def index(part: str) -> dict[str, list[str]]:
    """Table or figure -> the commands that papers.md has for it."""
    heading, prefix = SECTIONS[part]
    text = (ROOT / "catalog_docs/papers.md").read_text("utf-8")
    section = next(s for s in text.split("\n## ") if s.startswith(heading))
    found: dict[str, list[str]] = {}
    for table in section.split("| table or figure |")[1:]:
        for row in table.partition("\n\n")[0].splitlines()[2:]:
            words, command = row.split("|")[1:3]
            if words.strip().startswith(prefix):
                for label in labels(words):
                    commands = re.findall(r"`(kedro run --pipelines \w+)`", command)
                    found.setdefault(label, []).extend(commands)
    return found


@pytest.mark.parametrize("part", COUNTS)
def test_every_table_and_figure_of_a_paper_is_listed_once(part: str) -> None:
    listed = [item.label for item in Contents.of(part).items if item.label]
    kinds = [label.split()[0] for label in listed]
    assert len({*listed}) == len(listed)
    assert (kinds.count("Table"), kinds.count("Figure")) == COUNTS[part]


@pytest.mark.parametrize("part", SECTIONS)
def test_the_index_says_the_same(part: str) -> None:
    said = index(part)
    items = {item.label: item for item in Contents.of(part).items if item.label}
    assert said.keys() == items.keys()
    for label, item in items.items():
        assert item.command in said[label] if item.command else not said[label], label


def test_labels_are_read() -> None:
    words = "Tables 3 and 4: x; Figures 4, 6 to 8 and B.7: y; Table B.10"
    assert [*labels(words)] == [
        "Table 3", "Table 4", "Figure 4", "Figure 6", "Figure 7", "Figure 8", "Figure B.7",
        "Table B.10",
    ]  # fmt: skip


def test_every_published_table_is_shown() -> None:
    shown = {(table.of, table.name) for _, item in ITEMS for table in item.tables}
    assert shown == {(of, name) for of, paper in PUBLISHED.items() for name in paper.tables}


def test_a_command_leaves_what_fills_the_item() -> None:
    """As an entry that may be missing until then."""
    catalog, pipelines = load_catalog(ROOT), register_pipelines()
    for part, item in ITEMS:
        written = pipelines[item.command.split()[-1]].all_outputs() if item.command else set()
        assert {*item.entries} <= written, f"{part}: {item.title}"
        for entry in item.entries:
            assert catalog[entry]["type"].rpartition(".")[2].startswith("Optional"), entry


def test_code_that_stands_for_a_drawing_is_in_the_index() -> None:
    """Where another test imports every name."""
    text = (ROOT / "catalog_docs/papers.md").read_text("utf-8")
    assert not [name for _, item in ITEMS for name in item.code if f"`{name}`" not in text]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reason": "none"}, "either a command, or code, or a reason"),
        ({"command": "", "pictures": ()}, "either a command, or code, or a reason"),
        ({"pictures": ()}, "goes with tables, kept figures or pictures"),
        ({"label": "Tab. 1"}, "label"),
        ({"tables": ({"of": "png", "name": "nothing"},)}, "there are components"),
        ({"tables": ({"of": "png", "name": "mlma", "rows": ("x",)},)}, "the table has no"),
    ],
)
def test_an_item_that_is_none(change: dict[str, object], message: str) -> None:
    item = {"title": "x", "command": "kedro run --pipelines png_tables", "pictures": ("a",)}
    with pytest.raises(ValidationError, match=re.escape(message)):
        Item.model_validate(item | change)
