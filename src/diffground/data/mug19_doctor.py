"""Mug19's doctor: what a copy holds, and what in it is broken, down to single masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from diffground.data.mug19 import SPLITS, Mug19
from diffground.errors import InputError, ProblemReport
from diffground.io.images import image_size, read_image
from diffground.progress import progress

_SHOWN = 10  # problems listed in the text


def examine(data: Mug19, *, deep: bool) -> dict[str, Any]:
    """Examines what was read; the result is JSON-ready and is what :func:`render` shows.

    Args:
        deep: also opens every picture and mask, and looks for every wanted object in its mask.

    Returns:
        ``{"items", "pictures", "scenes", "sizes", "triplets", "splits", "problems", "deep"}``:
        counts, of the items' fewest and most pictures, of the scenes' pictures by size
        ("1137x640") and of the triplets by split; ``problems`` of the lists as
        :meth:`~diffground.errors.ProblemReport.to_dict`, ``deep`` the same of opened files, None
        if they were not opened.
    """
    pictures = [len(item.pictures) for item in data.items.values()]
    scenes = {triplet.image for triplet in data.triplets}
    sizes: Counter[str] = Counter()
    for path in sorted(scenes):
        try:
            height, width = image_size(path)
            sizes[f"{width}x{height}"] += 1
        except InputError:
            sizes["unreadable"] += 1
    return {
        "items": len(data.items),
        "pictures": {"fewest": min(pictures), "most": max(pictures)},
        "scenes": len(scenes),
        "sizes": dict(sizes.most_common()),
        "triplets": len(data.triplets),
        "splits": {split: len(data.of_split(split)) for split in SPLITS},
        "problems": data.report.to_dict(),
        "deep": _open_all(data).to_dict() if deep else None,
    }


def render(found: dict[str, Any]) -> str:
    """The findings as Markdown."""
    lines = [
        "# Mug19",
        "",
        f"- {found['items']} items with {found['pictures']['fewest']} to "
        f"{found['pictures']['most']} pictures",
        f"- {found['scenes']} pictures of scenes: "
        + ", ".join(f"{count} of {size}" for size, count in found["sizes"].items()),
        f"- {found['triplets']} triplets: "
        + ", ".join(f"{split} {count}" for split, count in found["splits"].items()),
    ]
    for title, report in (("Lists", found["problems"]), ("Opened files", found["deep"])):
        if report is None:
            lines += ["", f"## {title}", "", "Not looked at."]
            continue
        lines += ["", f"## {title}", "", f"{report['skipped']} of {report['total']} are broken."]
        problems = report["problems"]
        lines += [
            f"- {row['item']}: {row['file']}: {row['field']}: {row['reason']}"
            for row in problems[:_SHOWN]
        ]
        lines += [f"- ... {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return "\n".join(lines) + "\n"


def _open_all(data: Mug19) -> ProblemReport:
    """Pictures of items, and triplets with their pictures and masks."""
    report = ProblemReport()
    looks: list[tuple[str, Callable[[], object]]] = [
        (path.relative_to(data.root).as_posix(), partial(read_image, path))
        for item in data.items.values()
        for path in item.pictures
    ]
    looks += [(triplet.id, triplet.load_instances) for triplet in data.triplets]
    for name, look in progress(looks, "Mug19 files"):
        report.total += 1
        try:
            look()
        except InputError as error:
            report.add(name, error)
    return report
