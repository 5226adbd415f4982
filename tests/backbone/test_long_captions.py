"""Captions beyond the window through each family's text encoders, two of them in SDXL."""

import torch

from diffground.backbone.captions import encode_captions


def test_the_pooled_text_is_the_first_windows(model):
    first, second = "a red bear on a hill. " * 8, "a blue bear on a hill. " * 8
    caption = (first + second).strip()
    spans = [(2, 10), (len(caption) - 16, len(caption) - 1)]
    captions, phrases = ["a bear", caption, "a hill"], [[(2, 6)], spans, [(2, 6)]]
    for option in ("per_sentence", "sliding", "truncate"):
        embeddings, valid, pooled = encode_captions(model, captions, phrases, option)
        assert embeddings.shape == (3, 2, model.context_dim)
        assert valid.tolist() == [[True, False], [True, option != "truncate"], [True, False]]
        if model.family != "sdxl":
            assert pooled is None
            continue
        whole = model.encode_prompts(["a bear", caption, "a hill"], overflow="truncate")
        assert pooled.shape == whole.pooled.shape
        torch.testing.assert_close(pooled[[0, 2]], whole.pooled[[0, 2]], rtol=1e-4, atol=1e-5)
        if option == "truncate":
            torch.testing.assert_close(
                embeddings[1, :1],
                model.encode_phrases(whole, [[]] + [spans[:1]] + [[]])[0][1],
                rtol=1e-4,
                atol=1e-5,
            )
