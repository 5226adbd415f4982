"""Tables and figures of every paper ─► the paper's part ─► one page, and the same as JSON."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.report.nodes import gatherer, write_report
from diffground.reproduction.contents import PARTS, Contents

# A node with this tag may be given what was not made yet, see diffground.adapters.hooks.checks.
TAG = "report"


def create_pipeline() -> Pipeline:
    """A node a paper, and that which writes the page."""
    gathering = []
    for part in PARTS:
        contents = Contents.of(part)
        node = Node(
            gatherer(contents), [*contents.entries], f"{part}_report", name=f"gather_{part}_report"
        )
        gathering.append(node)
    writing = Node(
        write_report,
        [f"{part}_report" for part in PARTS],
        ["report", "report_page"],
        name="write_report",
    )
    return Pipeline([*gathering, writing], tags=[TAG])
