"""CLIP with words of one's own, and words that go from one vocabulary to another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from diffground.backbone.contrastive import Contrastive, carried, fitted
from diffground.errors import InputError
from diffground.shipped import shipped


@pytest.fixture(scope="module")
def clip() -> Contrastive:
    return Contrastive.from_pretrained(shipped("data/06_models/mini-clip"))


def test_sentences_are_as_clip_says_them(clip: Contrastive) -> None:
    texts = ["a photo of a red mug", "a cat"]
    ids = clip.tokenizer(texts, padding="max_length", return_tensors="pt")
    wanted = clip.model.get_text_features(**ids).pooler_output
    torch.testing.assert_close(clip.texts(texts), wanted)


def test_an_own_word_stands_where_it_is_written(clip: Contrastive) -> None:
    (token,) = clip.tokenizer("red", add_special_tokens=False).input_ids
    red = clip.table[token]
    assert torch.equal(clip.word("red"), red)
    own = clip.texts(["a <new1> mug", "a mug", "<new1> <new2>"], {"<new1>": red, "<new2>": red})
    plain = clip.texts(["a red mug", "a mug", "red red"])
    torch.testing.assert_close(own, plain)
    torch.testing.assert_close(clip.texts(["a <new1> mug"]), clip.texts(["a <new1> mug"]))
    assert not torch.allclose(own[0], own[1])


def test_gradients_flow_to_own_words_alone(clip: Contrastive) -> None:
    vector = clip.word("mug").clone().requires_grad_()
    clip.texts(["a <new1> mug"], {"<new1>": vector}).sum().backward()
    assert vector.grad is not None and vector.grad.abs().sum() > 0
    assert all(p.grad is None for p in clip.model.parameters())


def test_what_clip_cannot_read(clip: Contrastive, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prompt: length: 10[0-9] tokens, .* reads 77"):
        clip.texts(["mug " * 100])
    with pytest.raises(InputError, match=r"embedding: <new1> has shape \(3,\), .* reads \(96,\)"):
        clip.texts(["a <new1>"], {"<new1>": torch.zeros(3)})
    with pytest.raises(InputError, match="word: the tokenizer has no token"):
        clip.word("")
    with pytest.raises(InputError, match=r"config\.json: CLIP's folder lacks it"):
        Contrastive.from_pretrained(tmp_path)
    damaged = tmp_path / "clip"
    shutil.copytree(clip.folder, damaged)
    with (damaged / "model.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(InputError, match="damaged"):
        Contrastive.from_pretrained(damaged)


def test_a_word_goes_to_another_table_as_the_tables_do() -> None:
    torch.manual_seed(0)
    source, turn, shift = torch.randn(50, 6), torch.randn(6, 4), torch.randn(4)
    word = torch.randn(6)
    torch.testing.assert_close(
        carried(word, source, source @ turn + shift), word @ turn + shift, atol=1e-4, rtol=1e-4
    )
    assert torch.equal(carried(word, source, source.clone()), word)
    with pytest.raises(InputError, match="vocabulary: 50 tokens in one, 49 in the other"):
        carried(word, source, source[1:])


def test_a_ridge_draws_a_map_towards_the_mean() -> None:
    torch.manual_seed(0)
    source = torch.randn(40, 3)
    target = source @ torch.randn(3, 2) + 5
    exact, drawn = fitted(source, target), fitted(source, target, ridge=1e6)
    torch.testing.assert_close(exact(source), target, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(drawn(source), target.mean(0).expand(40, 2), atol=1e-2, rtol=1e-2)
