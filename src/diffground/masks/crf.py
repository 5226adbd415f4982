"""Dense CRF on scores of pixels (Text2Mask, 002, §5.1; the settings are the public code's).

There are two backends, and they give the same masks: the compiled ``pydensecrf``, which has to be
built (a C++ compiler, Python 3.11 or 3.12), and our own in torch, which runs everywhere in about
twice the time. ``backend: auto`` takes the compiled one where it is installed. A configuration
never stays at "auto": keys of files, reports and the run log name the backend that was used.

The unary term is ``-log`` of the scores, which are *not* normalised over the labels. Two Gaussian
kernels smooth it: one of the place, one of place and colour. Paper and public code differ in the
picture that the second kernel sees:

- ``compat: paper``: the RGB image, for lack of a word about it ("refined by dense CRF", §5.1);
- ``compat: official``: BGR with the mean (104.008, 116.669, 122.675) subtracted, as a network wants
  it, and then cast to 8 bits, where negative values wrap: 100 and 110 of blue become 252 and 5, so
  the kernel sees an edge where there is none.

``K`` classes, so K + 1 labels with the background first · ``N`` pixels = H·W
"""

from __future__ import annotations

import logging
import multiprocessing
from functools import cache
from importlib.util import find_spec
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from diffground.config import Compat, Config, Device
from diffground.errors import InputError

# Raised when the same scores are refined to others, here or in the backends.
CODE_VERSION: Final = 1

log = logging.getLogger(__name__)

Backend = Literal["auto", "pydensecrf", "torch"]
MEAN_BGR = (104.008, 116.669, 122.675)
# Of the public code, which the paper and its tables leave alone.
CLIP: Final = 1e-5  # scores below count as this much
GAUSSIAN_SXY: Final = 1.0  # standard deviation, pixels
GAUSSIAN_WEIGHT: Final = 3.0
BILATERAL_WEIGHT: Final = 4.0


class CrfConfig(Config):
    """The dense CRF. The numbers are the public code's, for 500 pixels; the paper names none."""

    device: Device = "cpu"  # of the torch backend: "cpu", "cuda", "cuda:1", ...
    # Compiled, or our own: the same masks. "auto" becomes one of the two at once.
    backend: Backend = Field("auto", validate_default=True)
    iterations: PositiveInt = 10
    bilateral_sxy: PositiveFloat = 67.0  # standard deviation, pixels
    bilateral_srgb: PositiveFloat = 3.0  # standard deviation, grey levels

    @field_validator("backend")
    @classmethod
    def _one_of_two(cls, backend: Backend, info: ValidationInfo) -> Backend:
        if backend != "auto":
            return backend
        on_cpu = info.data.get("device", "cpu") == "cpu"
        return "pydensecrf" if on_cpu and _is_compiled() else "torch"

    @model_validator(mode="after")
    def _device_is_used(self) -> Self:
        if self.backend == "pydensecrf" and self.device != "cpu":
            raise ValueError("pydensecrf computes on the cpu; `backend: torch` can take a device")
        return self


def dense_crf(
    image: NDArray[np.uint8], scores: NDArray[np.floating], config: CrfConfig, compat: Compat
) -> NDArray[np.float32]:
    """The posterior of every label, float32 ``(K + 1, H, W)``, sums to 1 over the labels.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        scores: ``(K + 1, H, W)``, background first, not normalised, cut to ``[CLIP, 1]``.
        config: kernels and backend.
        compat: which picture the colour kernel sees.

    Raises:
        InputError: ``pydensecrf`` is wanted and not installed, or the kernels are too narrow for
            the torch backend.
    """
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, image.shape
    assert scores.ndim == 3 and scores.shape[1:] == image.shape[:2], (scores.shape, image.shape)
    assert len(scores) > 0 and np.isfinite(scores).all(), "scores must be numbers"
    if len(scores) == 1:  # nothing to decide
        return np.ones(scores.shape, np.float32)
    if multiprocessing.parent_process() is None:  # a pool's processes would all say the same
        check_backend(config)
    seen, unary = crf_picture(image, compat), crf_unary(scores)
    infer = _compiled if config.backend == "pydensecrf" else _torch
    return infer(seen, unary, config)


def check_backend(config: CrfConfig) -> None:
    """Says once where torch stands in for the compiled CRF.

    Raises:
        InputError: the compiled CRF was asked for by name and is not installed.
    """
    if _is_compiled():
        return
    if config.backend == "pydensecrf":
        reason = f"pydensecrf is not installed. {_REMEDY}, or choose `backend: auto`"
        raise InputError("environment", "crf.backend", reason)
    if config.device == "cpu":
        _say_once()


_REMEDY = "`pip install pydensecrf2==1.1` builds it (with a C++ compiler, for Python below 3.13)"


def _is_compiled() -> bool:
    """Whether the compiled CRF is installed."""
    return find_spec("pydensecrf") is not None


@cache
def _say_once() -> None:
    log.warning(
        "the dense CRF runs in torch: pydensecrf is not installed. The masks are the same, in "
        "about twice the time. %s",
        _REMEDY,
    )


def crf_unary(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """The energies of labels with these scores, cut to ``[CLIP, 1]``: float32, of any shape."""
    energies: NDArray[np.float32] = -np.log(np.clip(scores, CLIP, 1.0)).astype(np.float32)
    return energies


def crf_picture(image: NDArray[np.uint8], compat: Compat) -> NDArray[np.uint8]:
    """What the colour kernel sees, uint8 ``(H, W, 3)``; see the top of this module."""
    if compat == "paper":
        return image
    centred = image[..., ::-1].astype(np.float32) - np.array(MEAN_BGR, np.float32)
    # Through a signed integer: a negative float cast to uint8 is undefined, and differs by machine.
    return centred.astype(np.int16).astype(np.uint8)


def _compiled(
    image: NDArray[np.uint8], unary: NDArray[np.float32], config: CrfConfig
) -> NDArray[np.float32]:
    from pydensecrf.densecrf import DenseCRF2D

    labels, height, width = unary.shape
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1)))
    crf.addPairwiseGaussian(sxy=GAUSSIAN_SXY, compat=GAUSSIAN_WEIGHT)
    crf.addPairwiseBilateral(
        sxy=config.bilateral_sxy,
        srgb=config.bilateral_srgb,
        rgbim=np.array(image, order="C"),  # a copy: what comes from a picture may be read-only
        compat=BILATERAL_WEIGHT,
    )
    posterior = np.array(crf.inference(config.iterations), np.float32)
    return posterior.reshape(unary.shape)


def _torch(
    image: NDArray[np.uint8], unary: NDArray[np.float32], config: CrfConfig
) -> NDArray[np.float32]:
    import torch

    from diffground.masks.meanfield import mean_field, pixel_features

    pixels = torch.tensor(np.ascontiguousarray(image), device=config.device)
    kernels = [
        (GAUSSIAN_WEIGHT, pixel_features(pixels, GAUSSIAN_SXY, None)),
        (
            BILATERAL_WEIGHT,
            pixel_features(pixels, config.bilateral_sxy, config.bilateral_srgb),
        ),
    ]
    energies = torch.tensor(unary.reshape(len(unary), -1).T.copy(), device=config.device)
    with torch.inference_mode():
        posterior = mean_field(energies, kernels, config.iterations)
    return np.ascontiguousarray(posterior.T.cpu().numpy()).reshape(unary.shape)
