"""Class names to text queries: the mean of a class's tokens in a prompt (003, section 3.5).

The prompts are those of 003's Table 3: "x and y" and "a photograph of x and y" hold all classes of
an image in one sentence, so that each query knows the others; the other two ask for each class by
itself. Tokens are found by the tokenizer's offsets, so that neither case nor a name within another
("cup" in "cupcake") misleads, as they do where the public code compares texts.

``compat: official`` is what the public codes do and the text does not say:

- the prompts have articles: "x and a y", "a photograph of a x" (Grounded Diffusion and 003);
- with ``subtract``, which takes the other classes' embeddings off each (003, section 5), the
  classes are changed one after the other, so that the second loses what is left of the first.

``tokens: first`` is IOSD's public code: "traffic" stands for "traffic light". For it the template
is "x". SDXL's queries have the 2048 channels of both its text encoders.

``B`` images · ``N`` queries · ``C`` channels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.text import PromptEncoding
from diffground.config import Compat
from diffground.errors import InputError, shortened
from diffground.papers.grounded.module_config import QueryConfig, Template
from diffground.phrases.alignment import Span

# Raised when the same names give other queries.
CODE_VERSION: Final = 1


def embed_queries(
    model: FrozenDiffusion, names: Sequence[Sequence[str]], config: QueryConfig
) -> tuple[Tensor, Tensor]:
    """Text embeddings (B, N, C), and which of them are real (B, N); N is the most of an image.

    Args:
        names: the class names asked of each image, those that it lacks too.

    Raises:
        InputError: no image has a name, a name is empty or has no token, or the prompt is longer
            than the text encoder reads.
    """
    if isinstance(names, str) or any(isinstance(each, str) for each in names):
        reason = f"a list of names for each image is needed, not {shortened(names)}"
        raise InputError("query", "names", reason)
    if not any(names):
        raise InputError("query", "names", "no image has one: name at least one class")
    prompts = [_prompts(each, config.template, config.compat) for each in names]
    # The same sentence is read once, whichever images it is for.
    asked = {text: spans for several in prompts for text, spans in several}
    encoding = model.encode_prompts(list(asked))
    spans = list(asked.values())
    if config.tokens == "first":
        spans = [
            [_first_token(encoding, item, span) for span in several]
            for item, several in enumerate(spans)
        ]
    means, _ = model.encode_phrases(encoding, spans)
    row = {text: item for item, text in enumerate(asked)}
    rows = [
        torch.cat([means[row[text], : len(spans)] for text, spans in several])
        for several in prompts
        if several
    ]
    if config.subtract:
        rows = [_subtracted(each, config.compat) for each in rows]
    widest = max(map(len, names))
    queries = means.new_zeros(len(names), widest, means.shape[-1])
    valid = torch.zeros(len(names), widest, dtype=torch.bool, device=means.device)
    for item, each in zip([i for i, several in enumerate(prompts) if several], rows, strict=True):
        queries[item, : len(each)], valid[item, : len(each)] = each, True
    return queries, valid


def _prompts(
    names: Sequence[str], template: Template, compat: Compat
) -> list[tuple[str, list[Span]]]:
    """The prompts that ask for an image's names, in order, and the names' spans in each."""
    article = "a " if compat == "official" else ""
    lead = f"a photograph of {article}" if template.startswith("a photograph") else ""
    together = template.endswith("y")
    groups = [list(names)] if together and names else [[name] for name in names]
    found = []
    for group in groups:
        text, spans = lead, []
        for place, name in enumerate(group):
            if not name.strip():
                raise InputError("query", "names", "one is empty: leave it out")
            text += f" and {article}" if place else ""
            spans.append((len(text), len(text) + len(name)))
            text += name
        found.append((text, spans))
    return found


def _first_token(encoding: PromptEncoding, item: int, span: Span) -> Span:
    """The characters of a span's first token."""
    return encoding.offsets[item][encoding.token_indices(item, span)[0]]


def _subtracted(queries: Tensor, compat: Compat) -> Tensor:
    """Each of the queries (N, C) less all others."""
    if compat == "paper":
        return 2 * queries - queries.sum(dim=0)
    changed = queries.clone()
    for place in range(len(changed)):
        changed[place] = 2 * changed[place] - changed.sum(dim=0)
    return changed
