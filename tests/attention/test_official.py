"""The public code's extra steps: its sizes, its padding, its boxes and its nearest labels."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from text2mask_golden import content_size

from diffground.attention.official import PAD_COLOUR, box_mask, long_side, shrunk_side
from diffground.attention.preprocess import Geometry, fit, sizes
from diffground.errors import InputError


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Content and padded size, of the public code for a model of 512 pixels.
SIZES = [
    ((375, 500), (576, 768), (576, 768)),
    ((333, 500), (554, 832), (576, 832)),
    ((500, 333), (832, 554), (832, 576)),
    ((500, 500), (704, 704), (704, 704)),
    ((480, 640), (576, 768), (576, 768)),
    ((640, 1137), (504, 896), (512, 896)),
    ((100, 1000), (102, 1024), (128, 1024)),  # beyond 16/7
    ((1, 5000), (1, 1024), (64, 1024)),
]


@pytest.mark.parametrize(("original", "content", "padded"), SIZES)
def test_sizes_of_the_public_code(original, content, padded) -> None:
    canvas, geometry = fit(image(*original), native=512, multiple=64, compat="official")
    assert geometry == Geometry(original, content, padded)
    assert canvas.shape == (*padded, 3)
    assert (canvas[content[0] :] == PAD_COLOUR).all()
    assert (canvas[:, content[1] :] == PAD_COLOUR).all()


def test_every_size_of_the_public_code() -> None:
    """All images of up to 640 x 640 pixels, and those of Mug19, to the pixel."""
    pairs = [(h, w) for h in range(1, 641) for w in range(1, 641)]
    pairs += [(640, w) for w in range(641, 1138)] + [(h, 640) for h in range(641, 1138)]
    wrong = []
    for height, width in pairs:
        short, long = min(height, width), max(height, width)
        target = long_side(height, width)
        shrunk = shrunk_side(short, long, target)
        found = (target, shrunk) if height > width else (shrunk, target)
        if found != plain_size(height, width):
            wrong.append(((height, width), found))
    assert not wrong, (len(wrong), wrong[:5])
    assert sizes(338, 640, native=512, multiple=64, compat="official").content == (507, 960)


def plain_size(height: int, width: int) -> tuple[int, int]:
    """The code's size, but for images so thin that it has no pixel left, where it fails."""
    first, second = content_size(height, width, 512)
    return max(first, 1), max(second, 1)


def stretch(geometry: Geometry) -> float:
    """By how much the content is wider, or taller, than the image."""
    (height, width), (new_height, new_width) = geometry.original, geometry.content
    ratio = new_width * height / (new_height * width)
    return max(ratio, 1 / ratio)


def test_sizes_of_the_paper() -> None:
    """Whole multiples, nothing padded, hardly stretched; and sizes of one's own."""
    canvas, geometry = fit(image(333, 500), native=512, multiple=64, compat="paper")
    assert canvas.shape == (512, 768, 3)
    assert geometry == Geometry((333, 500), (512, 768), (512, 768))
    _, geometry = fit(image(128, 128), native=128, multiple=64, compat="paper", long=128)
    assert geometry.padded == (128, 128)
    _, geometry = fit(image(100, 200), native=128, multiple=64, compat="official", long=100)
    assert geometry == Geometry((100, 200), (50, 100), (64, 128))


@pytest.mark.parametrize(
    ("native", "most", "mean"), [(512, 1.04, 1.012), (256, 1.08, 1.023), (768, 1.03, 1.012)]
)
def test_the_paper_hardly_stretches(native: int, most: float, mean: float) -> None:
    """Of sides 1:1 to 5:2, the long one within a third of the public code's."""
    found = []
    for short in range(200, 501):
        for size in ((short, 500), (500, short)):
            geometry = sizes(*size, native=native, multiple=64, compat="paper")
            assert geometry.content == geometry.padded
            assert all(side % 64 == 0 for side in geometry.content)
            assert 3 / 4 <= max(geometry.content) / long_side(*size, native) <= 4 / 3
            found.append(stretch(geometry))
    assert max(found) < most and np.mean(found) < mean
    whole = sizes(375, 500, native=native, multiple=64, compat="paper")
    assert stretch(whole) < 1.02, "4:3 has a size of its own"


def test_no_mode_stretches_a_small_models_image() -> None:
    """4:3 with 256 pixels: 288 x 384 is padded, or whole multiples are found."""
    padded = sizes(375, 500, native=256, multiple=64, compat="official")
    assert padded == Geometry((375, 500), (288, 384), (320, 384))
    stretched = sizes(375, 500, native=256, multiple=64, compat="paper")
    assert stretched == Geometry((375, 500), (384, 512), (384, 512))


def test_the_image_is_unchanged_at_its_own_size() -> None:
    pixels = image(64, 128)
    canvas, _ = fit(pixels, native=128, multiple=64, compat="official", long=128)
    assert np.array_equal(canvas, pixels)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), image(0, 4)])
def test_not_an_image(bad) -> None:
    with pytest.raises(InputError, match=r"uint8 \(H, W, 3\)"):
        fit(bad, native=512, multiple=64, compat="official")


def test_maps_and_labels_lose_the_padding() -> None:
    """Grid 4 x 8 of a padded 64 x 128: the content is the upper left 48 x 128."""
    geometry = Geometry(original=(24, 64), content=(48, 128), padded=(64, 128))
    rows = torch.arange(4.0)[:, None].expand(4, 8)
    assert torch.equal(
        geometry.nearest(rows.long()), torch.arange(3).repeat_interleave(8)[:, None].expand(24, 64)
    )
    enlarged = torch.nn.functional.interpolate(rows[None, None], (64, 128), mode="bilinear")
    expected = torch.nn.functional.interpolate(enlarged[:, :, :48], (24, 64), mode="bilinear")
    assert torch.equal(geometry.to_image(rows[None], "official"), expected[0])


def test_the_box_of_a_full_map_lacks_the_last_row_and_column() -> None:
    """The off-by-one: 99 of the 120 cells of a 10 x 12 map."""
    full = torch.ones(1, 10, 12)
    assert int(box_mask(full, 0.2).sum()) == 99
    assert not box_mask(torch.zeros(1, 10, 12), 0.2).any()


def test_the_threshold_is_of_256_levels() -> None:
    """Above int(0.5 · 255) = 127, so 127.9 / 255 is not."""
    maps = torch.zeros(2, 4, 5)
    maps[:, 0, 0] = 1
    maps[0, 2, 2], maps[1, 2, 2] = 127.9 / 255, 128.1 / 255
    assert box_mask(maps, 0.5).sum(dim=(1, 2)).tolist() == [1, 2]


def contour_boxes(above: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes of all contours of a binary picture, from their definition: ``(x, y, x + w, y + h)``.

    An outer contour runs on the pixels of an 8-connected component that see the background outside
    of it, a hole's on those that see the hole (4-connected). No component is assumed to box it.
    """
    height, width = above.shape
    ground = np.pad(~above, 1, constant_values=True)
    outside, count = ndimage.label(ground)  # 4-connected, as what 8-connected lines separate
    components, number = ndimage.label(np.pad(above, 1), structure=np.ones((3, 3)))
    boxes = []
    for component in range(1, number + 1):
        own = components == component
        for region in range(1, count + 1):
            seen = own & ndimage.binary_dilation(outside == region)
            if seen.any():
                rows, columns = np.nonzero(seen[1:-1, 1:-1])
                boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return boxes


def test_components_have_the_boxes_of_all_contours() -> None:
    """On random pictures with holes, and components inside of holes."""
    random = np.random.default_rng(3)
    for density in (0.2, 0.5, 0.8):
        picture = ndimage.zoom(random.random((2, 8, 9)), (1, 2, 2), order=0) < density
        picture |= random.random(picture.shape) < 0.05
        picture[:, 5:16, 5:16] = True
        picture[:, 7:14, 7:14] = False
        picture[:, 9:12, 9:12] = True
        for one in picture:
            expected = np.zeros(one.shape, dtype=bool)
            for x0, y0, x1, y1 in contour_boxes(one):
                expected[y0 : min(y1, one.shape[0] - 1), x0 : min(x1, one.shape[1] - 1)] = True
            found = box_mask(torch.from_numpy(one.astype(np.float32))[None], 0.2)[0].numpy()
            assert np.array_equal(found, expected)
