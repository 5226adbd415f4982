"""The public face of grounded generation: an image with masks from a prompt, and photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_grounded
import tiny_png
import torch
from PIL import Image

import diffground
from diffground import GroundedGenerator
from diffground.backbone.sampler import sample as sampled
from diffground.errors import InputError
from diffground.papers.grounded.features import features
from diffground.papers.grounded.generation import generated, shown
from diffground.papers.grounded.module_config import GroundingModuleConfig
from diffground.papers.grounded.prompts import Attempt
from diffground.papers.grounded.trained import load_module, new_module, save_module

PROMPT, CLASSES = "a photo of a red circle and a sofa", ["red circle", "sofa"]


def saved(folder: Path, **changes: Any) -> Path:
    """A module that was not trained; its card says that it learned "red circle"."""
    card = tiny_grounded.card().model_copy(update=changes)
    save_module(folder, card, new_module(tiny_png.backbone(), card.module, seed=0))
    return folder


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("module"))


@pytest.fixture(scope="module")
def generator(module: Path) -> GroundedGenerator:
    return GroundedGenerator.from_pretrained(tiny_png.backbone().folder, module)


def test_an_image_and_its_masks(generator: GroundedGenerator, tmp_path: Path) -> None:
    result = generator(PROMPT, CLASSES, seed=3)
    assert isinstance(result, diffground.PhraseMasks)
    assert result.image.shape == (64, 64, 3) and result.masks.shape == (2, 64, 64)
    assert (result.prompt, result.phrases, result.seed) == (PROMPT, tuple(CLASSES), 3)
    assert np.array_equal(result.masks, result.probabilities > 0.5)
    assert np.array_equal(result.mask("sofa"), result.masks[1])
    assert result.seen == (True, False)
    assert "unseen" not in result.notes()[0] and result.notes()[1].endswith(", unseen")
    assert result.overlay().size[0] >= 64
    result.save(tmp_path / "out")
    assert (tmp_path / "out" / "01_sofa.png").exists()


def test_the_picture_is_that_of_the_synthetic_sets_and_the_masks_are_of_its_last_pass(
    generator: GroundedGenerator, module: Path
) -> None:
    attempt = Attempt("1", PROMPT, tuple(CLASSES), (), 3)
    model, made = generator.model, generator.generation
    last = generated(model, [attempt], made)
    result = generator(PROMPT, CLASSES, seed=3)
    assert np.array_equal(result.image, shown(model, last.latents[0]))
    one = generator._sample(attempt, last.entering[0], last.timestep)
    trained = load_module(module, model)
    found = features(model, [one], trained.modules, guided=True)
    (masks,) = trained.masks(found, [CLASSES])
    assert np.array_equal(result.probabilities, masks.numpy())
    assert result.timestep == last.timestep


def test_seeds_and_batches(generator: GroundedGenerator) -> None:
    two = generator.batch([PROMPT] * 3, [CLASSES, CLASSES, CLASSES[:1]], [3, 4, 3])
    assert len(two) == 3 and [one.seed for one in two] == [3, 4, 3]
    assert not np.array_equal(two[0].image, two[1].image)
    assert two[2].phrases == ("red circle",)
    for one, alone in zip(two, (generator(PROMPT, CLASSES, seed=s) for s in (3, 4)), strict=False):
        assert abs(one.image.astype(int) - alone.image.astype(int)).max() <= 1  # batched kernels
        assert abs(one.probabilities - alone.probabilities).max() < 1e-3


def test_a_photograph_takes_one_step_of_noise_and_one_pass(generator: GroundedGenerator) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    result = generator.segment(photo, CLASSES)
    assert result.image is photo and result.masks.shape == (2, 48, 96)
    assert result.timestep == 1 and result.prompt == "a photo of a red circle and a sofa"
    again = generator.segment(Image.fromarray(photo), CLASSES)
    assert np.array_equal(result.probabilities, again.probabilities)
    changed = [
        generator.segment(photo, CLASSES, timestep=200),
        generator.segment(photo, CLASSES, prompt="grass"),
        generator.segment(photo, CLASSES, seed=1),
        generator.segment(photo, CLASSES, item="another"),
    ]
    assert changed[0].timestep == 200 and changed[1].prompt == "grass"
    for other in changed:
        assert not np.array_equal(result.probabilities, other.probabilities)


def test_a_photograph_of_the_generated_picture_gives_nearly_its_masks(
    generator: GroundedGenerator,
) -> None:
    """The same latents by either way: what the VAE encodes is the whole difference."""
    made = generator(PROMPT, CLASSES, seed=3)
    model = generator.model
    asked = model.encode_prompts([PROMPT])
    *_, last = sampled(model, asked, [3], steps=3, guidance=5.0, retraceable=True)
    encoded = model.encode_images

    def exact(images: torch.Tensor) -> torch.Tensor:
        assert encoded(images).shape == last.entering.shape
        return last.entering

    model.encode_images = exact  # type: ignore[method-assign]
    model.add_noise = lambda latents, *_: latents  # type: ignore[method-assign]
    try:
        photo = generator.segment(made.image, CLASSES, prompt=PROMPT, timestep=round(last.timestep))
    finally:
        del model.encode_images, model.add_noise
    assert np.array_equal(made.probabilities, photo.probabilities)


def test_classes_that_cannot_be_asked_for(generator: GroundedGenerator) -> None:
    with pytest.raises(InputError, match="'dog' is not in"):
        generator(PROMPT, ["red circle", "dog"])
    for ask in (lambda c: generator(PROMPT, c), lambda c: generator.segment("none.jpg", c)):
        with pytest.raises(InputError, match="none is given"):
            ask([])
        with pytest.raises(InputError, match="none is given, or an empty one"):
            ask(["sofa", " "])
        with pytest.raises(InputError, match="a list is needed"):
            ask("sofa")
        with pytest.raises(InputError, match="given twice"):
            ask(["sofa", "sofa"])
    with pytest.raises(InputError, match="as long as the 2 seeds"):
        generator.batch([PROMPT], [CLASSES], [1, 2])


def test_photographs_that_cannot_be_read(generator: GroundedGenerator, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8no picture")
    for path in (tmp_path / "broken.jpg", tmp_path / "none.jpg"):
        with pytest.raises(InputError, match=path.name):
            generator.segment(path, CLASSES)
    photo = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InputError, match="timestep: 1000 is not in"):
        generator.segment(photo, CLASSES, timestep=1000)


def test_a_photograph_under_nothing_but_noise(tmp_path: Path) -> None:
    """As at SDXL-Turbo's one step."""
    folder = saved(tmp_path / "module", timestep=999.0)
    generator = GroundedGenerator.from_pretrained(tiny_png.backbone().folder, folder)
    photo = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InputError, match="name a lower one"):
        generator.segment(photo, CLASSES)
    assert generator.segment(photo, CLASSES, timestep=50).timestep == 50


def test_folders_that_do_not_belong_together(module: Path, tmp_path: Path) -> None:
    folder = tiny_png.backbone().folder
    with pytest.raises(InputError, match="fingerprint"):
        GroundedGenerator.from_pretrained(tiny_png.backbone(1).folder, module)
    other = GroundedGenerator.from_pretrained(tiny_png.backbone(1).folder, module, other_model=True)
    assert other(PROMPT, CLASSES).masks.shape == (2, 64, 64)
    with pytest.raises(InputError, match=r"module\.json"):
        GroundedGenerator.from_pretrained(folder, tmp_path)
    generation = tiny_grounded.config().generation
    lacking = generation.model_copy(update={"scheduler": "FlowMatchEulerDiscreteScheduler"})
    with pytest.raises(InputError, match="FlowMatchEulerDiscreteScheduler does not go with"):
        GroundedGenerator.from_pretrained(folder, module, generation=lacking)
    unguided = generation.model_copy(update={"guidance": 1.0})
    with pytest.raises(InputError, match="both halves of guidance"):
        GroundedGenerator.from_pretrained(folder, module, generation=unguided)


def test_it_says_in_a_line_what_it_is(generator: GroundedGenerator) -> None:
    name = tiny_png.backbone().folder.name
    expected = f"<GroundedGenerator in {name}: module own, 3 steps, 1 classes learned>"
    assert repr(generator) == expected


def test_a_module_of_a_model_with_sdxl_s_topology(tmp_path: Path) -> None:
    """IOSD: one step, no guidance."""
    model = tiny_grounded.turbo().model
    settings: GroundingModuleConfig = tiny_grounded.module("iosd")
    made = new_module(model, settings, seed=0)
    base = tiny_grounded.card()
    card = base.model_copy(
        update={
            "module": settings, "maps": made.maps, "fingerprint": model.fingerprint(),
            "text_width": model.context_dim, "latent_stride": model.latent_stride,
            "size": (64, 64), "timestep": 999.0,
            "generation": base.generation.model_copy(update={"steps": 1, "guidance": 0.0}),
        }
    )  # fmt: skip
    save_module(tmp_path, card, made)
    generator = GroundedGenerator.from_pretrained(model.folder, tmp_path)
    result = generator("a red circle and a sofa", CLASSES)
    assert result.masks.shape == (2, *result.image.shape[:2])
    photo = np.zeros((64, 64, 3), np.uint8)
    assert generator.segment(photo, ["sofa"], timestep=20).masks.shape == (1, 64, 64)
