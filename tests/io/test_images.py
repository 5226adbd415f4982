"""Every kind of image file gives the same array, or an error that names the file."""

import builtins
import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from diffground.errors import ACCESS, InputError, Problem
from diffground.io.images import image_size, read_image, write_png
from diffground.io.panoptic import encode_panoptic, read_panoptic, segment_masks

RGB = np.random.default_rng(0).integers(0, 256, (12, 18, 3)).astype(np.uint8)
GREY = RGB[..., 0]


def test_png_round_trip_leaves_no_other_file(tmp_path):
    path = write_png(tmp_path / "deep" / "a.png", RGB)
    assert (read_image(path) == RGB).all() and image_size(path) == (12, 18)
    write_png(path, GREY)
    assert (read_image(path) == GREY[..., None]).all()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.fromarray(RGB).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == RGB.shape and image.dtype == np.uint8
    expected = np.asarray(Image.fromarray(RGB).convert(mode).convert("RGB"))
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 1].tolist() == [0, 1, 128, 255]


def test_transparency_is_composed_over_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [255, 0, 128]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255, 127]
    palette = Image.fromarray(GREY).convert("P")
    palette.save(tmp_path / "p.png", transparency=int(np.asarray(palette)[0, 0]))
    assert read_image(tmp_path / "p.png")[0, 0].tolist() == [255, 255, 255]


def test_exif_rotation_is_the_readers_choice(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert (read_image(tmp_path / "a.png") == np.rot90(RGB, -1)).all()
    assert (read_image(tmp_path / "a.png", upright=False) == RGB).all()
    assert image_size(tmp_path / "a.png") == (12, 18)


def every_kind(folder: Path) -> Iterator[Path]:
    """A file of every mode, also turned by EXIF, transparent, and with 16 bits."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        picture = Image.fromarray(np.dstack([RGB, GREY[::-1]])).convert(mode)
        for name, options in (("plain", {}), ("turned", {"exif": exif})):
            picture.save(folder / f"{mode}-{name}.png", **options)
            yield folder / f"{mode}-{name}.png"
    for mode in ("CMYK", "YCbCr"):
        Image.fromarray(RGB).convert(mode).save(folder / f"{mode}.tif")
        yield folder / f"{mode}.tif"
    Image.fromarray(RGB).save(folder / "photo.jpg", exif=exif)
    yield folder / "photo.jpg"
    palette = Image.fromarray(GREY).convert("P")
    palette.save(folder / "palette.png", transparency=int(GREY[0, 0]), exif=exif)
    yield folder / "palette.png"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(folder / "grey16.png", exif=exif)
    yield folder / "grey16.png"


def test_a_file_and_its_picture_are_the_same_array(tmp_path):
    for path in every_kind(tmp_path):
        for upright in (True, False):
            expected = read_image(path, upright=upright)
            with Image.open(path) as picture:
                before = picture.size
                assert np.array_equal(read_image(picture, upright=upright), expected), path.name
                assert picture.size == before
                assert np.array_equal(read_image(picture, upright=upright), expected), "again"
            assert read_image(expected) is expected


def test_arrays(tmp_path):
    assert read_image(RGB) is RGB
    assert (read_image(GREY) == GREY[..., None]).all()
    assert (read_image(GREY[:, ::-1]) == GREY[:, ::-1, None]).all()
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert read_image(values)[0, :, 1].tolist() == [0, 1, 128, 255]
    rgba = np.dstack([np.zeros_like(RGB), np.where(GREY > 99, 255, 0).astype(np.uint8)])
    assert (read_image(rgba)[..., 0] == np.where(GREY > 99, 0, 255)).all()
    for wrong in (
        RGB / 255, RGB.astype(np.float32), GREY > 99, RGB.astype(np.int64), RGB[None], RGB[:0],
        RGB[..., :2], RGB[..., :1], GREY.astype(np.int32), RGB.astype(np.uint16), np.float32(3),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"image: array: .*uint8 \(H, W, 3\) is needed"):
            read_image(np.asarray(wrong))
    with pytest.raises(InputError, match="image: type: list: a path, a Pillow picture or a NumPy"):
        read_image([[0]])


def test_pictures_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="image: mode: pixels of mode 'F'"):
        read_image(Image.fromarray(RGB.astype(np.float32)[..., 0]))
    path = tmp_path / "cut.png"
    whole = write_png(tmp_path / "a.png", np.tile(RGB, (20, 20, 1))).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with Image.open(path) as picture, pytest.raises(InputError, match="cut.png: pixels"):
        read_image(picture)
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with (
        Image.open(tmp_path / "moving.gif") as picture,
        pytest.raises(InputError, match="moving.gif: frames"),
    ):
        read_image(picture)


def test_unreadable_files_are_named(tmp_path):
    png = write_png(tmp_path / "whole.png", np.tile(RGB, (20, 20, 1))).read_bytes()
    jpg = tmp_path / "whole.jpg"
    Image.fromarray(np.tile(RGB, (20, 20, 1))).save(jpg)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "cut.jpg").write_bytes(jpg.read_bytes()[:4000])
    (tmp_path / "bent.png").write_bytes(png[:200] + b"\0" * 400 + png[600:])
    Image.fromarray(RGB.astype(np.float32)[..., 0]).save(tmp_path / "float.tif")
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "folder.png").mkdir()
    expected = {
        "none.png": "file", "folder.png": "file", "empty.png": "format", "text.jpg": "format",
        "cut.png": "pixels", "cut.jpg": "pixels", "bent.png": "pixels",
        "float.tif": "mode", "moving.gif": "frames",
    }  # fmt: skip
    for name, field in expected.items():
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / name)
        assert caught.value.file == str(tmp_path / name)
        assert caught.value.field == field, name


def test_panoptic_ids_survive_every_byte(tmp_path):
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 256**3 - 1, 3165766]], np.uint32)
    rgb = encode_panoptic(ids)
    assert rgb[1, 3].tolist() == [3165766 % 256, 3165766 // 256 % 256, 3165766 // 65536]
    path = write_png(tmp_path / "ids.png", rgb)
    assert read_panoptic(path).dtype == np.uint32 and (read_panoptic(path) == ids).all()
    with pytest.raises(AssertionError, match="24 bits"):
        encode_panoptic(np.array([[256**3]]))


def test_a_folder_is_called_a_folder(tmp_path):
    (tmp_path / "a.png").mkdir()
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=r"a\.png: file: a folder, where an image file is"):
            read(tmp_path / "a.png")
    with pytest.raises(InputError, match="file: there is no such file"):
        read_image(write_png(tmp_path / "file.png", GREY) / "a.png")


@pytest.mark.parametrize("moment", ["open", "read"])
def test_what_the_system_denies_is_not_called_broken(tmp_path, monkeypatch, moment):
    """A stale handle, a lost right: the file may be sound, which a cut one is not."""
    path = write_png(tmp_path / "a.png", RGB)
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    def refuse(*args, **options):
        raise stale

    owner, name = (builtins, "open") if moment == "open" else (ImageFile.ImageFile, "load")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse)
        with pytest.raises(InputError, match=r"cannot be opened \(Stale file handle\)") as caught:
            read_image(path)
    assert caught.value.field == ACCESS and Problem.of("a", caught.value).may_pass
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="cut short") as caught:
        read_image(path)
    assert not Problem.of("a", caught.value).may_pass


def test_panoptic_files_that_would_read_as_other_ids_are_refused(tmp_path):
    """16 bits a channel, of which Pillow keeps eight; JPEG, which keeps none."""
    ihdr = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" + struct.pack(">6H", 0, 257, 258, 3, 4, 65535))
    chunks = ((b"IHDR", ihdr), (b"IDAT", rows), (b"IEND", b""))
    (tmp_path / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    with pytest.raises(InputError, match="mode: segment ids need 8 bit RGB, the file is 16 bit"):
        read_panoptic(tmp_path / "deep.png")
    write_png(tmp_path / "grey.png", GREY)
    with pytest.raises(InputError, match="mode: segment ids need 8 bit RGB, the file is L"):
        read_panoptic(tmp_path / "grey.png")
    Image.fromarray(RGB).save(tmp_path / "lossy.jpg")
    with pytest.raises(InputError, match="format: segment ids need a PNG, the file is JPEG"):
        read_panoptic(tmp_path / "lossy.jpg")


def test_segment_masks_keep_the_order_asked_for():
    ids = np.array([[5, 5, 7], [0, 7, 9]], np.uint32)
    masks = segment_masks(ids, [9, 5])
    assert masks.tolist() == [(ids == 9).tolist(), (ids == 5).tolist()]
    assert segment_masks(ids, []).shape == (0, 2, 3)
    with pytest.raises(InputError, match=r"a.png: segment_ids: no pixel has the id \[6\]"):
        segment_masks(ids, [5, 6], file="a.png")
    with pytest.raises(InputError, match="VOID"):
        segment_masks(ids, [0])
