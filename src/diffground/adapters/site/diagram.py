"""A drawing of a pipeline's data, as SVG: entries of the catalog by layer, from top to bottom.

Boxes are entries. What a node reads comes together in its name, above the first layer that it
writes to, and from there goes to what it writes. Nothing random is in it: the same catalog gives
the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 1060  # pixels, about a page's column
_LABEL = 104  # left of the boxes: the layer's name
_HEIGHT, _LINE, _GAP = 24, 32, 10  # of a box, from line to line of a row, sideways
_APART = 30  # from row to row
_LETTER = 6.7  # width of a letter of 11 pixels, fixed pitch
_COLOURS = ("#00796b", "#c2410c", "#4338ca", "#a16207", "#be185d", "#0369a1", "#4d7c0f", "#7e22ce")

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" \
height="{height}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="11">
<rect width="{width}" height="{height}" fill="#ffffff"/>
"""


class Step(NamedTuple):
    """A node: its name, and the entries that it reads and writes."""

    name: str
    reads: Sequence[str]
    writes: Sequence[str]


class _Box(NamedTuple):
    middle: float
    top: float
    width: float

    @property
    def bottom(self) -> float:
        return self.top + _HEIGHT


def draw(layers: Mapping[str, Sequence[str]], steps: Sequence[Step]) -> str:
    """The drawing.

    Args:
        layers: layer -> its entries, in their order; those that no step names are left out.
        steps: in the order in which they run.
    """
    named = {name for step in steps for name in (*step.reads, *step.writes)}
    boxes: dict[str, _Box] = {}
    nodes: dict[str, _Box] = {}
    bands: dict[str, tuple[float, float]] = {}
    top = 22.0
    for layer, names in layers.items():
        shown = {
            name: [s.name for s in steps if name in s.writes] for name in names if name in named
        }
        if not shown:
            continue
        above = {s.name: s.reads for s in steps if s.name not in nodes and {*s.writes} & {*shown}}
        nodes |= _row(above, boxes, top)
        top = _below(nodes, top) if above else top
        boxes |= _row(shown, nodes, top)
        bands[layer] = (top, _below(boxes, top) - _APART)
        top = _below(boxes, top)
    parts = [_HEAD.format(width=WIDTH, height=round(top))]
    for layer, (start, end) in bands.items():
        parts.append(
            f'<rect y="{start - 7:.0f}" width="{WIDTH}" height="{end - start + 14:.0f}" '
            f'fill="#eef3f2"/><text x="10" y="{start + 16:.0f}" fill="#555">{layer}</text>\n'
        )
    colours = {step.name: _COLOURS[n % len(_COLOURS)] for n, step in enumerate(steps)}
    for step in steps:
        if step.name in nodes:  # one that writes nothing of the catalog has no place
            parts.append(_flow(step, boxes, nodes[step.name], colours[step.name]))
    for name, box in nodes.items():
        parts += [*_rectangle(box, 12, colours[name], colours[name]), _text(box, name, "#ffffff")]
    for name, box in boxes.items():
        parts += [*_rectangle(box, 4, "#ffffff", "#555"), _text(box, name, "#111")]
    return "".join([*parts, "</svg>\n"])


def _row(
    names: Mapping[str, Sequence[str]], above: Mapping[str, _Box], top: float
) -> dict[str, _Box]:
    """A row of boxes: each where what leads to it is, as far as there is room; wrapped if not.

    Args:
        names: name -> what leads to it.
        above: what is placed already.
    """

    def wanted(name: str) -> float:
        there = [above[each].middle for each in names[name] if each in above]
        return sum(there) / len(there) if there else float(WIDTH)

    lines: list[list[str]] = [[]]
    for name in sorted(names, key=wanted):
        if sum(map(_wide, [*lines[-1], name])) > WIDTH - _LABEL:
            lines.append([])
        lines[-1].append(name)
    found = {}
    for number, line in enumerate(lines):
        space = (WIDTH - _LABEL - sum(map(_wide, line))) / (len(line) + 1)
        left = _LABEL + space
        for name in line:
            found[name] = _Box(left + _wide(name) / 2, top + number * _LINE, _wide(name) - _GAP)
            left += _wide(name) + space
    return found


def _wide(name: str) -> float:
    return len(name) * _LETTER + 16 + _GAP


def _below(boxes: Mapping[str, _Box], top: float) -> float:
    return max([top, *(box.bottom for box in boxes.values())]) + _APART


def _flow(step: Step, boxes: Mapping[str, _Box], node: _Box, colour: str) -> str:
    """The lines to and from a node's name."""
    lines = [_line(boxes[name], node) for name in step.reads if name in boxes]
    lines += [_line(node, boxes[name]) for name in step.writes if name in boxes]
    return (
        f'<path d="{" ".join(lines)}" fill="none" stroke="{colour}" stroke-opacity="0.6" '
        'stroke-width="1.3"/>\n'
    )


def _line(first: _Box, second: _Box) -> str:
    """A curve from below one box to above the other; to one that is not below it, from above."""
    start, end = first.bottom, second.top
    if end < start:
        start, end = first.top, second.bottom
    bend = (end - start) / 2
    return (
        f"M{first.middle:.0f} {start:.0f} C{first.middle:.0f} {start + bend:.0f} "
        f"{second.middle:.0f} {end - bend:.0f} {second.middle:.0f} {end:.0f}"
    )


def _rectangle(box: _Box, radius: int, fill: str, stroke: str) -> Iterator[str]:
    yield (
        f'<rect x="{box.middle - box.width / 2:.0f}" y="{box.top:.0f}" width="{box.width:.0f}" '
        f'height="{_HEIGHT}" rx="{radius}" fill="{fill}" stroke="{stroke}"/>'
    )


def _text(box: _Box, words: str, colour: str) -> str:
    return (
        f'<text x="{box.middle:.0f}" y="{box.top + 16:.0f}" text-anchor="middle" '
        f'fill="{colour}">{escape(words)}</text>\n'
    )
