"""Pictures: colours are where the masks are, text is never cut, nothing depends on the machine."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from diffground.reporting.differences import Box, difference_boxes, draw_dashed
from diffground.reporting.lettering import INK, Word, coloured_words, flow, font
from diffground.reporting.overlays import Comparison, overlay, paint, palette, side_by_side

GREY = np.full((64, 128, 3), 128, np.uint8)


def boxes(*spans, height=64, width=128):
    """Masks (N, H, W) of columns start..stop."""
    masks = np.zeros((len(spans), height, width), bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[:, start:stop] = True
    return masks


def nearest(pixel, colours):
    """Index of the colour that a tinted pixel over grey stems from."""
    return int(np.argmin([np.abs(pixel - np.array(colour)).sum() for colour in colours]))


def test_palette_is_stable_distinct_and_readable_on_white():
    colours = palette(30)
    assert palette(7) == colours[:7] and len(set(colours)) == 30
    table = np.array(colours)
    gaps = np.abs(table[:, None] - table[None]).sum(-1) + 999 * np.eye(30, dtype=int)
    assert gaps[:10, :10].min() > 90 and gaps.min() > 60
    part = table / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    contrast = 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    assert contrast.min() > 2.9  # with white


def test_masks_are_painted_in_their_colours_and_elsewhere_grey():
    image = np.zeros((64, 128, 3), np.uint8)
    image[..., 0] = 200  # red everywhere: may not be taken for the red of phrase 0
    colours = palette(2)
    pixels = np.asarray(paint(image, boxes((0, 40), (80, 128)), colours, 128), int)
    assert nearest(pixels[32, 20], colours) == 0 and nearest(pixels[32, 110], colours) == 1
    assert np.ptp(pixels[32, 60]) == 0
    assert (np.asarray(paint(image, boxes(), [], 128)) == image).all()  # no phrase: as it is


def test_shared_pixels_show_every_phrase_and_a_small_one_is_not_buried():
    colours = palette(3)
    masks = boxes((0, 128), (0, 128), (60, 70))
    pixels = np.asarray(paint(GREY, masks, colours, 128), int)
    seen = {nearest(pixel, colours) for pixel in pixels[20:40, 20:40].reshape(-1, 3)}
    assert seen == {0, 1}
    assert (pixels[:, 60] == colours[2]).all()  # its outline lies on top


@pytest.mark.parametrize("size", [(128, 128), (480, 640), (1400, 900), (20, 300)])
def test_overlay_keeps_the_shape_and_adds_a_legend(size):
    image = np.full((*size, 3), 90, np.uint8)
    masks = boxes((0, 9), (9, 18), height=size[0], width=size[1])
    result = overlay(image, masks, ["a black bear", "tree"])
    width = max(size[1], 320)
    picture = round(size[0] * width / size[1])
    assert result.dtype == np.uint8 and result.shape[1:] == (width, 3)
    assert result.shape[0] > picture
    legend = result[picture:].reshape(-1, 3)
    for colour in palette(2):
        assert (legend == colour).all(1).sum() > 40  # the swatch
    assert (overlay(image, masks, ["a black bear", "tree"]) == result).all()


def test_overlay_without_masks_and_with_mismatched_ones():
    assert overlay(GREY, boxes(), []).shape == (160, 320, 3)
    with pytest.raises(ValueError, match="1 masks, 2 labels"):
        overlay(GREY, boxes((0, 4)), ["a", "b"])


CAPTION = "A bear, and its shiny-coat (old) near the tree."


def comparison(**changes):
    masks = boxes((0, 40), (40, 60))
    given = {
        "image": GREY,
        "caption": CAPTION,
        "spans": [(2, 6), (42, 46)],
        "panels": {"ground truth": masks, "prediction": masks},
    }
    return Comparison(**{**given, **changes})


def test_side_by_side_has_a_column_per_panel_and_a_row_per_narrative():
    one, two = side_by_side([comparison()]), side_by_side([comparison(), comparison()])
    assert one.shape[1] == two.shape[1] == 3 * 320 + 4 * 12
    assert two.shape[0] > 1.8 * one.shape[0]
    text = one[12 + 160 :].reshape(-1, 3)
    for colour in palette(2):
        assert (text == colour).all(1).any()  # a phrase in its colour
    with_notes = side_by_side([comparison(notes=["0.9", "0.1"])], footnote="Numbers: IoU.")
    assert with_notes.shape[0] > one.shape[0]
    headed = side_by_side([comparison()], heading="Mini world.")
    added = headed.shape[0] - one.shape[0]
    assert added > 12 and (headed[added:] == one).all(), "a first line"
    larger = side_by_side([comparison()], panel=400)
    assert larger.shape[1] == 3 * 400 + 4 * 12


def test_side_by_side_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="nothing"):
        side_by_side([])
    with pytest.raises(ValueError, match="not all comparisons"):
        side_by_side([comparison(), comparison(panels={"prediction": boxes((0, 1), (1, 2))})])
    with pytest.raises(ValueError, match="prediction: 1 masks for 2 phrases"):
        side_by_side([comparison(panels={"prediction": boxes((0, 1))})])


# --- differences --------------------------------------------------------------------------------


def squares(*corners, side=20, size=128):
    """One mask (1, H, W) of squares by their (top, left)."""
    mask = np.zeros((1, size, size), bool)
    for top, left in corners:
        mask[0, top : top + side, left : left + side] = True
    return mask


def test_a_box_lies_around_what_differs():
    truth, prediction = squares((10, 10), (60, 80)), squares((10, 10))
    assert difference_boxes(prediction, truth) == [Box(80, 60, 100, 80)]
    assert difference_boxes(truth, prediction) == [Box(80, 60, 100, 80)]
    assert difference_boxes(truth, truth) == []
    # a swap of two phrases differs, though their union does not
    both, swapped = np.concatenate([truth, ~truth]), np.concatenate([~truth, truth])
    assert difference_boxes(both, swapped) == [Box(0, 0, 128, 128)]
    assert difference_boxes(squares((108, 0)), squares()) == [Box(0, 108, 20, 128)]  # at the edge


def test_borders_that_are_a_little_off_and_small_areas_get_no_box():
    truth = squares((30, 30), side=60)
    assert difference_boxes(squares((32, 32), side=60), truth) == []  # two pixels
    assert difference_boxes(squares((29, 29), side=62), truth) == []
    assert difference_boxes(squares((0, 0), side=15), squares()) == []  # 1.4 % of the image
    assert difference_boxes(squares((0, 0), side=16), squares()) == [Box(0, 0, 16, 16)]


def test_the_largest_differences_come_first_and_no_more_than_asked():
    sides = (17, 30, 20, 25)
    corners = ((0, 0), (0, 64), (64, 0), (64, 64))
    wrong = np.any([squares(c, side=s) for c, s in zip(corners, sides, strict=True)], axis=0)
    boxes = difference_boxes(wrong, squares())
    assert [box.right - box.left for box in boxes] == [30, 25, 20]


@pytest.mark.parametrize("level", [0, 255])
def test_boxes_are_dashed_and_seen_on_dark_and_light(level):
    picture = Image.new("RGB", (320, 320), (level,) * 3)
    drawn = np.asarray(draw_dashed(picture, [Box(10, 20, 60, 100)], 2.0)).astype(int)
    line = drawn[40, 20:120, 0]  # the upper edge
    opposite = 255 - level
    assert (line[:10] == 255).all() and (line[-10:] == 255).all()  # whole corners
    assert 3 < (np.diff((line == 255).astype(int) if level == 0 else line == 0) != 0).sum()
    assert (drawn == opposite).any()
    inside, outside = drawn[50:190, 30:110], drawn[:38]
    assert (inside == level).all() and (outside == level).all() and (drawn[:, 125:] == level).all()
    assert (np.asarray(picture) == level).all()  # a copy is drawn on
    whole = draw_dashed(picture, [Box(0, 0, 160, 160), Box(3, 3, 4, 4)], 2.0)
    assert whole.size == (320, 320)


def test_differences_are_marked_in_both_panels_and_explained():
    truth, image = squares((10, 10), (60, 80)), np.full((128, 128, 3), 128, np.uint8)
    given = {"image": image, "spans": [(2, 6)], "panels": {"truth": truth, "ours": squares()}}
    right = comparison(**{**given, "panels": {"truth": truth, "ours": truth}})
    plain, marked = (
        side_by_side([comparison(**given)], footnote="Numbers: IoU.", differences=differences)
        for differences in (False, True)
    )
    assert plain.shape == marked.shape
    changed = (plain[: 32 + 320] != marked[: 32 + 320]).any((0, 2))
    first, second, third = (changed[12 + 332 * n : 332 * (n + 1)] for n in range(3))
    assert not first.any() and second.any() and third.any()
    unmarked = side_by_side([right], differences=True, footnote="Numbers: IoU.")
    same = side_by_side([right], footnote="Numbers: IoU.")
    assert (unmarked[: 32 + 320] == same[: 32 + 320]).all()  # identical masks: no box
    assert (unmarked != same).any()  # the sentence is there
    with pytest.raises(ValueError, match="between two panels"):
        side_by_side([comparison(**{**given, "panels": {"ours": truth}})], differences=True)


# --- text ---------------------------------------------------------------------------------------


def test_words_are_coloured_by_span_and_keep_their_signs():
    colours = palette(2)
    words = coloured_words(CAPTION, [(2, 6), (16, 26)], colours, ["x", "y"])
    assert [(w.text, w.colour, w.glued) for w in words[:5]] == [
        ("A", INK, False),
        ("bear", colours[0], False),
        ("x", colours[0], False),
        (",", INK, True),
        ("and", INK, False),
    ]
    assert [w.text for w in words if w.colour == colours[1]] == ["shiny-coat", "y"]
    plain = coloured_words(CAPTION, [(2, 6)], colours)
    assert "".join(w.text if w.glued else f" {w.text}" for w in plain).strip() == CAPTION
    for spans in ([(4, 9), (5, 12)], [(0, 400)], [(3, 3)]):
        with pytest.raises(ValueError, match="span"):
            coloured_words(CAPTION, spans, colours)


@pytest.mark.parametrize("text", ["one", "word " * 200, "w" * 120, "a " + "very" * 30 + " b"])
def test_lines_hold_their_width_and_lose_nothing(text):
    """As much ink in narrow lines as in one line that is long enough."""
    words = [Word(part) for part in text.split()]
    narrow, wide = (255 - np.asarray(flow(words, w, 15)).astype(int) for w in (300, 12000))
    assert narrow.shape[1] == 300 and not narrow[:, -1].any()
    assert wide.shape[0] == 20
    assert narrow.sum() == pytest.approx(wide.sum(), rel=0.05)


def test_a_long_label_is_broken_at_a_blank_and_keeps_one_swatch():
    red = palette(1)[0]
    image = np.asarray(flow([Word("the man in the grey coat " * 3, red, swatch=True)], 200, 14))
    assert image.shape[0] >= 3 * 19
    rows = (image == red).all(2).any(1)
    assert rows[:19].any() and not rows[19:].any()


def test_the_font_is_the_one_that_ships_with_matplotlib():
    assert isinstance(font(12), ImageFont.FreeTypeFont) and "DejaVu" in font(12).getname()[0]
