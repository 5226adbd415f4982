"""Images as uint8 RGB arrays, whether they come as files, pictures or arrays.

A file, and the picture that Pillow opens of it, are the same array. What is done with their modes
(everything else is an :class:`InputError`):

- grey (``1``, ``L``): the grey value in all three channels;
- grey with 16 bits (``I;16``): ``round(value / 257)``, so that 65535 becomes 255, then as grey;
- palette, CMYK, YCbCr, LAB, HSV: Pillow's conversion to RGB, colour profiles are not applied;
- any transparency (``LA``, ``RGBA``, a transparent palette entry): composed over white;
- 32 bit integers and floats (``I``, ``F``): refused, their range is unknown;
- animations (GIF, APNG, WebP): refused; phones' ``MPO`` files give their main picture.

Arrays have the form that such pictures have as arrays: uint8 ``(H, W)``, ``(H, W, 3)`` RGB and
``(H, W, 4)`` RGBA, uint16 ``(H, W)`` grey of 16 bits. Floats, truth values, other shapes and empty
arrays are refused: what their values mean is not known.

EXIF rotation is applied by default (``upright=True``): a photo is seen as viewers show it. Datasets
whose masks were drawn on the pixels as they are stored ask for ``upright=False``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diffground.errors import InputError
from diffground.io.files import write_whole

ImageSource = str | Path | Image.Image | NDArray[Any]

#: What is opened, whatever a file is called. Pillow reads forty more, some of which nobody has
#: looked after for years; of PostScript (EPS) it lets Ghostscript run what the file says.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
BROKEN = "the image is cut short or corrupt"
JPEG_QUALITY = 95
_CONVERTED = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV"}
_GREY_16 = {"I;16", "I;16L", "I;16B", "I;16N"}
_TRANSPARENT = {"LA", "La", "PA", "RGBA", "RGBa"}


def read_image(source: ImageSource, *, upright: bool = True) -> NDArray[np.uint8]:
    """The image of a file, a Pillow picture or an array, uint8 RGB ``(H, W, 3)``.

    ``upright`` applies the EXIF rotation, which an array does not have. A picture is not changed;
    an array that already is RGB is given back as it is. Raises :class:`InputError` for a file that
    is missing, is a folder, is no image, is cut short or corrupt, and for a mode or an array that
    is named as refused at the top of this module; of the field
    :data:`~diffground.errors.ACCESS` where the system would not open the file.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if isinstance(source, Image.Image):
        return _of_picture(source, getattr(source, "filename", "") or "image", upright)
    if not isinstance(source, (str, Path)):
        reason = f"{type(source).__name__}: a path, a Pillow picture or a NumPy array is needed"
        raise InputError("image", "type", reason)
    with open_image(source) as image:
        return _of_picture(image, source, upright)


@contextmanager
def reading(path: str | Path, field: str, fault: str) -> Iterator[None]:
    """Within it, Pillow reads an image: what it has to say is an InputError, ``fault`` if not
    :data:`~diffground.errors.ACCESS`."""
    try:
        yield
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # Pillow's own have no number
            raise InputError.denied(path, error) from error
        raise InputError(path, field, f"{fault} ({error})") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """``(H, W)`` of the stored pixels (before any EXIF rotation), read from the header only."""
    with open_image(path) as image:
        return image.height, image.width


def write_png(path: str | Path, image: NDArray[np.uint8]) -> Path:
    """Writes a uint8 array, grey ``(H, W)`` or RGB ``(H, W, 3)``, as a PNG file.

    The file appears under its name only when it is whole, so that a run that is stopped leaves no
    half-written picture. Folders are made. Returns the path; asserts the dtype and shape.
    """
    assert image.dtype == np.uint8, image.dtype
    assert image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3), image.shape
    picture = Image.fromarray(np.ascontiguousarray(image))
    return write_whole(path, lambda part: picture.save(part, format="PNG"))


def write_jpeg(path: str | Path, image: NDArray[np.uint8]) -> Path:
    """Writes an RGB image ``(H, W, 3)``, with full colour resolution: pictures may be small.

    As :func:`write_png`, whole or not at all.
    """
    assert image.dtype == np.uint8 and image.ndim == 3, (image.dtype, image.shape)
    picture = Image.fromarray(image)
    return write_whole(
        path, lambda part: picture.save(part, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    )


def open_image(path: str | Path) -> Image.Image:
    """The opened Pillow image, pixels not read yet; each way in which opening fails: InputError."""
    path = Path(path)
    with reading(path, "format", "not an image file of a kind that is read, " + ", ".join(FORMATS)):
        try:
            if path.is_dir():
                raise InputError(path, "file", "a folder, where an image file is expected")
            return Image.open(path, formats=FORMATS)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(path, "file", "there is no such file") from error
        except Image.DecompressionBombError as error:
            raise InputError(path, "size", str(error)) from error


def _of_picture(image: Image.Image, name: str | Path, upright: bool) -> NDArray[np.uint8]:
    with reading(name, "pixels", BROKEN):
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise InputError(name, "frames", "an animation; give one still image")
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image) if upright else image, name)


def _of_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if not (grey or colour) or 0 in array.shape:
        reason = (
            f"{array.dtype} {array.shape}: uint8 (H, W, 3) is needed; uint8 (H, W) and (H, W, 4), "
            "and uint16 (H, W), are converted"
        )
        raise InputError("image", "array", reason)
    if array.ndim == 3 and array.shape[2] == 3:
        return array
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), "image")


def _to_rgb(image: Image.Image, path: str | Path) -> NDArray[np.uint8]:
    """Applies the table at the top of this module."""
    if image.mode in _GREY_16:
        values = np.asarray(image, dtype=np.float64) / 257
        grey = np.round(values).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, pixels).convert("RGB"))
    if image.mode not in _CONVERTED:
        raise InputError(path, "mode", f"pixels of mode {image.mode!r} have no defined 8 bit range")
    return np.array(image.convert("RGB"))
