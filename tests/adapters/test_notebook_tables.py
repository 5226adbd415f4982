"""A result table as a DataFrame; how notebooks show it is in test_notebooks."""

from __future__ import annotations

import pandas
import pytest

from diffground.adapters.notebook_tables import styled
from diffground.experiments.result_tables import ResultRow, ResultTable, measured_row


@pytest.fixture
def table() -> ResultTable:
    rows = (
        measured_row("baseline", [{"AR": 30.0}, {"AR": 32.0}], {"AR": 37.8}),
        ResultRow(name="oracle", paper={"AR": 64.4}),
    )
    return ResultTable(paper="EIPA", table="Table 2", metric="AR (%)", scale="mini", rows=rows)


def test_a_table_is_a_dataframe_with_the_paper_beside(table: ResultTable) -> None:
    look = styled(table)
    expected = pandas.DataFrame(
        {("AR", "paper"): ["37.8", "64.4"], ("AR", "measured"): ["31.0 ±1.4", "-"],
         ("", "commit"): ["", ""]}, index=["baseline (2 seeds)", "oracle"],
    )  # fmt: skip
    assert look.data.to_dict() == expected.to_dict() and list(look.data.index) == [*expected.index]
    page = look.to_html()
    assert "<caption>EIPA, Table 2: AR (%)</caption>" in page and page == styled(table).to_html()
