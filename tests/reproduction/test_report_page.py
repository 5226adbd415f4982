"""The page: whole in one file, every item with its anchor, safe, and honest about its scale."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser

from PIL import Image
from report_world import kept, table

from diffground.experiments.result_tables import Ordering
from diffground.provenance import Made
from diffground.reproduction.contents import PARTS, Contents
from diffground.reproduction.gather import Report, gather
from diffground.reproduction.page import render, settings, verdict

OPEN = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Tags that are closed in order, ids, links, sources, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.words = ""
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe"), tag
        if tag not in OPEN:
            self.stack.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if tag == "a" else []
        self.sources += [given["src"] or ""] if "src" in given else []

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def report(**found: object) -> Report:
    parts = []
    for name in PARTS:
        contents = Contents.of(name)
        there = {entry: found.get(entry) for entry in contents.entries}
        parts.append(gather(contents, there))
    return Report(
        parts=tuple(parts),
        made=Made(commit="c" * 40 + "+"),
        hardware="cpu",
        versions={"torch": "2"},
    )


def measured() -> Report:
    rows = {"Baseline": [10.0, 14.0], "+ EIPA": [12.0, 15.0], "+ MLMA": [40.0, 41.0]}
    tables = kept(table("png", "components", rows))
    return report(png_tables=tables, png_figure4=Image.new("RGB", (30, 20), "red"))


def test_one_file_with_everything_in_it() -> None:
    text = render(measured())
    page = Page(text)
    assert len(page.ids) == len({*page.ids}), Counter(page.ids).most_common(3)
    assert {*page.links} <= {f"#{name}" for name in page.ids}
    assert page.sources and all(src.startswith("data:image/png;base64,") for src in page.sources)
    assert not re.search(r"https?:|url\(|@import", text)
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_every_item_is_there_and_every_gap_has_its_reason() -> None:
    found = report()
    page = Page(render(found))
    words = " ".join(page.words.split())
    for part in found.parts:
        for item in part.items:
            name = f"{item.label}: {item.title}" if item.label else item.title
            words = shown = words.partition(f"{name} {item.state} ")[2]
            assert shown, name
            expected = {
                "not measured yet": f"Not measured yet: {item.command}",
                "not reproduced": "Not reproduced: " + item.reason.replace("`", ""),
                "in the code": f"In the code: {', '.join(item.code)}",
            }[item.state]
            assert shown.startswith(expected), name
    assert len(page.links) > 2 * sum(len(part.items) for part in found.parts)


def test_measured_figures_are_labelled_and_beside_the_papers() -> None:
    text = render(measured())
    words = " ".join(Page(text).words.split())
    assert "Mini-world figures are not the papers' figures." in words
    block = words.partition("Table 2: components measured")[2].partition("Table 3:")[0]
    assert "Made by kedro run --pipelines png_tables mini world points (%), compat paper" in block
    assert "1 min 30 s on cpu: toy; put together by ab12ab12ab" in block
    assert "+ MLMA 2 seeds 40.5 ± 0.7 paper 64.1" in block
    assert 'change.model.insertion="none"' in block and "ab12ab12ab" in block
    for claim in (
        "+ EIPA > Baseline (overall) +25.1 +1.5 ± 3.5 holds within its deviation",
        "+ MLMA > + EIPA (overall) +1.2 +27.0 ± 2.2 holds",
        "+ EIPA + MLMA > + MLMA (overall) +3.0 - not measured",
    ):
        assert claim in block
    assert "Mind <this> & that." in block and "<this>" not in text


def test_the_json_has_the_same_content() -> None:
    found = measured()
    content = json.loads(json.dumps(found.model_dump(mode="json")))
    assert len(content["parts"]) == len(PARTS)
    item = next(one for one in content["parts"][0]["items"] if one["label"] == "Figure 4")
    [picture] = item["pictures"]
    assert set(picture) == {"entry", "width", "height", "sha256"} and picture["width"] == 30


def test_verdicts() -> None:
    def entry(gap: float | None, deviation: float | None) -> Ordering:
        holds = None if gap is None else gap > 0
        return Ordering(
            claim="x", paper_gap=1.0, measured_gap=gap, deviation=deviation, holds=holds
        )

    cases = {
        (2.0, 1.0): "holds",
        (1.0, 2.0): "holds within its deviation",
        (-1.0, 2.0): "fails within its deviation",
        (-2.0, 1.0): "fails",
        (-1.0, None): "fails",
        (None, None): "not measured",
    }
    assert {case: verdict(entry(*case)) for case in cases} == cases


def test_settings_are_one_line() -> None:
    assert settings({"a": {"b": 1, "c": {}}, "d": [1, "x"]}) == 'a.b=1, a.c={}, d=[1, "x"]'
