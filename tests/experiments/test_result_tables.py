"""The table schema, its arithmetic, and how it reads as text."""

import pytest
from pydantic import ValidationError

from diffground.experiments.result_tables import (
    ResultRow,
    ResultTable,
    measured_row,
    ordering,
    render,
)
from diffground.provenance import Made

OLD, NEW = "01" * 20, "ab" * 20
TWO = [
    Made(commit=f"{NEW}+", date="2026-01-31"),
    Made(commit=OLD, date="2026-03-02"),
    Made(commit=OLD, date="2026-02-14"),
]


def judged(rows, *claim):
    return ordering(claim, {r.name: r.paper for r in rows}, {r.name: r for r in rows})


def table(**changes):
    rows = (
        measured_row("baseline", [{"overall": 30.0}, {"overall": 32.0}], {"overall": 37.8}, TWO),
        measured_row("+ EIPA", [{"overall": 50.0, "things": 40.0}], {"overall": 62.9}),
        ResultRow(name="oracle", paper={"overall": 64.4, "things": 67.3}),
    )
    given = {
        "paper": "EIPA",
        "table": "Table 2",
        "metric": "Average Recall (%)",
        "scale": "mini",
        "rows": rows,
        "orderings": (judged(rows, "+ EIPA", "baseline", "overall"),),
        "config": {"protocol": "original", "plural_rule": "count", "seed": 1},
        "commit": NEW,
        "seconds": 90.0,
    }
    return ResultTable(**{**given, **changes})


def test_a_table_has_exactly_the_documented_keys():
    content = table().model_dump(mode="json")
    assert list(content) == [
        "paper", "table", "metric", "scale", "rows", "orderings", "config", "commit", "seconds",
        "hardware",
    ]  # fmt: skip
    assert content["rows"][0] == {
        "name": "baseline", "paper": {"overall": 37.8}, "mean": {"overall": 31.0},
        "sd": {"overall": pytest.approx(2**0.5)}, "seeds": 2,
        "commit": f"{NEW}+, {OLD}", "date": "2026-03-02",
    }  # fmt: skip
    assert set(content["orderings"][0]) == {
        "claim", "paper_gap", "measured_gap", "deviation", "holds",
    }  # fmt: skip


def test_means_and_deviations():
    row = measured_row("x", [{"a": 1.0, "b": 5.0}, {"a": 2.0, "b": None}, {"a": 6.0}])
    assert row.mean == {"a": 3.0, "b": None} and row.seeds == 3
    assert row.sd == {"a": pytest.approx(7**0.5)}
    single = measured_row("x", [{"a": 1.0}])
    assert single.sd == {} and single.seeds == 1


def test_orderings():
    rows = table().rows
    better = judged(rows, "+ EIPA", "baseline", "overall")
    assert better.paper_gap == pytest.approx(25.1) and better.measured_gap == pytest.approx(19)
    assert better.holds is True
    assert judged(rows, "baseline", "+ EIPA", "overall").holds is False
    unmeasured = judged(rows, "oracle", "baseline", "overall")
    assert unmeasured.holds is None and unmeasured.paper_gap == pytest.approx(26.6)
    tie = [measured_row(name, [{"a": 1.0}]) for name in "xy"]
    assert judged(tie, "x", "y", "a").holds is False


def test_a_gap_as_small_as_its_deviation_is_said_to_be():
    values = {"low": (50, 56, 53), "high": (58, 54, 50), "far": (60, 64, 62)}
    rows = [measured_row(name, [{"a": float(v)} for v in runs]) for name, runs in values.items()]
    near, far = judged(rows, "high", "low", "a"), judged(rows, "far", "low", "a")
    assert near.deviation == pytest.approx(5) and far.deviation == pytest.approx(13**0.5)
    assert near.holds and far.holds and near.within and not far.within
    text = render(table(rows=tuple(rows), orderings=(near, far)))
    assert "high > low (a): paper -, measured +1.0 ±5.0: holds (within its deviation)" in text
    assert "far > low (a): paper -, measured +9.0 ±3.6: holds\n" in text
    single = measured_row("one", [{"a": 1.0}])
    assert judged([*rows, single], "low", "one", "a").deviation is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"mean": {"a": float("nan")}, "seeds": 1}, "finite"),
        ({"seeds": -1}, "greater than or equal to 0"),
        ({"note": "x"}, "Extra inputs"),
    ],
)
def test_rows_that_are_none(row, message):
    with pytest.raises(ValidationError, match=message):
        ResultRow(name="x", **row)


def test_a_table_has_one_of_two_scales():
    with pytest.raises(ValidationError, match="scale"):
        table(scale="medium")


def test_the_text_sets_paper_beside_measured():
    text = render(table())
    assert "EIPA, Table 2: Average Recall (%)" in text
    assert "measured at mini scale, protocol original, plural_rule count" in text
    assert "plural_rule count, 1.5 min" in text and "not levels" in text
    lines = {line.split("|")[0].strip(): line.split() for line in text.splitlines() if "|" in line}
    assert lines["baseline (2 seeds)"] == (
        "baseline (2 seeds) | 37.8 31.0 ±1.4 | - - | ababababab+, 0101010101 2026-03-02".split()
    )
    assert lines["+ EIPA (1 seed)"] == "+ EIPA (1 seed) | 62.9 50.0 | - 40.0 |".split()
    assert lines["oracle"] == "oracle | 64.4 - | 67.3 - |".split()
    assert "+ EIPA > baseline (overall): paper +25.1, measured +19.0: holds" in text
    rules = [line.rstrip() for line in text.splitlines() if "|" in line]
    bars = [[n for n, c in enumerate(line) if c == "|"] for line in rules]
    assert all(bar == bars[0] for bar in bars)  # the columns stand straight


def test_without_its_grid_the_text_says_the_rest():
    whole, rest = render(table()), render(table(), grid=False)
    assert "|" not in rest and rest.splitlines()[:3] == whole.splitlines()[:3]
    assert rest.split("\norderings\n")[1] == whole.split("\norderings\n")[1]


def test_small_figures_get_more_places_and_paper_scale_no_warning():
    rows = (measured_row("x", [{"iou": 0.4567}]),)
    text = render(table(rows=rows, orderings=(), scale="paper"))
    assert "0.457" in text and "paper scale" in text and "not levels" not in text


def test_notes_are_printed_with_the_table():
    notes = ["Word " * 40 + "end.", "Short."]
    text = render(table(config={"protocol": "original", "notes": notes}))
    after = text.split("\nnotes\n")[1]
    assert " ".join(after.split()) == f"- {notes[0]} - Short."
    assert max(map(len, after.splitlines())) <= 100
    assert "notes" not in render(table())
