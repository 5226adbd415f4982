"""Image files as uint8 RGB arrays, with errors that name the file.

What is done with the modes a file can have (everything else is an :class:`InputError`):

- grey (``1``, ``L``): the grey value in all three channels;
- grey with 16 bits (``I;16``): ``round(value / 257)``, so that 65535 becomes 255, then as grey;
- palette, CMYK, YCbCr, LAB, HSV: Pillow's conversion to RGB, colour profiles are not applied;
- any transparency (``LA``, ``RGBA``, a transparent palette entry): composed over white;
- 32 bit integers and floats (``I``, ``F``): refused, their range is unknown;
- animations (GIF, APNG, WebP): refused; phones' ``MPO`` files give their main picture.

EXIF rotation is applied by default (``upright=True``): a photo is seen as viewers show it. Datasets
whose masks were drawn on the pixels as they are stored ask for ``upright=False``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diffground.errors import InputError
from diffground.io.files import write_whole

_CONVERTED = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV"}
_GREY_16 = {"I;16", "I;16L", "I;16B", "I;16N"}
_TRANSPARENT = {"LA", "La", "PA", "RGBA", "RGBa"}


def read_image(path: str | Path, *, upright: bool = True) -> NDArray[np.uint8]:
    """The image of a file, uint8 RGB ``(H, W, 3)``.

    ``upright`` applies the EXIF rotation. Raises :class:`InputError` for a file that is missing,
    is a folder, is no image, is cut short or corrupt, or has a mode named as refused at the top of
    this module; of the field :data:`~diffground.errors.ACCESS` where the system would not open it.
    """
    try:
        with open_image(path) as image:
            image.load()
            if upright:
                ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image, path)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise broken_pixels(path, error) from error


def broken_pixels(path: str | Path, error: Exception) -> InputError:
    """What is wrong with an image whose pixels could not be read."""
    if isinstance(error, OSError) and error.errno is not None:  # Pillow's own have no number
        return InputError.denied(path, error)
    return InputError(path, "pixels", f"the image is cut short or corrupt ({error})")


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


def open_image(path: str | Path) -> Image.Image:
    """The opened Pillow image, pixels not read yet; each way in which opening fails: InputError."""
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(path, "file", "a folder, where an image file is expected")
        return Image.open(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(path, "file", "there is no such file") from error
    except Image.DecompressionBombError as error:
        raise InputError(path, "size", str(error)) from error
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError.denied(path, error) from error
        raise InputError(path, "format", f"not a readable image file ({error})") from error


def _to_rgb(image: Image.Image, path: str | Path) -> NDArray[np.uint8]:
    """Applies the table at the top of this module."""
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise InputError(path, "frames", "an animation; give one still image")
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
