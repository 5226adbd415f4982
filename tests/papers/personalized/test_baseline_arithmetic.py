"""The row Arithmetic: where the mean of pictures and class comes to stand, in both readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_model import random_model
from scene_of_squares import BLUE, MASKS, RED, Squares, pictures, query, scene
from transformers import CLIPConfig, CLIPModel

from diffground.backbone.contrastive import Contrastive, unit
from diffground.backbone.frozen import FrozenDiffusion
from diffground.errors import InputError
from diffground.io.images import read_image
from diffground.papers.personalized.baselines.arithmetic import (
    WORD,
    Arithmetic,
    class_row,
    to_context,
    to_tokens,
)
from diffground.papers.personalized.baselines.config import ArithmeticConfig
from diffground.shipped import shipped


@pytest.fixture(scope="module")
def model() -> FrozenDiffusion:
    found = random_model("tiny")
    found._fingerprint = "tiny"
    return found


@pytest.fixture(scope="module")
def mini() -> Contrastive:
    return Contrastive.from_pretrained(shipped("data/06_models/mini-clip"))


@pytest.fixture(scope="module")
def own(model: FrozenDiffusion, mini: Contrastive) -> Contrastive:
    """A CLIP whose text encoder is the model's, with the mini one's tokenizer and pictures."""
    encoder: Any = model.text_encoders[0]
    width = encoder.config.hidden_size
    torch.manual_seed(0)
    clip = CLIPModel(
        CLIPConfig(
            text_config={**encoder.config.to_dict(), "projection_dim": width},
            vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                           "intermediate_size": 32, "image_size": 128, "patch_size": 32},
            projection_dim=width,
        )
    )  # fmt: skip
    clip.text_model.load_state_dict(encoder.state_dict())
    made = Contrastive.__new__(Contrastive)
    made.model, made.folder = clip.eval().requires_grad_(False), Path("own-clip")
    made.tokenizer, made.processor = mini.tokenizer, mini.processor
    return made


def test_a_text_becomes_the_state_of_its_end(model: FrozenDiffusion, own: Contrastive) -> None:
    found = to_context(model, own)(own.texts(["mug"]))[0]
    encoding = model.encode_prompts(["mug"])
    end = int(encoding.mask[0].sum()) - 1
    torch.testing.assert_close(found, encoding.embeddings[0, end], atol=1e-3, rtol=1e-3)


def test_the_mean_stands_where_the_class_word_did(
    model: FrozenDiffusion, own: Contrastive, tmp_path: Path
) -> None:
    row = Arithmetic(model, own, Squares(), ArithmeticConfig(place="context"))
    paths = pictures(tmp_path, RED)
    vector = row._item(paths, "mug")
    text = own.texts(["mug"])
    seen = unit(unit(own.images([read_image(path) for path in paths])).mean(0, keepdim=True))
    wanted = to_context(model, own)((seen + unit(text)) / 2 * text.norm())[0]
    torch.testing.assert_close(vector, wanted)
    before = model.encode_prompts(["a mug filled with cola"])
    place = before.token_indices(0, (2, 5))
    assert len(place) == 1
    with row.says("mug", vector):
        inside = model.encode_prompts([f"a {WORD} filled with cola"])
        assert inside.token_indices(0, (2, 2 + len(WORD))) == place
    torch.testing.assert_close(inside.embeddings[0, place[0]], vector)
    rest = [index for index in range(inside.embeddings.shape[1]) if index not in place]
    torch.testing.assert_close(inside.embeddings[0, rest], before.embeddings[0, rest])
    assert torch.equal(
        model.encode_prompts(["a mug filled with cola"]).embeddings, before.embeddings
    )


def test_a_mean_among_the_tokens(model: FrozenDiffusion, mini: Contrastive, tmp_path: Path) -> None:
    trained = FrozenDiffusion.from_pretrained(shipped("data/06_models/mini-sd"))
    map_ = to_tokens(trained, mini, 0.01)
    table = trained.text_encoders[0].get_input_embeddings().weight
    ids = [i for i in range(len(table)) if i not in mini.tokenizer.all_special_ids]
    errors = (map_(mini.tokens(ids)) - table[ids]).square().sum()
    mean = (table[ids].mean(0) - table[ids]).square().sum()
    assert errors < mean, "it says more of the words than that they are words"
    row = Arithmetic(trained, mini, Squares(), ArithmeticConfig(place="tokens"))
    vector = row._item(pictures(tmp_path, RED), "mug")
    with row.says("mug", vector):
        mark = trained.tokenizers[0].convert_tokens_to_ids(WORD)
        worn = trained.text_encoders[0].get_input_embeddings().weight[mark]
        torch.testing.assert_close(worn, vector)


def test_each_query_is_asked_with_a_mean_of_its_own(
    model: FrozenDiffusion, own: Contrastive, tmp_path: Path
) -> None:
    squares = Squares()
    row = Arithmetic(model, own, squares, ArithmeticConfig(place="context"))
    asked = [query("red", pictures(tmp_path, RED)), query("blue", pictures(tmp_path, BLUE))]
    table = row.relevance(scene(), MASKS, asked, item="s", seed=0)
    assert table.tolist() == [[1, 1], [2, 2]], "one after the other, in their order"
    assert {q.context for q in squares.asked} == {f"a {WORD} filled with cola"}
    assert {q.word for q in squares.asked} == {WORD}
    assert row.segments(scene(), asked, item="s", seed=0) is MASKS


def test_models_that_do_not_go_together(model: FrozenDiffusion, mini: Contrastive) -> None:
    with pytest.raises(InputError, match="text_model: its text encoder is not that of tiny"):
        Arithmetic(model, mini, Squares(), ArithmeticConfig(place="context"))
    with pytest.raises(InputError, match="query: word: the tokenizer has no token"):
        class_row(model, "")
    other = random_model("tiny")
    table = other.text_encoders[0].get_input_embeddings()
    table.weight = torch.nn.Parameter(table.weight[:10], requires_grad=False)
    with pytest.raises(InputError, match=r"vocabulary: \d+ tokens, but tiny has 10"):
        to_tokens(other, mini, 0.01)
