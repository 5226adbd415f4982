"""Personal tokens: words that a frozen model has learned for somebody's own things.

token = PersonalToken.load("my-mug")
with worn(model, [token]):
    encoding = model.encode_prompts([f"a {token.token} {token.word} filled with cola"])
    result = model.probe(noisy, 150, encoding.embeddings, request)

They are learned by :mod:`diffground.papers.personalized.token_learning`, or come from public files
(:mod:`.personal_formats`). ``C_i`` channels of text encoder ``i``.

Several tokens at once: their embeddings go side by side. What is added to the UNet is added once,
and is one and the same for all tokens that have any: that of tokens which were learned together.
Tokens that changed the UNet each for itself are refused together. Neither weights nor sums of them
were learned for such a prompt; wear one after the other, or learn them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from pydantic import Field
from tokenizers import AddedToken
from torch import Tensor, nn

from diffground.backbone.frozen import FrozenDiffusion
from diffground.config import Config
from diffground.errors import InputError
from diffground.io.files import check_seal, load_config, sha256, write_json
from diffground.training.checkpoint import load_weights, save_weights

WEIGHTS, CARD = "token.safetensors", "config.json"
REMEDY = "copy the folder again, or learn the token anew"
_DELTA, _EMBEDDING = "delta.", "embedding."
_OLD_EOS = 2  # see `_end_of_text`


@dataclass(frozen=True)
class PersonalToken:
    """A token that stands for one thing, and what a model has learned about it.

    Attributes:
        token: how prompts write it, ``<new1>``.
        word: its class, ``mug``. Prompts say both: ``a <new1> mug``.
        embeddings: one ``(C_i,)`` per text encoder of the model, one or (SDXL) two.
        deltas: a UNet parameter's name -> what is added to it. Empty for textual inversion.
        model: :meth:`FrozenDiffusion.fingerprint` of the model that learned it.
    """

    token: str
    word: str
    embeddings: tuple[Tensor, ...]
    deltas: Mapping[str, Tensor] = field(default_factory=dict)
    model: str = ""

    def save(self, folder: str | Path) -> None:
        """Writes ``token.safetensors`` and then ``config.json``, both whole and sealed.

        Tensors keep their precision. The second file has the hash of the first: of a folder that
        was killed while it was written over :meth:`load` says so.
        """
        folder = Path(folder)
        tensors = {f"{_EMBEDDING}{i}": tensor for i, tensor in enumerate(self.embeddings)}
        tensors |= {f"{_DELTA}{name}": tensor for name, tensor in self.deltas.items()}
        tensors = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
        path = save_weights(tensors, folder / WEIGHTS)
        card = _Card(
            token=self.token,
            word=self.word,
            model=self.model,
            encoders=len(self.embeddings),
            weights=sha256(path),
        )
        write_json(folder / CARD, card.model_dump(), sealed=True)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """What :meth:`save` wrote, on the CPU.

        Raises:
            InputError: there is none, or it was damaged; names the file.
        """
        path = Path(folder) / CARD
        if not path.is_file():
            raise InputError(
                path, "file", "there is no personal token here; name the folder of a learned one"
            )
        check_seal(path, REMEDY)
        card = load_config(_Card, path, "personal token")
        weights = path.with_name(WEIGHTS)
        tensors = load_weights(weights, REMEDY)
        if sha256(weights) != card.weights:
            reason = f"{CARD} belongs to other weights: writing was cut short; {REMEDY}"
            raise InputError(weights, "sha256", reason)
        rows = {f"{_EMBEDDING}{index}" for index in range(card.encoders)}
        if lost := sorted(rows - tensors.keys()):
            raise InputError(weights, lost[0], f"it is missing; {REMEDY}")
        return cls(
            card.token,
            card.word,
            tuple(tensors[name] for name in sorted(rows)),
            {k.removeprefix(_DELTA): v for k, v in tensors.items() if k.startswith(_DELTA)},
            card.model,
        )


class _Card(Config):
    """``config.json``."""

    format: Literal[1] = 1
    token: str
    word: str
    model: str
    encoders: int = Field(ge=1, le=2)
    weights: str  # SHA-256 of token.safetensors


@contextmanager
def worn(
    model: FrozenDiffusion, tokens: Sequence[PersonalToken], *, other_models: bool = False
) -> Iterator[None]:
    """Within the block the model knows the tokens; afterwards it is as before, bit for bit.

    Its tokenizers read each as one token, its text encoders have their embeddings, and the UNet's
    weights the deltas. What was there is put aside and put back, never computed back. Move the
    model to no other device in the block.

    Args:
        other_models: takes tokens of a model with another fingerprint, as long as they fit. Right
            for copies of the same weights (another file format, another VAE); otherwise a token
            means nothing there.

    Raises:
        InputError: a name occurs twice, or the model knows it already; a token was learned by
            another model, its embeddings have another width, or its deltas are of another
            architecture; several tokens have deltas that differ.
    """
    for token in tokens:
        check_fit(model, token, other_models=other_models)
    deltas = _common_deltas(tokens)
    with introduced(model, [token.token for token in tokens]) as ids:
        changes = []
        for index, encoder in enumerate(model.text_encoders):
            rows = [token.embeddings[index] for token in tokens]
            table = input_table(encoder)
            changes.append((table, "weight", _with_rows(table.weight, ids[index], rows)))
        for name, delta in deltas.items():
            path, _, leaf = name.rpartition(".")
            weight = model.unet.get_parameter(name)
            # Added in the finer of the two precisions.
            new = (weight + delta.to(weight.device)).to(weight.dtype)
            changes.append((model.unet.get_submodule(path), leaf, new))
        with _swapped(changes):
            yield


@contextmanager
def introduced(model: FrozenDiffusion, names: Sequence[str]) -> Iterator[list[list[int]]]:
    """Within the block the tokenizers read each name as one token, without an embedding yet.

    Yields:
        The names' ids, ``[tokenizer][name]``.

    Raises:
        InputError: a name occurs twice, the tokenizer knows it, or it cannot be one token.
    """
    before = list(model.tokenizers)
    twice = [name for i, name in enumerate(names) if name.lower() in map(str.lower, names[:i])]
    if twice:
        reason = f"{twice[0]!r} is there twice; give every thing a token of its own"
        raise InputError("tokens", "token", reason)
    learned = [deepcopy(tokenizer) for tokenizer in before]
    ids = [[_add(tokenizer, name) for name in names] for tokenizer in learned]
    # In place: others hold the list.
    model.tokenizers[:] = learned
    try:
        with _end_of_text(model):
            yield ids
    finally:
        model.tokenizers[:] = before


def check_fit(model: FrozenDiffusion, token: PersonalToken, *, other_models: bool = False) -> None:
    """Passes a token that ``model`` can wear; see :func:`worn` for the errors."""
    widths = [input_table(encoder).embedding_dim for encoder in model.text_encoders]
    found = [tuple(each.shape) for each in token.embeddings]
    if found != [(width,) for width in widths]:
        reason = (
            f"{token.token} has embeddings of shapes {found}, the text encoders of {model.folder} "
            f"read {[(width,) for width in widths]}: it was learned by a model of another kind"
        )
        raise InputError("token", "embeddings", reason)
    shapes = {name: tuple(p.shape) for name, p in model.unet.named_parameters()}
    for name, delta in token.deltas.items():
        if shapes.get(name) != tuple(delta.shape):
            there = f"is {shapes[name]}" if name in shapes else "is not there"
            reason = (
                f"{token.token} changes {name} of shape {tuple(delta.shape)}, which {there} in the "
                f"UNet of {model.folder}: it was learned by a model of another architecture"
            )
            raise InputError("token", "deltas", reason)
    if not other_models and token.model != model.fingerprint():
        reason = (
            f"{token.token} was learned by the model {token.model or '(unknown)'}, and "
            f"{model.folder} is {model.fingerprint()}: learn it anew, or say other_models=True if "
            "both have the same weights"
        )
        raise InputError("token", "model", reason)


def _common_deltas(tokens: Sequence[PersonalToken]) -> Mapping[str, Tensor]:
    """The deltas that all tokens with any share; none without."""
    changing = [token for token in tokens if token.deltas]
    if not changing:
        return {}
    first = changing[0]
    for token in changing[1:]:
        same = token.deltas.keys() == first.deltas.keys()
        if not same or any(not torch.equal(token.deltas[n], first.deltas[n]) for n in first.deltas):
            reason = (
                f"{first.token} and {token.token} changed the UNet each for itself; wear one after "
                "the other, learn them together, or learn them by textual inversion"
            )
            raise InputError("tokens", "deltas", reason)
    return first.deltas


def _add(tokenizer: Any, name: str) -> int:
    """Teaches a tokenizer a name and returns its id."""
    if not name or any(character.isspace() for character in name):
        raise InputError("token", "name", f"{name!r}: one word is needed, such as <new1>")
    vocabulary = tokenizer.get_vocab()
    if any(known in vocabulary for known in (name, name.lower(), f"{name.lower()}</w>")):
        reason = f"{name!r} is a token that the model knows already; take a new one, such as <new1>"
        raise InputError("token", "name", reason)
    # A name of letters must not be found within other words: "sks" in "tasks".
    tokenizer.add_tokens([AddedToken(name, single_word=name.isalnum(), normalized=True)])
    added = int(tokenizer.convert_tokens_to_ids(name))
    if tokenizer(f"a {name}, b", add_special_tokens=False).input_ids.count(added) != 1:
        raise InputError("token", "name", f"{name!r} is not read as one token; take <new1>")
    return added


def input_table(encoder: Any) -> nn.Embedding:
    """The table of a text encoder's token embeddings."""
    table = encoder.get_input_embeddings()
    assert isinstance(table, nn.Embedding), type(table)
    return table


def _with_rows(table: Tensor, ids: Sequence[int], rows: Sequence[Tensor]) -> Tensor:
    """The table with ``rows`` at ``ids``, which may lie behind its end."""
    enlarged = table.new_zeros(max(len(table), *(each + 1 for each in ids), 0), table.shape[1])
    enlarged[: len(table)] = table
    for index, row in zip(ids, rows, strict=True):
        enlarged[index] = row.to(table)
    return enlarged


@contextmanager
def _swapped(changes: Sequence[tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
    """Within the block the modules have other, frozen parameters; then the very same again."""
    before = [module._parameters[name] for module, name, _ in changes]
    try:
        for module, name, tensor in changes:
            setattr(module, name, nn.Parameter(tensor.detach(), requires_grad=False))
        yield
    finally:
        for (module, name, _), parameter in zip(changes, before, strict=True):
            setattr(module, name, parameter)


@contextmanager
def _end_of_text(model: FrozenDiffusion) -> Iterator[None]:
    """Text encoders pool at the end token's own id in the block.

    Released configurations say 2, by which transformers means the highest id in a prompt. That was
    the end token's until there are new ones.
    """
    changed: Final[list[Any]] = []
    try:
        for tokenizer, encoder in zip(model.tokenizers, model.text_encoders, strict=True):
            for module in encoder.modules():
                if getattr(module, "eos_token_id", None) == _OLD_EOS:
                    changed.append(module)
                    module.eos_token_id = tokenizer.eos_token_id
        yield
    finally:
        for module in changed:
            module.eos_token_id = _OLD_EOS
