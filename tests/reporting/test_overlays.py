"""Pictures: colours are where the masks are, text is never cut, nothing depends on the machine."""

import numpy as np
import pytest
from PIL import ImageFont

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
    assert overlay(image, masks, ["a", "b"], width=200).shape[1] == 200


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
    larger = side_by_side([comparison()], panel=400)
    assert larger.shape[1] == 3 * 400 + 4 * 12


def test_side_by_side_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="nothing"):
        side_by_side([])
    with pytest.raises(ValueError, match="not all comparisons"):
        side_by_side([comparison(), comparison(panels={"prediction": boxes((0, 1), (1, 2))})])
    with pytest.raises(ValueError, match="prediction: 1 masks for 2 phrases"):
        side_by_side([comparison(panels={"prediction": boxes((0, 1))})])


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
