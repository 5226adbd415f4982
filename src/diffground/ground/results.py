"""Many results as one dataset: COCO's lists of what lies in folders of results, and the report.

::

    coco.json        images, categories (the phrases), and an annotation per mask with its score
    panoptic.json    COCO panoptic segmentation; its PNGs are the results' panoptic.png
    report.json      what was asked, what was found, and which images could not be used

They are made of the ``masks.json`` of the results. Images are named from the folder ``images`` of
the report. Whether a phrase is a thing or stuff nobody says: all are things.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffground.errors import ProblemReport
from diffground.io.files import write_compact
from diffground.io.panoptic import PanopticImage, Row, category_rows, image_row, panoptic_json
from diffground.masks.phrase_masks import MASKS, PANOPTIC, write_readable

COCO, PANOPTIC_LIST, REPORT = "coco.json", "panoptic.json", "report.json"
#: The picture that was generated, in a result's folder.
IMAGE: Final = "image.png"
ASKED: Final = ("size", "prompt", "narrative", "phrases_by", "left_out")
_LICENCE: Final = "that of the images"


@dataclass(frozen=True)
class Result:
    """A folder of a result, and its image."""

    name: str
    folder: Path
    image: Path


def write_lists(
    folder: Path,
    results: Sequence[Result],
    about: Mapping[str, Any],
    problems: ProblemReport,
    *,
    root: Path,
    images: Path,
) -> dict[str, Any]:
    """Writes the three lists into ``folder`` and returns the report.

    Args:
        root: the folder that the PNGs of ``panoptic.json`` count from.
        images: the folder that images count from.
    """
    categories: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    panoptic: list[PanopticImage] = []
    pictures: dict[str, Row] = {}
    annotations: list[Row] = []
    for number, result in enumerate(results, start=1):
        content = json.loads((result.folder / MASKS).read_text("utf-8"))
        file = Path(os.path.relpath(result.image, images)).as_posix()
        size = (content["size"][0], content["size"][1])
        phrases = [row["text"] for row in content["phrases"]]
        for phrase in phrases:
            categories.setdefault(phrase, len(categories) + 1)
        # An image that is asked twice is one image, with the masks of both.
        picture = pictures.setdefault(file, image_row(number, file, size))
        for row in content["phrases"]:
            if row["area"]:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": picture["id"],
                        "category_id": categories[row["text"]],
                        "iscrowd": 0,
                        **{name: row[name] for name in ("area", "bbox", "segmentation")},
                        **({} if row["score"] is None else {"score": row["score"]}),
                    }
                )
        segments = [
            {**row, "category_id": categories[phrases[row["id"] - 1]]}
            for row in content["segments_info"]
        ]
        png = Path(os.path.relpath(result.folder / PANOPTIC, root)).as_posix()
        panoptic.append(PanopticImage(number, file, png, size, segments))
        asked = {name: content.get(name) for name in ASKED}
        told = [
            {
                **{name: row[name] for name in ("text", "score", "note", "lost")},
                "share": row["area"] / (size[0] * size[1]),
            }
            for row in content["phrases"]
        ]
        rows.append({"name": result.name, "image": file, **asked, "phrases": told})
    named = category_rows([(number, name, "phrase", True) for name, number in categories.items()])
    info = {"description": "masks of phrases, see report.json", "method": about["method"]}
    coco = {
        "info": info,
        "licenses": [{"id": 1, "name": _LICENCE, "url": ""}],
        "images": list(pictures.values()),
        "annotations": annotations,
        "categories": [{n: row[n] for n in ("id", "name", "supercategory")} for row in named],
    }
    write_compact(folder / COCO, coco)
    write_compact(
        folder / PANOPTIC_LIST, panoptic_json(panoptic, named, info=info, licence=_LICENCE)
    )
    within = images.is_relative_to(folder)
    place = images.relative_to(folder).as_posix() if within else str(images)
    report = {**about, "images": place, "grounded": rows, **problems.to_dict()}
    write_readable(folder / REPORT, report)
    return report
