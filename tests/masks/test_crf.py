"""The two dense CRFs are one, and what the colour kernel sees in either mode."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from mask_world import scene
from pydantic import ValidationError

from diffground.errors import InputError
from diffground.masks import crf
from diffground.masks.crf import CrfConfig, crf_picture, dense_crf
from diffground.masks.meanfield import Lattice, mean_field, pixel_features

compiled_crf = pytest.mark.skipif(
    find_spec("pydensecrf") is None, reason="the compiled CRF is not installed"
)
SCENES = [((24, 33), 2), ((40, 48), 3), ((61, 45), 4), ((64, 64), 6)]


@compiled_crf
@pytest.mark.parametrize("compat", ["official", "paper"])
@pytest.mark.parametrize(("size", "labels"), SCENES)
@pytest.mark.parametrize("iterations", [1, 10])
def test_torch_gives_what_pydensecrf_gives(compat, size, labels, iterations):
    image, scores, _ = scene(labels, size, labels, noise=12)
    config = CrfConfig(backend="pydensecrf", iterations=iterations)
    compiled = dense_crf(image, scores, config, compat)
    ours = dense_crf(image, scores, config.model_copy(update={"backend": "torch"}), compat)
    assert compiled.dtype == ours.dtype == np.float32 and compiled.shape == scores.shape
    np.testing.assert_allclose(ours.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(ours, compiled, atol=1e-3)  # the largest of 320 pictures: 5e-4
    assert np.abs(ours - compiled).mean() < 1e-6
    assert (ours.argmax(0) == compiled.argmax(0)).mean() >= 0.999


@compiled_crf
def test_other_kernels_agree_too():
    image, scores, _ = scene(3, (40, 48), 4)
    config = CrfConfig(backend="pydensecrf", bilateral_sxy=20, bilateral_srgb=13.0)
    ours = dense_crf(image, scores, config.model_copy(update={"backend": "torch"}), "official")
    np.testing.assert_allclose(ours, dense_crf(image, scores, config, "official"), atol=1e-3)


def test_crf_mends_blurred_scores():
    image, scores, truth = scene(5, (64, 64), 4, noise=1)
    blurred = (scores.argmax(0) == truth).mean()
    for compat in ("paper", "official"):
        labels = dense_crf(image, scores, CrfConfig(), compat).argmax(0)
        assert (labels == truth).mean() > max(blurred, 0.98)


def test_one_label_is_certain():
    image = np.zeros((4, 5, 3), np.uint8)
    for backend in ("pydensecrf", "torch"):
        posterior = dense_crf(image, np.zeros((1, 4, 5)), CrfConfig(backend=backend), "paper")
        assert (posterior == 1).all() and posterior.shape == (1, 4, 5)


def test_official_picture_is_centred_bgr_that_wraps():
    image = np.array([[[100, 110, 120], [200, 0, 255]]], np.uint8)  # R, G, B
    assert (crf_picture(image, "paper") == image).all()
    # B: 120 - 104.008 = 15.99; G: 110 - 116.669 = -6.67 -> -6 -> 250; R: 100 - 122.675 -> -22
    assert crf_picture(image, "official").tolist() == [[[15, 250, 234], [150, 140, 77]]]


def test_the_modes_differ():
    image, scores, _ = scene(1, (40, 48), 3, noise=12)
    paper, official = (dense_crf(image, scores, CrfConfig(), c) for c in ("paper", "official"))
    assert np.abs(paper - official).max() > 0.01


def test_lattice_is_nearly_the_gaussian_sum():
    image = torch.full((20, 20, 3), 7)
    features = pixel_features(image, 3.0, 10.0)
    values = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    exact = torch.exp(-0.5 * torch.cdist(features, features) ** 2)
    exact /= exact.sum(1, keepdim=True)
    lattice = Lattice(features)
    smooth = lattice.filter(values) / lattice.filter(torch.ones(400, 1))
    assert (smooth - exact @ values).abs().max() < 0.05


def test_mean_field_with_a_single_pixel_by_hand():
    # One pixel: its kernel's row is itself, normalised to 1, so the message is its own posterior.
    unary = torch.tensor([[0.2, 1.0]])
    start = torch.softmax(-unary, 1)
    expected = torch.softmax(-unary + 3 * start, 1)
    out = mean_field(unary, [(3.0, torch.zeros(1, 2))], 1)
    torch.testing.assert_close(out, expected)


def test_settings_that_cannot_work(monkeypatch):
    with pytest.raises(ValidationError, match="torch` can take a device"):
        CrfConfig(device="cuda", backend="pydensecrf")
    with pytest.raises(ValidationError):
        CrfConfig(iterations=0)
    image, scores, _ = scene(1, (40, 48), 3)
    with pytest.raises(InputError, match="standard deviations are too small"):
        narrow = CrfConfig(backend="torch", bilateral_sxy=0.001, bilateral_srgb=0.001)
        dense_crf(image, scores, narrow, "official")


def test_without_the_compiled_crf_torch_does_it_and_says_so(monkeypatch, caplog):
    assert CrfConfig().backend in {"pydensecrf", "torch"}, "no key says `auto`"
    assert CrfConfig(device="cuda").backend == "torch"
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    crf._say_once.cache_clear()
    image, scores, _ = scene(1, (24, 33), 2)
    config = CrfConfig(iterations=2)
    assert config.backend == "torch"
    assert CrfConfig.model_validate(config.model_dump()) == config
    first, again = (dense_crf(image, scores, config, "official") for _ in range(2))
    assert (first == again).all()
    (said,) = caplog.messages
    assert "torch" in said and "pip install pydensecrf2==1.1" in said
    with pytest.raises(InputError, match=r"pip install pydensecrf2==1.1.*backend: auto"):
        dense_crf(image, scores, CrfConfig(backend="pydensecrf"), "official")
