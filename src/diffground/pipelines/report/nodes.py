"""Thin nodes: a paper's tables and figures gathered, and the page of all."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from diffground.reproduction.contents import Contents

VERSIONS = ("diffground", "torch", "diffusers", "transformers", "numpy")  # that numbers depend on


def gatherer(contents: Contents) -> Callable[..., Any]:
    """The function of a paper's node, which is given the paper's entries in their order."""

    def gather_part(*found: Any) -> Any:
        """The paper's tables and figures; None stands for what no run has left yet."""
        from diffground.reproduction.gather import gather

        return gather(contents, dict(zip(contents.entries, found, strict=True)))

    return gather_part


def write_report(*parts: Any) -> tuple[dict[str, Any], str]:
    """The report as data, and as a page."""
    from diffground.provenance import Made, hardware
    from diffground.reproduction.gather import Report
    from diffground.reproduction.page import render

    versions = {name: version(name) for name in VERSIONS}
    report = Report(parts=parts, made=Made.now(), hardware=hardware(), versions=versions)
    return report.model_dump(mode="json"), render(report)
