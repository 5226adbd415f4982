"""Three lines from an image to masks, on a tiny model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_png
import yaml
from PIL import Image

from diffground.attention.aggregate import AggregationConfig, class_maps, initial_labels
from diffground.attention.vocabulary import Vocabulary
from diffground.backbone.folder import ModelFolder
from diffground.errors import InputError
from diffground.io import write_png
from diffground.masks.crf import CrfConfig
from diffground.text2mask.api import RECIPE_FILE, QueryConfig, TextToMask, TextToMaskConfig

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

    assert result.names == ("background", "cat", "sofa")
    assert result.maps.shape == (2, 40, 60) and result.probabilities.shape == (3, 40, 60)
    assert 0 <= result.maps.min() and result.maps.max() <= 1
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-4)
    assert (result.labels == result.probabilities.argmax(0)).all()
    assert (result.mask("sofa") == (result.labels == 2)).all()
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
    with pytest.raises(InputError, match=rf"(?s){RECIPE_FILE}: settings: .*layer"):
        TextToMask.from_pretrained(folder)


def test_the_shipped_folder_says_what_the_pipelines_do(root):
    parameters = yaml.safe_load((root / "conf/base/parameters_text2mask.yml").read_text())
    content = parameters["text2mask"]
    shipped = TextToMaskConfig.of(root / "data/06_models/mini-sd")
    assert shipped.query == QueryConfig.model_validate(content["query"])
    assert shipped.attention == AggregationConfig.model_validate(content["attention"])
    assert shipped.crf == CrfConfig.model_validate(content["masks"]["crf"])


def test_files_pictures_and_arrays_are_the_same_image(tmp_path, image):
    segmenter = TextToMask(tiny_png.backbone(), BARE)
    path = write_png(tmp_path / "image.png", image)
    found = [segmenter(given, ["cat"]).labels for given in (image, Image.fromarray(image), path)]
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


def test_a_picture_is_refined_by_either_crf(image):
    crf = CrfConfig(compat="paper", iterations=2)
    segmenter = TextToMask(tiny_png.backbone(), CONFIG.model_copy(update={"crf": crf}))
    found = segmenter(Image.fromarray(image), ["cat"])  # its pixels are read-only
    assert (found.uncertain() == (found.probabilities.max(0) < 0.95)).all()
    assert (segmenter(image, ["cat "]).labels == found.labels).all(), "a blank is no other class"


def test_without_a_crf_labels_are_the_initial_ones(image):
    segmenter = TextToMask(tiny_png.backbone(), BARE)
    result = segmenter(image, ["cat", "sofa"], item="x", seed=3)
    prompts = segmenter.prompts(["cat", "sofa"])
    maps = class_maps(segmenter.model, image, prompts, ATTENTION, item="x", seed=3)
    assert (result.labels == initial_labels(maps, ATTENTION)).all()


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
    for classes in ([], [" "], ["cat", "cat"], ["x" * 80]):
        with pytest.raises(InputError):
            free(image, classes)
    known = TextToMask(tiny_png.backbone(), BARE, Vocabulary.load("voc"))
    with pytest.raises(InputError, match="did you mean"):
        known(image, ["catt"])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut short")
    with pytest.raises(InputError, match="broken.jpg"):
        free(broken, ["cat"])
    with pytest.raises(InputError, match="uint8"):
        free(image.astype(np.float32), ["cat"])
