"""Files of label masks."""

import numpy as np
import pytest
from PIL import Image

from diffground.errors import InputError
from diffground.io.labels import colour_map, read_labels, write_labels

LABELS = np.array([[0, 3, 255], [20, 1, 0]], np.uint8)


def test_files_have_voc_colours_and_come_back(tmp_path):
    path = write_labels(tmp_path / "new" / "x.png", LABELS)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert (np.array(image.convert("RGB")) == colour_map()[LABELS]).all()
    assert (read_labels(path, size=(2, 3), classes=21) == LABELS).all()
    assert [file.name for file in path.parent.iterdir()] == ["x.png"]
    grey = tmp_path / "grey.png"
    Image.fromarray(LABELS).save(grey)
    assert (read_labels(grey) == LABELS).all()
    assert colour_map()[[0, 1, 2, 15, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [224, 224, 192],
    ]  # fmt: skip


def test_files_that_are_no_masks(tmp_path):
    path = write_labels(tmp_path / "mask.png", LABELS)
    with pytest.raises(InputError, match=r"mask\.png: size: the mask is 3x2, its image 4x2"):
        read_labels(path, size=(2, 4))
    with pytest.raises(InputError, match=r"mask\.png: labels: unknown labels \[20\]: there are 15"):
        read_labels(path, classes=15)
    with pytest.raises(InputError, match=r"none\.png: file: there is no such file"):
        read_labels(tmp_path / "none.png")
    colours = tmp_path / "colours.png"
    Image.fromarray(colour_map()[LABELS]).save(colours)
    with pytest.raises(InputError, match=r"colours\.png: mode: the pixels are RGB"):
        read_labels(colours)
    noise = np.random.default_rng(0).integers(0, 9, (64, 64)).astype(np.uint8)
    whole = write_labels(tmp_path / "whole.png", noise).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2 + 400])
    with pytest.raises(InputError, match=r"cut\.png: pixels: the image is cut short"):
        read_labels(tmp_path / "cut.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png: format"):
        read_labels(tmp_path / "text.png")
