"""A byte-pair tokenizer of CLIP's kind, trained on the captions of the mini world."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

MAX_LENGTH = 77  # tokens, as in Stable Diffusion
END = "</w>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> CLIPTokenizer:
    """Trains merges on ``texts`` and lays out the vocabulary as CLIP does.

    First the 256 bytes, then the 256 bytes that end a word, the merges, and the two special tokens;
    so every text has tokens, also in words that were never seen.
    """
    template = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(BPE(continuing_subword_prefix="", end_of_word_suffix=END))
    learner.normalizer, learner.pre_tokenizer = template.normalizer, template.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    learner.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=alphabet,
            end_of_word_suffix=END,
            show_progress=False,
        ),
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(letter + END for letter in alphabet), *("".join(m) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        model_max_length=MAX_LENGTH,
    )
