"""Class names as text queries."""

from __future__ import annotations

import pytest
import torch
from random_model import TINY_XL, random_model
from transformers import CLIPTokenizer

from diffground.backbone import random_weights
from diffground.backbone.frozen import FrozenDiffusion
from diffground.errors import InputError
from diffground.papers.grounded.module_config import QueryConfig
from diffground.papers.grounded.queries import embed_queries


@pytest.fixture(scope="module")
def model() -> FrozenDiffusion:
    return random_model("tiny")


def config(**changes) -> QueryConfig:
    plain = {"template": "x and y", "tokens": "mean", "subtract": False, "compat": "paper"}
    return QueryConfig.model_validate(plain | changes)


def by_hand(model, prompt: str, name: str, tokens: slice = slice(None)):
    """The mean of the tokens of a prompt's last ``name``, found by their place, without offsets."""
    (tokenizer,) = model.tokenizers
    before = prompt[: prompt.rindex(name)]
    start = 1 + len(tokenizer(before, add_special_tokens=False).input_ids)
    number = len(tokenizer(name, add_special_tokens=False).input_ids)
    embeddings = model.encode_prompts([prompt]).embeddings[0]
    return embeddings[start : start + number][tokens].mean(dim=0)


@pytest.mark.parametrize(
    ("template", "compat", "prompts"),
    [
        ("x and y", "paper", ["cat and ball"] * 2),
        ("x and y", "official", ["cat and a ball"] * 2),
        ("a photograph of x and y", "paper", ["a photograph of cat and ball"] * 2),
        ("a photograph of x and y", "official", ["a photograph of a cat and a ball"] * 2),
        ("a photograph of x", "paper", ["a photograph of cat", "a photograph of ball"]),
        ("a photograph of x", "official", ["a photograph of a cat", "a photograph of a ball"]),
        ("x", "paper", ["cat", "ball"]),
    ],
)
def test_prompts_are_those_of_table_3(model, template, compat, prompts):
    queries, valid = embed_queries(
        model, [["cat", "ball"]], config(template=template, compat=compat)
    )
    pairs = zip(prompts, ("cat", "ball"), strict=True)
    expected = [by_hand(model, prompt, name) for prompt, name in pairs]
    assert bool(valid.all())
    torch.testing.assert_close(queries[0], torch.stack(expected))


def test_a_name_of_several_sub_words_is_their_mean(model):
    (tokenizer,) = model.tokenizers
    name = "pottedplant"
    assert len(tokenizer.tokenize(name)) > 1
    for tokens, part in (("mean", slice(None)), ("first", slice(1))):
        queries, _ = embed_queries(model, [["cat", name]], config(tokens=tokens))
        torch.testing.assert_close(queries[0, 1], by_hand(model, f"cat and {name}", name, part))


def test_neither_case_nor_a_name_within_another_misleads(model):
    queries, _ = embed_queries(model, [["Cart", "car", "hot dog", "dog"]], config())
    prompt = "Cart and car and hot dog and dog"
    for place, name in ((1, " car"), (3, " dog")):
        start = prompt.rindex(name) if place == 3 else prompt.index(name)
        cut = prompt[: start + len(name)]
        encoding = model.encode_prompts([prompt])
        end = 1 + len(model.tokenizers[0](cut, add_special_tokens=False).input_ids)
        number = len(model.tokenizers[0](name, add_special_tokens=False).input_ids)
        expected = encoding.embeddings[0, end - number : end].mean(dim=0)
        torch.testing.assert_close(queries[0, place], expected)


def test_images_with_different_numbers_of_names_are_padded(model):
    names = [["cat"], [], ["ball", "cat", "boat"]]
    queries, valid = embed_queries(model, names, config())
    assert valid.tolist() == [[True, False, False], [False] * 3, [True] * 3]
    assert not bool(queries[~valid].any())
    for item in (0, 2):
        alone, _ = embed_queries(model, [names[item]], config())
        torch.testing.assert_close(queries[item, : len(names[item])], alone[0])


def test_other_classes_are_subtracted(model):
    names = [["cat", "ball", "boat"]]
    a, b, c = embed_queries(model, names, config(template="x"))[0][0]
    subtracted = config(template="x", subtract=True)
    queries, _ = embed_queries(model, names, subtracted)
    torch.testing.assert_close(queries[0], torch.stack([a - b - c, b - a - c, c - a - b]))
    # One after the other: what was taken off the first is missing in the second.
    queries, _ = embed_queries(model, names, subtracted.model_copy(update={"compat": "official"}))
    plain = embed_queries(model, names, config(template="x", compat="official"))[0][0]
    torch.testing.assert_close(plain, torch.stack([a, b, c]))
    first = a - b - c
    second = b - first - c
    torch.testing.assert_close(queries[0], torch.stack([first, second, c - first - second]))


def test_sdxl_queries_have_the_channels_of_both_encoders(tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(random_weights.TOKENIZER, local_files_only=True)
    assert len(tokenizer)
    random_weights.write_random(
        tmp_path / "xl", "tiny-xl", architecture=TINY_XL, dtype=torch.float32
    )
    model = FrozenDiffusion.from_pretrained(tmp_path / "xl")
    queries, valid = embed_queries(model, [["cat", "ball"]], config(template="x"))
    assert queries.shape == (1, 2, TINY_XL.unet["cross_attention_dim"])
    encoding = model.encode_prompts(["cat", "ball"])
    expected, _ = model.encode_phrases(encoding, [[(0, 3)], [(0, 4)]])
    torch.testing.assert_close(queries[0], expected[:, 0])


def test_queries_that_cannot_be_are_refused(model):
    cases = {
        "no image has one": [[], []],
        "one is empty": [["cat", " "]],
        "a list of names for each image": "cat",
        "tokens, but the text encoder reads": [["cat"] * 60],
    }
    for reason, names in cases.items():
        with pytest.raises(InputError, match=reason):
            embed_queries(model, names, config())
    with pytest.raises(InputError, match="a list of names for each image"):
        embed_queries(model, ["cat"], config())
