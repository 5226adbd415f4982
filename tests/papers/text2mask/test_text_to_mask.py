"""Three lines from an image to masks, on a tiny model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_png
from PIL import Image
from pydantic import ValidationError

from diffground.attention.aggregate import class_maps, initial_labels
from diffground.attention.config import AggregationConfig
from diffground.backbone.folder import ModelFolder
from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError
from diffground.io.images import write_png
from diffground.masks.crf import CrfConfig, dense_crf
from diffground.masks.phrase_masks import PhraseMasks
from diffground.masks.uncertainty import uncertain
from diffground.papers.text2mask.config import (
    RECIPE_FILE,
    QueryConfig,
    Text2MaskConfig,
    TextToMaskConfig,
)
from diffground.papers.text2mask.text_to_mask import TextToMask

ATTENTION = AggregationConfig(long_side=64)
CONFIG = TextToMaskConfig(attention=ATTENTION, crf=CrfConfig(iterations=2))
BARE = CONFIG.model_copy(update={"crf": None})


@pytest.fixture
def image() -> np.ndarray:
    pixels = np.full((40, 60, 3), (90, 160, 90), np.uint8)
    pixels[10:30, 5:25] = (200, 30, 30)
    pixels[:, 40:] = (30, 30, 200)
    return pixels


def test_three_lines_from_a_file_to_a_picture(tmp_path, image):
    path = write_png(tmp_path / "image.png", image)
    segmenter = TextToMask.from_pretrained(tiny_png.backbone().folder, config=CONFIG)
    result = segmenter(path, ["cat", "sofa"])
    result.overlay().save(tmp_path / "overlay.png")

    assert result.phrases == ("cat", "sofa") and isinstance(result, PhraseMasks)
    assert result.maps.shape == (2, 40, 60) and result.posterior.shape == (3, 40, 60)
    assert 0 <= result.maps.min() and result.maps.max() <= 1
    np.testing.assert_allclose(result.posterior.sum(0), 1, atol=1e-4)
    assert (result.labels == result.posterior.argmax(0)).all()
    assert (result.mask("sofa") == (result.labels == 2)).all()
    assert (result.background() == (result.labels == 0)).all()
    width, height = Image.open(tmp_path / "overlay.png").size
    assert width >= 60 and height > 40
    with pytest.raises(KeyError, match="dog"):
        result.mask("dog")


def test_a_model_folder_may_say_how_it_is_used(tmp_path):
    folder = Path(shutil.copytree(tiny_png.backbone().folder, tmp_path / "model"))
    assert TextToMask.from_pretrained(folder).config == TextToMaskConfig()
    before = ModelFolder.check(folder).fingerprint()
    (folder / RECIPE_FILE).write_text(CONFIG.model_dump_json())
    assert TextToMask.from_pretrained(folder).config == CONFIG
    assert TextToMask.from_pretrained(folder, config=BARE).config == BARE
    assert ModelFolder.check(folder).fingerprint() == before, "it changes no map that was asked for"
    (folder / RECIPE_FILE).write_text('{"attention": {"layer": 3}}')
    with pytest.raises(InputError, match=rf"{RECIPE_FILE}: settings\.attention\.layer: "):
        TextToMask.from_pretrained(folder)


def test_the_shipped_folder_says_what_the_pipelines_do(root, conf):
    said = Text2MaskConfig.model_validate(conf("mini")["parameters"]["text2mask"])
    shipped = TextToMaskConfig.of(root / "data/06_models/mini-sd")
    assert (shipped.query, shipped.attention, shipped.crf) == (
        said.query,
        said.attention,
        said.masks.crf,
    )


def test_files_pictures_and_arrays_are_the_same_image(tmp_path, image):
    segmenter = TextToMask(tiny_png.backbone(), BARE)
    path = write_png(tmp_path / "image.png", image)
    found = [segmenter(given, ["cat"]).labels for given in (image, Image.fromarray(image), path)]
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


def test_a_picture_is_what_its_file_is(tmp_path, image):
    """Turned by EXIF and transparent, to the pixel; and the picture itself is left as it was."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    alpha[:, :30] = 90
    Image.fromarray(np.concatenate([image, alpha], axis=2)).save(tmp_path / "a.png", exif=exif)
    segmenter = TextToMask(tiny_png.backbone(), BARE)
    of_file = segmenter(tmp_path / "a.png", ["cat"])
    with Image.open(tmp_path / "a.png") as picture:
        of_picture = segmenter(picture, ["cat"])
        assert picture.size == (60, 40) and picture.mode == "RGBA"
    assert of_file.image.shape == (60, 40, 3) and (of_file.image == of_picture.image).all()
    assert (of_file.maps == of_picture.maps).all()
    maps = segmenter.maps(tmp_path / "a.png", ["cat"], item="image", seed=42)
    assert maps.geometry.original == (60, 40)


@pytest.mark.parametrize("compat", ["official", "paper"])
def test_one_switch_for_attention_crf_and_uncertainty(image, compat):
    attention = ATTENTION.model_copy(update={"compat": compat})
    config = CONFIG.model_copy(update={"attention": attention})
    segmenter = TextToMask(tiny_png.backbone(), config)
    found = segmenter(Image.fromarray(image), ["cat"])  # its pixels are read-only
    posterior = dense_crf(image, found.attention, config.crf, compat)
    assert (found.posterior == posterior).all()
    other = "paper" if compat == "official" else "official"
    assert (dense_crf(image, found.attention, config.crf, other) != posterior).any()
    scores = posterior if compat == "official" else found.attention
    assert (found.uncertain() == uncertain(scores, compat)).all()
    assert (segmenter(image, ["cat "]).labels == found.labels).all(), "a blank is no other class"
    with pytest.raises(ValidationError, match="compat"):
        CrfConfig(compat=compat)


def test_without_a_crf_labels_are_the_initial_ones(image):
    segmenter = TextToMask(tiny_png.backbone(), BARE)
    result = segmenter(image, ["cat", "sofa"], item="x", seed=3)
    prompts = segmenter.prompts(["cat", "sofa"])
    maps = class_maps(segmenter.model, image, prompts, ATTENTION, item="x", seed=3)
    assert (result.labels == initial_labels(maps, ATTENTION)).all()


@pytest.mark.parametrize("compat", ["official", "paper"])
def test_without_a_crf_there_is_no_posterior(image, compat):
    """The scores are no probabilities, so only the paper's rule can be read from them."""
    attention = ATTENTION.model_copy(update={"compat": compat})
    bare = BARE.model_copy(update={"attention": attention})
    result = TextToMask(tiny_png.backbone(), bare)(image, ["cat", "sofa"])
    assert result.posterior is None
    assert (result.uncertain() == uncertain(result.attention, "paper")).all()
    assert (result.uncertain() != uncertain(result.attention, "official")).any()
    same = result.labels == result.attention.argmax(0)
    assert same.all() if compat == "paper" else 0.5 < same.mean() < 1, "decided on the grid"


def test_words_of_which_there_is_nothing_are_said_to_be_doubtful(image, caplog, monkeypatch):
    segmenter = TextToMask(tiny_png.backbone(), BARE)
    known = segmenter(image, ["cat", "sofa"])
    presence = known.scores
    assert known.score == "presence" and len(presence) == 2 and min(presence) > 0
    between = sum(presence) / 2
    low = known.phrases[presence.index(min(presence))]
    caplog.clear()
    legends = []
    monkeypatch.setattr(
        "diffground.masks.phrase_masks.overlay",
        lambda image, masks, legend: legends.append(legend) or image,
    )
    strict = BARE.model_copy(update={"doubt_below": between})
    found = TextToMask(tiny_png.backbone(), strict)(image, ["cat", "sofa"])
    assert found.doubtful == (low,) and (found.labels == known.labels).all()
    (said,) = caplog.messages
    assert f"probably not in the image: {low} ({min(presence):.1f})" in said
    found.overlay()
    assert sorted("doubtful" in text for text in legends[0]) == [False, True]
    assert all(f"(presence {p:.1f}" in t for t, p in zip(legends[0], found.scores, strict=True))
    none = BARE.model_copy(update={"doubt_below": 0.0})
    assert TextToMask(tiny_png.backbone(), none)(image, ["cat", "sofa"]).doubtful == ()


def test_a_vocabulary_brings_its_dataset_s_thresholds():
    model = tiny_png.backbone()
    coco, voc = Vocabulary.load("coco"), Vocabulary.load("voc")
    assert TextToMask(model, None, coco).config.attention.thresholds == (0.5, 0.35)
    assert TextToMask(model, None, voc).config == TextToMask(model).config == TextToMaskConfig()
    own = TextToMaskConfig(attention=AggregationConfig(background_threshold=0.4))
    assert TextToMask(model, own, coco).config.attention.thresholds == (0.5, 0.4)
    paper = TextToMaskConfig(attention=AggregationConfig(compat="paper"))
    assert TextToMask(model, paper, coco).config.attention.thresholds == (0.2, 0.5)


def test_noise_depends_on_seed_and_item_only(image):
    segmenter = TextToMask(tiny_png.backbone(), BARE)

    def maps(**options: object) -> np.ndarray:
        return segmenter(image, ["cat"], **options).maps

    assert (maps(item="a", seed=1) == maps(item="a", seed=1)).all()
    assert (maps(item="a", seed=1) != maps(item="a", seed=2)).any()
    assert (maps(item="a", seed=1) != maps(item="b", seed=1)).any()


def test_a_query_says_how_sentences_begin_and_what_they_name():
    words = Vocabulary.load("voc")
    query = QueryConfig(lead="there is", background=False, synonyms=False)
    config = TextToMaskConfig(query=query, attention=ATTENTION)
    segmenter = TextToMask(tiny_png.backbone(), config, words)
    assert [p.text for p in segmenter.prompts(["cat", "dog"])] == ["there is cat, and dog."]
    separate = TextToMaskConfig(query=query.model_copy(update={"style": "separate"}))
    prompts = TextToMask(tiny_png.backbone(), separate, words).prompts(["cat", "dog"])
    assert [prompt.text for prompt in prompts] == ["there is cat.", "there is dog."]
    unlike = TextToMask(tiny_png.backbone(), config).prompts(["a red mug"])
    assert unlike[0].classes == ("a red mug",)


def test_what_cannot_be_asked_for(tmp_path, image):
    free = TextToMask(tiny_png.backbone(), BARE)
    with pytest.raises(InputError, match="'background' is what results call .* rename it"):
        free(image, ["cat", "background"])
    for classes in ([], [" "], ["cat", "cat"]):
        with pytest.raises(InputError):
            free(image, classes)
    attention = ATTENTION.model_copy(update={"compat": "paper"})
    paper = TextToMask(free.model, BARE.model_copy(update={"attention": attention}))
    with pytest.raises(InputError, match="too long"):
        paper(image, ["x" * 80])
    known = TextToMask(tiny_png.backbone(), BARE, Vocabulary.load("voc"))
    with pytest.raises(InputError, match="did you mean"):
        known(image, ["catt"])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut short")
    with pytest.raises(InputError, match="broken.jpg"):
        free(broken, ["cat"])
    with pytest.raises(InputError, match="uint8"):
        free(image.astype(np.float32), ["cat"])
