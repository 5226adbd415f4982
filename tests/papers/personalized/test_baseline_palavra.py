"""Words in CLIP's vocabulary: the loss, what is learned, and that it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_model import random_model
from scene_of_squares import BLUE, RED, pictures, query

from diffground.backbone.contrastive import Contrastive, unit
from diffground.backbone.personal import worn
from diffground.errors import InputError
from diffground.io.images import read_image
from diffground.papers.personalized.baselines.config import PalavraConfig
from diffground.papers.personalized.baselines.palavra import (
    PalavraWords,
    contrastive_loss,
    learn_word,
)
from diffground.shipped import shipped

CONFIG = PalavraConfig(prompt="a photo of a {}")


@pytest.fixture(scope="module")
def clip() -> Contrastive:
    return Contrastive.from_pretrained(shipped("data/06_models/mini-clip"))


def test_the_loss_is_that_of_the_public_code() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 5).unbind(0)
    rows = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    pairs = torch.exp(rows @ rows.T / 0.25)
    total = 0.0
    for row in range(4):
        partner = pairs[row, (row + 2) % 4]
        total -= float(torch.log(partner / (pairs[row].sum() - pairs[row, row])))
    assert float(contrastive_loss(first, second, 0.25)) == pytest.approx(total / 4, rel=1e-5)


def test_a_word_comes_nearer_to_its_pictures(clip: Contrastive, tmp_path: Path) -> None:
    paths = pictures(tmp_path, RED)
    seen = unit(clip.images([read_image(path) for path in paths])).mean(0)
    vector = learn_word(clip, paths, "<new1>", "mug", CONFIG)

    def near(embedding: torch.Tensor) -> float:
        text = clip.texts(["a photo of a <new1> mug"], {"<new1>": embedding})[0]
        return float(unit(text) @ unit(seen))

    assert near(vector) > near(clip.word("mug")) + 0.05
    again = learn_word(clip, paths, "<new1>", "mug", CONFIG)
    assert torch.equal(vector, again), "nothing is drawn"


def test_a_word_is_learned_once_for_what_it_depends_on(clip: Contrastive, tmp_path: Path) -> None:
    red, blue = (query("mug01", pictures(tmp_path, colour)) for colour in (RED, BLUE))
    words = PalavraWords(clip, CONFIG, tmp_path / "words")
    first = words(red)
    (folder,) = (p for p in (tmp_path / "words").iterdir() if p.is_dir())
    written = (folder / "token.safetensors").stat().st_mtime_ns
    assert torch.equal(PalavraWords(clip, CONFIG, tmp_path / "words")(red), first)
    assert (folder / "token.safetensors").stat().st_mtime_ns == written
    assert not torch.equal(words(blue), first), "other pictures of the same item"
    other = PalavraWords(clip, CONFIG.model_copy(update={"temperature": 1.0}), tmp_path / "words")
    other(red)
    assert len([p for p in (tmp_path / "words").iterdir() if p.is_dir()]) == 3


def test_a_diffusion_model_wears_the_word(clip: Contrastive, tmp_path: Path) -> None:
    model = random_model("tiny")
    model._fingerprint = "tiny"
    table = model.text_encoders[0].get_input_embeddings().weight
    token = PalavraWords(clip, CONFIG, tmp_path / "words").token_for(
        query("mug01", pictures(tmp_path, RED)), table[: len(clip.table)], "tiny"
    )
    with worn(model, [token]):
        encoding = model.encode_prompts(["a <new1> mug"])
    assert torch.isfinite(encoding.embeddings).all()


def test_pictures_that_are_none(clip: Contrastive, tmp_path: Path) -> None:
    words = PalavraWords(clip, CONFIG, tmp_path / "words")
    with pytest.raises(InputError, match="mug01: references: .* give some"):
        words(query("mug01", ()))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        words(query("mug01", (broken,)))
    assert not list((tmp_path / "words").glob("mug01-*"))
