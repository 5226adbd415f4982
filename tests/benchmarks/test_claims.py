"""Claims of speed and size: each stands where it says, has a benchmark, and none is forgotten."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from claims import Claim, Row, judged, read_claims
from measuring import ROOT

CLAIMS = read_claims()
#: Sentences that say how fast, how large or how often as much something is.
MEASURED = re.compile(
    r"\b(?:twice|half|third of|quarter of|\d+(?:\.\d+)? times)\s+(?:the |as )"
    r"(?:time|memory|fast|long|much|large)"
    r"|\d[\d.,]* (?:kB|KiB|MB|MiB|GB)\s(?:an?|per|for each|of)\s"
    r"(?:item|sample|image|note|class|step|map|latents)"
    r"|images/s|\b(?:faster|slower|utilisation)\b|\bTFLOP\b|GPU-hours,|public code keeps \d"
)


def text_of(file: str) -> str:
    """In one line."""
    return " ".join((ROOT / file).read_text("utf-8").split())


@cache
def _constants(benchmark: str) -> frozenset[str]:
    """All texts of a benchmark's code, and the fixed parts of those that are put together."""
    source = (ROOT / "tests/benchmarks" / benchmark).read_text("utf-8")
    nodes = ast.walk(ast.parse(source))
    return frozenset(
        n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)
    )


def appends(benchmark: str, row: Row) -> bool:
    """Whether the code of a benchmark can make a row of this name."""
    found = _constants(benchmark)
    whole = row.what in found
    # As f"PNG training step, {architecture} sizes": what is fixed of it, in order.
    parts = [c for c in found if len(c) > 5 and row.what.startswith(c)]
    return (whole or bool(parts)) and (
        row.variant in found or bool(re.fullmatch(r"\d+ (items|x \d+)", row.variant))
    )


@pytest.mark.parametrize("claim", CLAIMS.claims, ids=lambda claim: claim.id)
def test_a_claim_stands_in_the_text_and_has_a_benchmark(claim: Claim):
    assert claim.source.words in text_of(claim.source.file)
    assert (ROOT / "tests/benchmarks" / claim.benchmark).is_file()
    assert appends(claim.benchmark, claim.row)
    assert claim.over is None or appends(claim.benchmark, claim.over)
    name = claim.field.removesuffix("_ratio")
    assert {name, claim.field} & _constants(claim.benchmark), "no such field"


def test_claims_differ():
    assert len({claim.id for claim in CLAIMS.claims}) == len(CLAIMS.claims)


def test_every_measured_statement_of_the_documentation_is_claimed_or_set_aside():
    known = [claim.source for claim in CLAIMS.claims] + list(CLAIMS.aside)
    files = {ROOT / "README.md", *(ROOT / "catalog_docs").rglob("*.md")}
    forgotten = []
    for path in sorted(files):
        file = path.relative_to(ROOT).as_posix()
        # Written from the catalog, which has sizes, and by the benchmarks themselves.
        if file.startswith("catalog_docs/catalog/") or file == "catalog_docs/benchmarks.md":
            continue
        text = text_of(file)
        spans = [
            (at.start(), at.end())
            for place in known
            if place.file == file
            for at in re.finditer(re.escape(place.words), text)
        ]
        # A table's rows are claimed one by one: what is said of it before, or in its head, counts.
        for found in MEASURED.finditer(text):
            if not any(start <= found.start() and found.end() <= end for start, end in spans):
                forgotten.append(f"{file}: {text[max(0, found.start() - 60) : found.end() + 30]}")
    assert not forgotten, "\n".join(forgotten)


def test_verdicts():
    claim = Claim.model_validate(
        {
            "id": "a", "says": "a", "source": {"file": "README.md", "words": "a"},
            "benchmark": "test_crf_backends.py", "row": {"what": "w", "variant": "v"},
            "over": {"what": "w", "variant": "base"}, "field": "part.s", "at_most": 0.5,
            "where": "cpu",
        }
    )  # fmt: skip
    base = {"what": "w", "variant": "base", "part": {"s": 4.0}}
    slow, fast = ({"what": "w", "variant": "v", "part": {"s": s}} for s in (3.0, 1.0))
    assert claim.target == "≤ 0.5 on cpu"
    assert claim.measured([fast]) is None and claim.measured([base]) is None
    assert claim.measured([base, slow]) == 0.75 and claim.measured([slow, base, fast]) == 0.25
    assert claim.verdict(0.75, "cpu") == "miss" and claim.verdict(0.25, "cpu") == "pass"
    assert (
        claim.verdict(0.75, "cuda") == "measured" and claim.verdict(None, "cpu") == "not measured"
    )
    claims = CLAIMS.model_copy(update={"claims": (claim,)})
    (row,) = judged(claims, [base, slow], "cpu")
    assert (row["measured"], row["verdict"]) == (0.75, "miss")
