"""Draws a scene: the picture, and which segment every pixel belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diffground.world.scene import Scene, Thing, rng_for
from diffground.world.shapes import SHAPES, Points
from diffground.world.vocabulary import COLOURS, CONTENTS, Category

SCALE = 2  # supersampling of the silhouettes' edges
MIN_VISIBLE = 0.35  # of a thing's own silhouette; below, it is taken out of the scene
EMPTY = (250, 250, 250)  # inside of an empty mug

FloatImage = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Segment:
    """One panoptic segment: a thing, a crowd, or a region of stuff."""

    number: int  # its value in Rendering.ids, from 1
    category: Category
    group: int  # index into Scene.groups; -1 for the stuff above, -2 for the stuff below
    crowd: bool = False


@dataclass(frozen=True)
class Rendering:
    """``image`` uint8 RGB (H, W, 3); ``ids`` uint8 (H, W), every pixel in one of ``segments``."""

    image: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    segments: tuple[Segment, ...]

    def mask(self, group: int) -> NDArray[np.bool_]:
        """Union of the segments of a group, bool (H, W)."""
        return np.isin(self.ids, [s.number for s in self.segments if s.group == group])


def render(scene: Scene, size: int, width: int | None = None) -> Rendering:
    """Draws ``scene`` on a canvas of ``size`` x ``width`` pixels (multiples of 8; square if None).

    A thing's size is a fraction of the height. Things too much hidden by others are not drawn at
    all, so that every segment can be seen.
    """
    rng = rng_for(scene.seed, scene.index, "texture")
    width = size if width is None else width
    line = round(scene.horizon * size)
    canvas = np.empty((size, width, 3), np.float32)
    canvas[:line] = _stuff(scene.above.name, rng, size, line, width)
    canvas[line:] = _stuff(scene.below.name, rng, size, size - line, width)
    drawn = [_draw(thing, size, width) for thing in scene.things]
    kept = _visible(drawn, canvas.shape[:2])
    owner = np.full(canvas.shape[:2], -1, np.int16)
    for index, drawing in enumerate(drawn):
        if kept[index]:
            y, x, alpha, colour = drawing
            window = (slice(y, y + alpha.shape[0]), slice(x, x + alpha.shape[1]))
            canvas[window] += alpha[..., None] * (colour - canvas[window])
            owner[window][alpha > 0.5] = index  # noqa: PLR2004
    canvas *= _light(scene, width)
    canvas += rng.normal(0.0, 1.5, (size, width, 1)).astype(np.float32)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    ids, segments = _segments(scene, owner, line)
    return Rendering(image, ids, segments)


Drawing = tuple[int, int, FloatImage, FloatImage]  # y, x, alpha (h, w), colour (h, w, 3)


def _draw(thing: Thing, size: int, width: int) -> Drawing:
    """The thing's silhouette in [0, 1] and its colours, cut to the canvas."""
    side = max(8, round(thing.size * size))
    big = side * SCALE
    silhouette = Image.new("L", (big, big))
    body = Image.new("L", (big, big))
    paint = Image.new("RGB", (big, big))
    for kind, points, part in SHAPES[thing.category.name]:
        corners = [(x * (big - 1), y * (big - 1)) for x, y in _flip(points, thing.flipped, kind)]
        _shape(silhouette, kind, corners, 0 if part == "cut" else 255)
        is_body = part in ("body", "cut")
        _shape(body, kind, corners, 255 if is_body else 0)
        if part == "content":
            _shape(paint, kind, corners, CONTENTS[thing.content] if thing.content else EMPTY)
        elif not isinstance(part, str):
            _shape(paint, kind, corners, part)
    alpha = np.asarray(silhouette.reduce(SCALE), np.float32) / 255
    share = np.asarray(body.reduce(SCALE), np.float32)[..., None] / 255
    details = np.asarray(paint.reduce(SCALE), np.float32)
    colour_map = share * _surface(thing, side) + (1 - share) * details
    shade = np.linspace(1.08, 0.86, side, dtype=np.float32)[:, None, None]
    return _crop(thing, size, width, alpha, colour_map * shade)


def _flip(points: Points, flipped: bool, kind: str) -> Points:
    if not flipped:
        return points
    mirrored = tuple((1 - x, y) for x, y in points)
    if kind == "poly":
        return mirrored
    (right, top), (left, bottom) = mirrored
    return (left, top), (right, bottom)


def _shape(
    image: Image.Image,
    kind: str,
    corners: list[tuple[float, float]],
    fill: int | tuple[int, int, int],
) -> None:
    draw = ImageDraw.Draw(image)
    shapes = {"poly": draw.polygon, "oval": draw.ellipse, "box": draw.rectangle}
    shapes[kind](corners, fill=fill)


def _crop(thing: Thing, size: int, width: int, alpha: FloatImage, colour: FloatImage) -> Drawing:
    side = alpha.shape[0]
    x, y = round(thing.x * width - side / 2), round(thing.y * size - side)
    left, top = max(0, -x), max(0, -y)
    right, bottom = min(side, width - x), min(side, size - y)
    return y + top, x + left, alpha[top:bottom, left:right], colour[top:bottom, left:right]


def _surface(thing: Thing, side: int) -> FloatImage:
    """The body's colours, (side, side, 3) in [0, 255], with its pattern or decoration."""
    v, u = _grid(side)
    if thing.personal is not None:
        ink = decoration(thing.personal.decoration, side)
        ink = (ink[:, ::-1] if thing.flipped else ink)[..., None]  # it stays on the mug's body
        body, colour = (np.array(c, np.float32) for c in (thing.personal.body, thing.personal.ink))
        return body + ink * (colour - body)
    base = np.array(COLOURS[thing.colour], np.float32)
    if thing.pattern == "plain":
        return np.broadcast_to(base, (side, side, 3))
    other = base * 0.45 if base.mean() > 120 else base * 0.4 + 150  # noqa: PLR2004
    if thing.pattern == "striped":
        ink = (np.sin(2 * np.pi * 3.5 * (u + 0.35 * v)) > 0).astype(np.float32)
    else:
        ink = ((((u * 4) % 1 - 0.5) ** 2 + ((v * 4) % 1 - 0.5) ** 2) < 0.085).astype(np.float32)  # noqa: PLR2004
    return base + ink[..., None] * (other - base)


@lru_cache(maxsize=256)
def _grid(side: int) -> tuple[FloatImage, FloatImage]:
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side
    v, u = np.meshgrid(axis, axis, indexing="ij")
    return v, u


@lru_cache(maxsize=512)
def decoration(kind: str, side: int) -> FloatImage:
    """Where a personal mug carries ink, (side, side) in {0, 1}."""
    v, u = _grid(side)
    x, y = (u - 0.4) / 0.3, (v - 0.58) / 0.3  # the middle of the mug's body
    masks = {
        "band": np.abs(y) < 0.45,
        "stripes": (u * 7) % 1 < 0.5,
        "dots": ((u * 5) % 1 - 0.5) ** 2 + ((v * 5) % 1 - 0.5) ** 2 < 0.1,
        "checks": ((np.floor(u * 6) + np.floor(v * 6)) % 2) == 0,
        "heart": (x**2 + (-y + 0.1) ** 2 - 0.55) ** 3 - x**2 * (-y + 0.1) ** 3 < 0,
        "star": np.hypot(x, y) < 0.55 + 0.35 * np.cos(5 * np.arctan2(x, -y)),
        "zigzag": np.abs(y - 0.6 * (np.abs((u * 8) % 2 - 1) - 0.5)) < 0.28,
    }
    return np.asarray(masks[kind], np.float32)


def _visible(drawn: list[Drawing], shape: tuple[int, ...]) -> list[bool]:
    """Front to back: which things show enough of themselves."""
    covered = np.zeros(shape, bool)
    kept = [False] * len(drawn)
    for index in reversed(range(len(drawn))):
        y, x, alpha, _ = drawn[index]
        window = (slice(y, y + alpha.shape[0]), slice(x, x + alpha.shape[1]))
        inside = alpha > 0.5  # noqa: PLR2004
        seen = inside & ~covered[window]
        kept[index] = bool(seen.sum() >= MIN_VISIBLE * max(1, inside.sum()))
        if kept[index]:
            covered[window] |= inside
    return kept


def _segments(
    scene: Scene, owner: NDArray[np.int16], line: int
) -> tuple[NDArray[np.uint8], tuple[Segment, ...]]:
    ids = np.zeros(owner.shape, np.uint8)
    segments: list[Segment] = []
    crowds: dict[int, int] = {}
    for number, (category, region, rows) in enumerate(
        ((scene.above, -1, slice(0, line)), (scene.below, -2, slice(line, None))), start=1
    ):
        ids[rows] = number
        segments.append(Segment(number, category, region))
    for index in np.unique(owner[owner >= 0]):
        thing = scene.things[int(index)]
        group = scene.groups[thing.group]
        number = crowds.get(thing.group, len(segments) + 1)
        ids[owner == index] = number
        if thing.group not in crowds:
            segments.append(Segment(number, thing.category, thing.group, group.crowd))
        if group.crowd:
            crowds[thing.group] = number
    present = set(np.unique(ids).tolist())
    return ids, tuple(segment for segment in segments if segment.number in present)


def _light(scene: Scene, width: int) -> FloatImage:
    brightness, slope, warmth = scene.light
    across = brightness * (1 + slope * np.linspace(-1, 1, width, dtype=np.float32))
    tint = np.array((1 + 0.03 * warmth, 1.0, 1 - 0.03 * warmth), np.float32)
    return across[None, :, None] * tint


def _noise(rng: np.random.Generator, height: int, width: int, cell: int) -> FloatImage:
    """Smooth noise in about [-1, 1] with features of ``cell`` pixels, (height, width)."""
    coarse = rng.uniform(-1, 1, (height // cell + 2, width // cell + 2)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32)


def _stuff(name: str, rng: np.random.Generator, size: int, height: int, width: int) -> FloatImage:
    """A region of stuff, (height, width, 3) in [0, 255]. Textures are coarse on purpose: the mini
    autoencoder has four numbers for 64 pixels."""
    unit = size / 128
    v = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    y = np.arange(height, dtype=np.float32)[:, None] / unit
    x = np.arange(width, dtype=np.float32)[None, :] / unit
    cell = max(2, round(12 * unit))
    soft = _noise(rng, height, width, cell)
    shift = float(rng.uniform(0, 20))

    def blend(
        low: tuple[int, int, int], high: tuple[int, int, int], share: FloatImage
    ) -> FloatImage:
        a, b = np.array(low, np.float32), np.array(high, np.float32)
        return a + np.clip(share, 0, 1)[..., None] * (b - a)

    match name:
        case "sky":
            clouds = np.clip(soft * 1.6 - 0.5, 0, 1) * 0.8
            return blend((104, 168, 236), (236, 244, 250), 0.45 * v + clouds)
        case "sunset":
            return blend((124, 64, 128), (252, 176, 92), v * 1.1 + 0.12 * soft)
        case "wall":
            rows = np.floor((y + shift) / 16)
            bricks = ((y + shift) % 16 < 2.5) | ((x + 14 * (rows % 2)) % 28 < 2.5)  # noqa: PLR2004
            return blend((214, 196, 166), (170, 150, 122), 0.5 * bricks + 0.12 * soft)
        case "forest":
            trunks = 0.5 + 0.5 * np.sin(2 * np.pi * (x + shift) / 15 + 0 * y)
            return blend((16, 56, 34), (74, 112, 52), 0.5 * trunks + 0.3 * soft)
        case "grass":
            return blend((78, 156, 56), (148, 196, 84), 0.4 + 0.8 * soft)
        case "sand":
            return blend((228, 204, 146), (204, 174, 112), 0.45 + 0.5 * soft)
        case "water":
            waves = 0.5 + 0.5 * np.sin(2 * np.pi * (y + 2.5 * np.sin(x / 9 + shift)) / 13)
            return blend((24, 92, 150), (86, 160, 198), 0.5 * waves + 0.2 * soft)
        case "road":
            middle = np.abs(v - 0.5) < 0.055  # noqa: PLR2004
            marks = middle & ((x + shift) % 36 < 20)  # noqa: PLR2004
            return blend((92, 92, 98), (222, 220, 208), 0.95 * marks + 0.07 * soft)
        case "floor":
            planks = (y + shift) % 14 < 2  # noqa: PLR2004
            return blend((176, 116, 70), (126, 78, 44), 0.5 * planks + 0.2 * soft)
        case "snow":
            return blend((232, 238, 248), (198, 212, 232), 0.3 + 0.6 * soft)
        case _:
            raise ValueError(f"no stuff is called {name!r}")
