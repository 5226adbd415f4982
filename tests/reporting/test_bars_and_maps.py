"""Bars of result tables, and grids of maps."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

from diffground.reporting.bars import Bar, bars
from diffground.reporting.maps import map_grid


def test_bars_are_as_long_as_their_figures() -> None:
    rows = [Bar("a", 30.0, 2.0, 37.8), Bar("b", None, None, 62.9)]
    columns = {name: rows for name in ("one", "two", "three", "four")}
    figure = bars(columns, "mini", title="Table 2")
    axes = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in axes] == [*columns]
    measured, paper = (container for container in axes[0].containers if len(container) == 2)
    assert_allclose([bar.get_width() for bar in measured], [30.0, np.nan])
    assert_allclose([bar.get_width() for bar in paper], [37.8, 62.9])
    ((low, high),) = measured.errorbar.lines[2][0].get_segments()[:1]
    assert (low[0], high[0]) == (28.0, 32.0)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["a", "b"]
    assert axes[0].yaxis_inverted()  # the first row is on top
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["measured, mini world", "the paper"]


def test_maps_stand_in_a_row_for_each_word() -> None:
    image = np.full((32, 64, 3), (10, 200, 30), np.uint8)
    left, right = np.zeros((4, 8)), np.zeros((2, 4))
    left[:, :4], right[:, 2:] = 1, 1
    page = np.asarray(map_grid({"cat": {"x": left, "y": right}}, image=image))
    green = (page == (10, 200, 30)).all(axis=-1)
    bright = np.abs(page / 255 - to_rgb("#fcfdbf")).max(axis=-1) < 0.02  # the top of magma
    (_, first), (_, second) = (np.nonzero(part) for part in (green, bright))
    assert first.max() < second.min()  # the image is before the maps
    columns = np.unique(second)
    runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    assert len(runs) == 2 and abs(len(runs[0]) - len(runs[1])) <= 3  # of whatever sizes


def test_many_columns_go_on_in_a_next_line() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    maps = {f"{n}": np.eye(4) for n in range(12)}
    few = map_grid({"cat": {"0": np.eye(4)}}, image=image)
    many = map_grid({"cat": maps}, image=image)
    assert many.height > 1.8 * few.height and many.width < 10.5 * (few.width / 2)
