"""The data doctor: what a copy of the benchmark holds, what is broken in it, and what to do.

It answers the questions that a wrong number otherwise raises weeks later: are all PNGs unpacked, do
JSON and PNG belong together, how many narratives cannot be aligned, how far the two rules for
plurals part, how many phrases a reader that finds segments by their boxes would get wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from diffground.data.png_annotations import Segment, parse_narrative
from diffground.data.png_benchmark import (
    UNGROUNDED,
    PngBenchmark,
    PngSample,
    load_image,
    load_targets,
)
from diffground.errors import ACCESS, InputError, ProblemReport

# Raised when the same files lead to other findings.
CODE_VERSION: Final = 1

_SHOWN = 10  # examples listed in the text


def examine(
    benchmark: PngBenchmark, *, deep: bool = False, max_phrases: int = 30, limit: int | None = None
) -> dict[str, Any]:
    """Examines one split; the result is JSON-ready and is what :func:`render` shows.

    Args:
        deep: also opens every image and panoptic PNG and looks for every segment (an hour for
            COCO's train split; minutes for val).
        max_phrases: the limit that training and evaluation will use, to count what it leaves out.
        limit: looks at so many usable narratives only. The files are counted in full anyway.

    Returns:
        ``{"split", "narratives", "phrases", "images", "panoptic", "boxes", "deep", "problems",
        "advice"}``: counts, except for ``problems`` (as ``ProblemReport.to_dict``), ``deep`` (the
        same for opened files, None if not asked for) and ``advice`` (sentences).
    """
    samples, report = benchmark.read(max_phrases=None, limit=limit)
    result: dict[str, Any] = {
        "split": benchmark.split,
        "narratives": _narratives(samples, report),
        "phrases": _phrases(benchmark, samples, report.total, max_phrases),
        "images": _images(benchmark, samples),
        "panoptic": _panoptic(benchmark),
        "boxes": _boxes(benchmark, samples),
        "deep": _open_all(samples).to_dict() if deep else None,
        "problems": report.to_dict(),
    }
    result["advice"] = list(_advice(result, max_phrases))
    return result


def _narratives(samples: list[PngSample], report: ProblemReport) -> dict[str, int]:
    ungrounded = sum(problem.reason == UNGROUNDED for problem in report.problems)
    return {
        "examined": report.total,
        "usable": len(samples),
        "without grounded phrase": ungrounded,
        "broken": report.total - len(samples) - ungrounded,
    }


def _phrases(
    benchmark: PngBenchmark, samples: list[PngSample], examined: int, max_phrases: int
) -> dict[str, int]:
    """Phrases of the usable narratives, and the other chunks of all that can be parsed."""
    phrases = [phrase for sample in samples for phrase in sample.phrases]
    count = [phrase.groups("count") for phrase in phrases]
    flag = [phrase.groups("flag") for phrase in phrases]
    chunks = []
    for row, narrative in enumerate(benchmark.rows[:examined]):
        try:
            chunks += parse_narrative(narrative, benchmark.narratives_path, row)[2]
        except InputError:
            continue  # in the problem report already
    return {
        "grounded": len(phrases),
        "ungrounded nouns": sum(chunk.noun and not chunk.segment_ids for chunk in chunks),
        "segments on chunks that are no nouns": sum(
            not chunk.noun and bool(chunk.segment_ids) for chunk in chunks
        ),
        "things (rule count)": sum(thing for thing, _ in count),
        "stuff (rule count)": sum(not thing for thing, _ in count),
        "things (rule flag)": sum(thing for thing, _ in flag),
        "stuff (rule flag)": sum(not thing for thing, _ in flag),
        "plural (rule count)": sum(plural for _, plural in count),
        "plural (rule flag)": sum(plural for _, plural in flag),
        "flagged plural, one segment": sum(
            phrase.plural_flag and len(phrase.segment_ids) == 1 for phrase in phrases
        ),
        "not flagged, several segments": sum(
            not phrase.plural_flag and len(phrase.segment_ids) > 1 for phrase in phrases
        ),
        "with a crowd region": sum(phrase.crowd for phrase in phrases),
        f"beyond the first {max_phrases}": sum(
            max(0, len(sample.phrases) - max_phrases) for sample in samples
        ),
    }


def _images(benchmark: PngBenchmark, samples: list[PngSample]) -> dict[str, int]:
    names = {entry.name for entry in benchmark.image_folder.iterdir() if entry.is_file()}
    listed = {image.file_name for image in benchmark.panoptic.images.values()}
    return {
        "in the JSON": len(benchmark.panoptic.images),
        "of these on disk": len(listed & names),
        "files the JSON does not name": len(names - listed),
        "used by usable narratives": len({sample.image_id for sample in samples}),
    }


def _panoptic(benchmark: PngBenchmark) -> dict[str, int]:
    names = {path.name for path in benchmark.panoptic_folder.glob("*.png")}
    listed = {str(entry.get("file_name")) for entry in benchmark.panoptic.annotations.values()}
    return {
        "annotations in the JSON": len(benchmark.panoptic.annotations),
        "of these PNGs on disk": len(listed & names),
        "PNGs missing": len(listed - names),
        "PNGs the JSON does not name": len(names - listed),
    }


def _boxes(benchmark: PngBenchmark, samples: list[PngSample]) -> dict[str, int]:
    """What a reader that takes the first segment with an equal box would confuse."""
    shadowed: dict[int, set[int]] = {}
    for image_id in {sample.image_id for sample in samples}:
        shadowed[image_id] = _shadowed(benchmark.panoptic.segments(image_id).values())
    return {
        "images with segments of equal boxes": sum(bool(ids) for ids in shadowed.values()),
        "segments behind an equal box": sum(len(ids) for ids in shadowed.values()),
        "phrases a box-based reader gets wrong": sum(
            not shadowed[sample.image_id].isdisjoint(phrase.segment_ids)
            for sample in samples
            for phrase in sample.phrases
        ),
    }


def _shadowed(segments: Iterable[Segment]) -> set[int]:
    """Ids of the segments whose box an earlier segment of the image has already."""
    seen: set[tuple[float, ...]] = set()
    behind: set[int] = set()
    for segment in segments:
        if segment.bbox is None:
            continue
        if segment.bbox in seen:
            behind.add(segment.id)
        seen.add(segment.bbox)
    return behind


def _open_all(samples: list[PngSample]) -> ProblemReport:
    """Opens every image and PNG of the samples, each image once."""
    report = ProblemReport()
    opened: set[int] = set()
    for sample in samples:
        report.total += 1
        try:
            if sample.image_id not in opened:
                load_image(sample)
            load_targets(sample)
        except InputError as error:
            report.add(sample.id, error)
        opened.add(sample.image_id)
    return report


def _advice(result: Mapping[str, Any], max_phrases: int) -> Iterable[str]:
    """What to do about what was found, most urgent first."""
    panoptic, narratives, phrases = (result[k] for k in ("panoptic", "narratives", "phrases"))
    if panoptic["PNGs missing"]:
        yield (
            f"{panoptic['PNGs missing']} panoptic PNGs are missing: some unzip programs stop part "
            "of the way through COCO's inner archive; unpack it again with `tar -xf` or `7z x`."
        )
    images = result["images"]
    if images["of these on disk"] < images["in the JSON"]:
        missing = images["in the JSON"] - images["of these on disk"]
        yield f"{missing} images of the JSON are not on disk: their narratives are skipped."
    denied = [row for row in problems_of(result) if row["field"] == ACCESS]
    unusable = result["deep"]["skipped"] if result["deep"] else 0
    unusable -= sum(row in denied for row in result["deep"]["problems"]) if unusable else 0
    if unusable:
        yield (
            f"{unusable} narratives have an image or PNG that cannot be used "
            "although it is there; see the list, and fetch those files again."
        )
    if denied:
        yield (
            f"{len(denied)} narratives have files that the system would not open, the first is "
            f"{denied[0]['file']}: see that they can be read; every run looks at them again."
        )
    if narratives["broken"]:
        yield f"{narratives['broken']} narratives are broken and skipped; see the list."
    beyond = phrases[f"beyond the first {max_phrases}"]
    if beyond:
        yield f"{beyond} phrases are beyond max_phrases={max_phrases} and would be left out."
    if phrases["not flagged, several segments"]:
        yield (
            f"{phrases['not flagged, several segments']} phrases have several segments without "
            "being flagged plural: under the plural rule `flag` they count as singulars."
        )


def problems_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All that :func:`examine` lists, from reading the JSON files and from opening the others."""
    deep = result["deep"]["problems"] if result["deep"] else []
    return [*result["problems"]["problems"], *deep]


def render(result: Mapping[str, Any]) -> str:
    """The result of :func:`examine` as Markdown: a table, the problems, the advice."""
    lines = [f"# Data doctor: {result['split']}", "", "| what | count |", "|---|---:|"]
    for section in ("narratives", "phrases", "images", "panoptic", "boxes"):
        lines.append(f"| **{section}** | |")
        lines += [f"| {name} | {count:,} |" for name, count in result[section].items()]
    lines += ["", "## Skipped narratives", "", *_problem_lines(result["problems"])]
    if result["deep"] is None:
        lines += ["", "Images and PNGs were not opened (`deep` was not asked for)."]
    else:
        lines += ["", "## Files that were opened", "", *_problem_lines(result["deep"])]
    lines += ["", "## Advice", ""]
    lines += [f"- {sentence}" for sentence in result["advice"]] or ["Nothing to do."]
    return "\n".join(lines) + "\n"


def _problem_lines(report: Mapping[str, Any]) -> list[str]:
    """A problem report: totals, and the first few examples."""
    problems = report["problems"]
    lines = [f"{report['skipped']:,} of {report['total']:,} narratives."]
    for problem in problems[:_SHOWN]:
        lines.append(
            f"- `{problem['item']}` {problem['file']}: {problem['field']}: {problem['reason']}"
        )
    if len(problems) > _SHOWN:
        lines.append(f"- and {len(problems) - _SHOWN:,} more, all in the JSON result")
    return lines
