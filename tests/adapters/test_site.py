"""The documentation: its names and links lead somewhere, and the site needs no network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown.extensions.toc import slugify
from pydantic import BaseModel
from recipes import SECTIONS

from diffground.adapters.site import code, links, papers
from diffground.adapters.site.diagram import Step, draw
from diffground.console import main
from diffground.experiments.result_tables import Ordering, ResultRow, ResultTable
from diffground.pipeline_registry import PIPELINES

ROOT = Path(__file__).resolve().parents[2]
PAGES = links.pages(ROOT)
OTHERS = [ROOT / "README.md", *sorted(ROOT.glob("conf/**/README.md"))]
FILES = ("json", "md", "pdf", "png", "safetensors", "txt", "yml")


def slug(heading: str) -> str:
    return slugify(heading, "-")


def commands() -> Iterator[tuple[str, str]]:
    """Page and command, of code and of words set as code."""
    for page in [*PAGES, *OTHERS]:
        text = page.read_text("utf-8").replace("\\|", "|")
        yield from ((page.name, words) for words in re.findall(r"(?m)^\$ (.+)$", text))
        yield from ((page.name, words) for words in re.findall(r"`([a-z]+ [^`]+)`", text))


def test_no_link_is_dead() -> None:
    assert len(PAGES) > 20 and not links.dead(ROOT, [*PAGES, *OTHERS], slug)


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "catalog_docs").mkdir()
    (tmp_path / "conf.yml").write_text("a: 1\n")
    page = tmp_path / "catalog_docs/a.md"
    page.write_text(
        "# One `two`\n[a](#one-two) [b](../conf.yml) [c](https://x.org/y)\n"
        "```\n[no link](nowhere.md)\n```\n[d](#three) ![e](e.png) [f](../Conf.yml) [g](a.md#one)\n"
    )
    assert [line.partition(": ")[2] for line in links.dead(tmp_path, [page], slug)] == [
        "#three: there is no such heading",
        "e.png: there is no such file",
        "../Conf.yml: there is no such file",
        "a.md#one: there is no such heading",
    ]


def test_links_out_of_the_pages_lead_to_copies(tmp_path: Path) -> None:
    for name, text in {
        "catalog_docs/papers/a.md": "[conf](../../conf/README.md#x) [b](../b.md)",
        "catalog_docs/b.md": "none",
        "conf/README.md": "[values](base/p.yml) [back](../catalog_docs/b.md)",
        "conf/base/p.yml": "x: 1  # [no](link.md)\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    copied = links.copies(tmp_path)
    assert set(copied) == {"conf/README.md", "conf/base/p.yml"}
    assert "````yaml\nx: 1" in copied["conf/base/p.yml"]
    page = (tmp_path / "catalog_docs/papers/a.md").read_text()
    moved = links.relinked(page, "catalog_docs/papers/a.md", links.page_of)
    assert moved == "[conf](../repository/conf/README.md#x) [b](../b.md)"
    moved = links.relinked(copied["conf/README.md"], "conf/README.md", links.page_of)
    assert moved == "[values](base/p.yml.md) [back](../../b.md)"


def test_commands_are_there() -> None:
    named = {(page, *words.split()[:2]) for page, words in commands()}
    pipelines = {
        (page, name)
        for page, words in commands()
        for several in re.findall(r"--pipelines ([\w,]+)", words)
        for name in several.split(",")
    }
    assert ("quickstart.md", "png_train") in pipelines
    assert not {each for each in pipelines if each[1] not in PIPELINES}
    asked = {(page, second) for page, first, second in named if first == "diffground"}
    assert ("quickstart.md", "doctor") in asked
    assert not {each for each in asked if each[1] not in {*main.commands, "--help"}}
    targets = set(re.findall(r"(?m)^([a-z_-]+):", (ROOT / "Makefile").read_text("utf-8")))
    made = {(page, second) for page, first, second in named if first == "make"}
    assert ("README.md", "docs") in made
    assert not {each for each in made if each[1] not in targets}


def test_parameters_are_there() -> None:
    """Those after ``--params`` and in tables: every name from the top level down to a field."""
    roots = {where: kind for kind, where in SECTIONS.items() if "." not in where}
    names = {
        name
        for page in [*PAGES, *OTHERS]
        for name in re.findall(
            rf"\b((?:{'|'.join(roots)})(?:\.[a-z_]+)+)(?==|`)", page.read_text("utf-8")
        )
        if name.rpartition(".")[2] not in FILES
    }
    assert {"png.model.pretrained", "text2mask.attention.noises"} <= names
    wrong = [name for name in sorted(names) if not _is_field(roots, name)]
    assert wrong == ["png.typo"]  # what conf/README shows the refusal of


def _is_field(roots: dict[str, type[BaseModel]], name: str) -> bool:
    top, *parts = name.split(".")
    kinds: list[Any] = [roots[top]]
    for part in parts:
        fields = [kind.model_fields[part] for kind in kinds if part in kind.model_fields]
        if not fields:
            return False
        kinds = [each for field in fields for each in _models(field.annotation)]
    return True


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    named = re.findall(r"[\w/]+\.md", json.dumps(settings["nav"]))
    assert sorted(named) == sorted(p.relative_to(ROOT / "catalog_docs").as_posix() for p in PAGES)
    assert settings["theme"]["font"] is False


def test_marks_are_filled() -> None:
    """Every paper's page has its part of the index, and every paper with tables shows them."""
    shown = set()
    for page in sorted((ROOT / "catalog_docs/papers").glob("*.md")):
        text = page.read_text("utf-8")
        marks = papers.MARK.findall(text)
        shown |= {name for kind, name in marks if kind == "tables"}
        filled = papers.filled(text, ROOT)
        assert not papers.MARK.search(filled)
        assert page.stem in ("README", "iosd") or {"index"} <= {kind for kind, _ in marks}
    assert shown == set(papers.published_files(ROOT)), "a page lacks `<!-- tables: name -->`"
    with pytest.raises(KeyError, match="no section 'Nothing'"):
        papers.filled("<!-- index: Nothing -->", ROOT)


def test_sections_of_the_index() -> None:
    text = "# T\n## First one\na\n\n### Under\nb\n## Second\nc\n"
    assert papers.section(text, "First") == "a"
    assert papers.section(text, "Under") == "b" and papers.section(text, "Second") == "c"


def test_tables_of_a_paper(tmp_path: Path) -> None:
    folder = tmp_path / "src/diffground/papers/x"
    folder.mkdir(parents=True)
    rows = [
        {"name": "a", "paper": {"AR": 60.0}, "change": {}},
        {"name": "b", "paper": {"AR": 50.0}},
        {"name": "ours"},
    ]
    table = {"table": "Table 1", "note": "A note.", "columns": ["AR", "p"], "rows": rows}
    published = {"paper": "X", "source": "X", "notes": ["Of all."], "tables": {"one": table}}
    (folder / "paper_tables.json").write_text(json.dumps(published))
    (folder / "y_paper_tables.json").write_text(json.dumps(published))
    assert [*papers.published_files(tmp_path)] == ["x", "y"]
    text = papers.tables(tmp_path, "x")
    assert "| | AR |\n|---|---|\n| a | 60.0 |\n| b | 50.0 |" in text and "Measured" not in text
    assert "ours" not in text and "figures: X.\n\n- Of all.\n" in text
    measured = ResultTable(
        paper="X", table="Table 1", metric="AR (%)", scale="mini",
        rows=(ResultRow(name="a", paper={"AR": 60.0}, mean={"AR": 71.26}, sd={"AR": 0.5}),),
        orderings=(Ordering(claim="a > b", paper_gap=1, measured_gap=1, deviation=1, holds=True),),
    )  # fmt: skip
    (tmp_path / "data/08_reporting").mkdir(parents=True)
    content = json.dumps([measured.model_dump(mode="json")])
    (tmp_path / "data/08_reporting/x_tables.json").write_text(content)
    text = papers.tables(tmp_path, "x")
    assert "Measured in this checkout, mini world: AR (%)." in text
    assert "| a | 71.3 ± 0.5 (paper 60.0) |" in text and "- a > b: holds" in text


def test_pages_of_the_code() -> None:
    made = code.pages(ROOT)
    rooms = [Path(name).stem for name in made]
    assert rooms[:3] == ["README", "ground", "metrics"] and "papers.png" in rooms
    assert "::: diffground.attention.selfcross\n" in made["reference/attention.md"]
    assert (
        "[`TextToMask`][diffground.papers.text2mask.text_to_mask.TextToMask]"
        in made["reference/README.md"]
    )
    assert not {"adapters", "pipelines", "console"} & set(rooms)
    text = code.with_code_links("`diffground.attention.selfcross:minmax`, `diffground.no:x`", ROOT)
    assert (
        'identifier="diffground.attention.selfcross.minmax"' in text and "`diffground.no:x`" in text
    )
    html = code.with_roles("see :class:<code>~diffground.a.B</code>")
    assert html == 'see <autoref identifier="diffground.a.B" optional><code>B</code></autoref>'


def test_a_drawing() -> None:
    steps = [Step("learn", ["photos", "params"], ["model"]), Step("judge", ["model"], ["figures"])]
    layers = {"raw": ["photos", "unused"], "models": ["model"], "reporting": ["figures"]}
    text = draw(layers, steps)
    tops = {
        words: float(top)
        for top, words in re.findall(r'<text x="\d+" y="(\d+)" text-anchor[^>]+>(\w+)</text>', text)
    }
    order = ["photos", "learn", "model", "judge", "figures"]
    assert sorted(tops, key=lambda name: tops[name]) == order
    assert draw(layers, steps) == text


class _Loaded(HTMLParser):
    """What a browser fetches for a page by itself."""

    FETCHED: typing.ClassVar = {"script": "src", "img": "src", "link": "href", "iframe": "src",
                                "source": "src", "video": "src", "object": "data"}  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = self.FETCHED.get(tag)
        self.found += [value or "" for key, value in attrs if key == name]
        assert "mermaid" not in dict(attrs).get("class", "") if tag == "pre" else True


@pytest.mark.slow
def test_the_site_needs_no_network(tmp_path: Path) -> None:
    """Built strictly, so that a dead link fails; then every page and style is looked through."""
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1", "PATH": "",
        "PYTHONPATH": str(ROOT / "src")}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        reader = _Loaded()
        reader.feed(page.read_text("utf-8"))
        assert reader.found and not [url for url in reader.found if "//" in url], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text("utf-8"))
    for script in site.rglob("assets/javascripts/*.js"):
        assert "unpkg.com" not in script.read_text("utf-8")
    text = (site / "papers/png.html").read_text("utf-8")
    assert re.search(r'href="[^"]+#diffground\.papers\.png\.eipa\.EIPA"', text)
    assert "Table 2: components" in text and 'href="../repository/conf/base/parameters_png' in text
