"""A trained model as a segmenter: an image and a narrative, or phrases, to masks."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import tiny_png
import torch
from PIL import Image

from diffground.errors import InputError
from diffground.io.files import write_json
from diffground.io.images import read_image, write_png
from diffground.masks.phrase_masks import PhraseMasks
from diffground.papers.png.grounder import NarrativeGrounder
from diffground.papers.png.model import PngModel
from diffground.papers.png.narratives import to_input
from diffground.papers.png.trained import TRAINING

PLAIN, SPANS = "a red ball on the grass below a blue sky.", [(2, 10), (18, 23), (37, 40)]
SIZE = (40, 90)  # of the test image, pixels


def zero_shot(**model) -> PngModel:
    settings = {"insertion": "none", "decode": False, "threshold": 0.4, **model}
    return tiny_png.model(**settings).eval()


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    pixels[:20] = (150, 200, 250)
    return write_png(tmp_path / "ball.png", pixels)


def test_masks_are_the_resized_probabilities_cut_at_the_threshold(image):
    model = zero_shot()
    pixels = read_image(image)
    grounder = NarrativeGrounder(model, tiny_png.DATA)
    result = grounder(pixels, PLAIN, spans=SPANS, item="ball")
    assert result.masks.shape == (3, *SIZE) and result.masks.dtype == bool
    with Image.open(image) as picture:
        of_picture = grounder(picture, PLAIN, spans=SPANS, item="ball")
    assert np.array_equal(of_picture.masks, result.masks)
    # by hand, through a benchmark's batch with its caption, phrases and pixels changed
    batch = tiny_png.batch(0)
    batch = replace(
        batch,
        captions=(PLAIN,),
        spans=(tuple(SPANS),),
        images=to_input(pixels, tiny_png.SIDE)[None],
        targets=torch.zeros(1, 3, 16, 16),
        categories=torch.zeros(1, 3, dtype=torch.int64),
    )
    prob = torch.nn.functional.interpolate(model.predict(batch), size=SIZE, mode="bilinear")[0]
    far = (prob - 0.4).abs() > 1e-4  # rounding decides nearer
    assert far.float().mean() > 0.99
    assert ((prob > 0.4).numpy() == result.masks)[far.numpy()].all()
    for one, mask, score in zip(prob, result.masks, result.scores, strict=True):
        assert score is None or score == pytest.approx(float(one[mask].mean()), abs=1e-4)


def test_brackets_found_nouns_and_lists_are_phrases(image):
    grounder = NarrativeGrounder(zero_shot(), tiny_png.DATA)
    given = grounder(image, PLAIN, spans=SPANS)
    marked = grounder(image, "a [red ball] on the [grass] below a blue [sky].")
    assert marked.phrases == given.phrases == ("red ball", "grass", "sky")
    assert marked.narrative == PLAIN and (marked.masks == given.masks).all()
    assert grounder(image, "the red ball lies on grass").phrases == ("red ball", "grass")
    listed = grounder(image, ["red ball ", "grass"])
    assert listed.phrases == ("red ball", "grass") and listed.narrative == "red ball, grass."
    for nothing in ([], [" "], "It is there.", "a [ball"):
        with pytest.raises(InputError):
            grounder(image, nothing)


def test_phrases_beyond_the_window_are_lost_and_said(image, caplog):
    grounder = NarrativeGrounder(zero_shot(long_captions="truncate"), tiny_png.DATA)
    with caplog.at_level(logging.WARNING):
        result = grounder(image, "a [ball] " + "w " * 80 + "and a [sky]", item="far")
    assert result.lost == (1,) and result.scores[1] is None and not result.mask("sky").any()
    assert "far: beyond the text encoder's window: no mask for sky" in caplog.messages


def test_from_a_frozen_model_and_what_was_trained_in_it(tmp_path, image):
    folder, frozen = tmp_path / "mine", tiny_png.backbone().folder
    model = zero_shot(inner_product="learned", inner_width=8)
    model.save(folder)
    with pytest.raises(InputError, match=r"training.json: data: the sizes .* remove it and train"):
        NarrativeGrounder.from_pretrained(frozen, folder)
    write_json(folder / TRAINING, {"data": tiny_png.DATA.model_dump(mode="json")})
    grounder = NarrativeGrounder.from_pretrained(frozen, folder)
    assert grounder.data == tiny_png.DATA and len(repr(grounder)) < 120
    expected = NarrativeGrounder(model, tiny_png.DATA)(image, ["ball"])
    found = grounder(image, ["ball"])
    assert isinstance(found, PhraseMasks) and (found.masks == expected.masks).all()
    by_file = NarrativeGrounder.from_pretrained(frozen, folder / "png.safetensors")
    assert by_file(image, ["ball"]).scores == expected.scores
    with pytest.raises(InputError, match="no trained PNG model lies here"):
        NarrativeGrounder.from_pretrained(frozen, tmp_path)
