"""How much a phrase is there at all, against its definition."""

from __future__ import annotations

import tiny_png
import torch

from diffground.attention.presence import neutral_tokens, presence


def test_presence_is_the_strongest_twentieth_over_the_neutral_words() -> None:
    cross = torch.full((3, 10, 20), 0.02)  # 200 pixels: ten are strongest
    cross[1, 0, :10] = 0.5
    cross[2, 0, :5] = 0.5
    neutral = torch.zeros(10, 20)
    neutral[0] = 0.4  # mean 0.04
    found = presence(cross, neutral)
    torch.testing.assert_close(found, torch.tensor([0.5, 12.5, 6.5]))
    # Neither the number of tokens that share the softmax nor other phrases matter.
    torch.testing.assert_close(presence(cross[1:] / 7, neutral / 7), found[1:])
    one = presence(torch.tensor([[[0.3]]]), torch.tensor([[0.1]]))
    torch.testing.assert_close(one, torch.tensor([3.0]))
    assert presence(cross, torch.zeros(0, 10, 20)).isnan().all()


def test_neutral_are_the_words_that_name_nothing() -> None:
    text = "a photo of cat, and tree."
    encoding = tiny_png.backbone().encode_prompts([text])
    tokens = neutral_tokens(encoding.offsets[0], [(11, 14), (20, 24)])
    words = "".join(text[a:b] for a, b in (encoding.offsets[0][token] for token in tokens))
    assert words.replace(" ", "") == "aphotoof,and."
    assert neutral_tokens(encoding.offsets[0], [(0, 99)]) == []
