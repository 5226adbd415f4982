"""Personal tokens: worn and taken off, kept and read again, and refused where they do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from probing import Case
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.personal import CARD, WEIGHTS, PersonalToken, introduced, worn
from diffground.errors import InputError

KV = ("attn2.to_k.weight", "attn2.to_v.weight")


def a_token(
    model: FrozenDiffusion, name: str = "<new1>", seed: int = 0, **changes
) -> PersonalToken:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    widths = [encoder.config.hidden_size for encoder in model.text_encoders]
    deltas = {n: drawn(*p.shape) for n, p in model.unet.named_parameters() if n.endswith(KV)}
    made = PersonalToken(
        name, "cup", tuple(drawn(width) for width in widths), deltas, model.fingerprint()
    )
    return replace(made, **changes)


def state(model: FrozenDiffusion) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def pixels(case: Case, prompt: str) -> Tensor:
    encoding = case.model.encode_prompts([prompt])
    return case.model.unet(
        case.latents[:1],
        100,
        encoding.embeddings,
        added_cond_kwargs=case.model.added(case.latents[:1], encoding.pooled),
    ).sample


def test_a_worn_token_is_one_token_with_its_embedding_and_deltas(model: FrozenDiffusion) -> None:
    token = a_token(model)
    name = next(iter(token.deltas))
    weight = model.unet.get_parameter(name).clone()
    with worn(model, [token]):
        encoding = model.encode_prompts(["a <new1> cup, on the table"])
        (index,) = encoding.token_indices(0, (2, 8))
        for tokenizer, encoder, embedding in zip(
            model.tokenizers, model.text_encoders, token.embeddings, strict=True
        ):
            ids = tokenizer("a <new1> cup, on the table").input_ids
            table = encoder.get_input_embeddings()
            assert torch.equal(table.weight[ids[index]], embedding)
        assert torch.equal(model.unet.get_parameter(name), weight + token.deltas[name])
        assert not any(p.requires_grad for p in model.parameters())
    assert len(model.encode_prompts(["a <new1> cup"]).token_indices(0, (2, 8))) > 1


def test_what_is_taken_off_leaves_nothing_behind(case: Case) -> None:
    """Also after an error in the block, and with tokens that go on top of each other."""
    model = case.model
    before, parameters, tokenizers = state(model), dict(model.named_parameters()), model.tokenizers
    kept, picture = list(tokenizers), pixels(case, "a red cup")
    with pytest.raises(KeyError), worn(model, [a_token(model)]):
        assert not torch.equal(pixels(case, "a red cup"), picture)
        with worn(model, [a_token(model, "<new2>", 1, deltas={})]):
            assert len(model.encode_prompts(["<new1> <new2>"]).token_indices(0, (0, 13))) == 2
        raise KeyError
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p is parameters[n] for n, p in model.named_parameters())
    assert model.tokenizers is tokenizers and model.tokenizers == kept
    assert torch.equal(pixels(case, "a red cup"), picture)


def test_a_new_token_does_not_take_the_place_of_the_end_token(
    models_by_family: dict[str, FrozenDiffusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDXL's pooled text is read at the end token, also with the configuration of its release."""
    model = models_by_family["sdxl"]
    token = a_token(model, deltas={})
    with worn(model, [token]):
        wanted = model.encode_prompts(["a <new1> cup"]).pooled
    for module in model.text_encoders[1].modules():
        if hasattr(module, "eos_token_id"):
            monkeypatch.setattr(module, "eos_token_id", 2)
    plain = model.encode_prompts(["a red cup"]).pooled
    with worn(model, [token]):
        found = model.encode_prompts(["a <new1> cup"]).pooled
        assert torch.equal(model.encode_prompts(["a red cup"]).pooled, plain)
    assert torch.equal(found, wanted)
    assert {
        m.eos_token_id for m in model.text_encoders[1].modules() if hasattr(m, "eos_token_id")
    } == {2}


def test_a_row_inside_of_a_larger_table_is_the_new_tokens(sd1: FrozenDiffusion) -> None:
    """Where a table has more rows than the tokenizer has words, as with rehearsal weights."""
    encoder = sd1.text_encoders[0]
    table = encoder.get_input_embeddings().weight
    rows = torch.cat([table, torch.randn(50, table.shape[1])])
    encoder.get_input_embeddings().weight = torch.nn.Parameter(rows, requires_grad=False)
    try:
        token = a_token(sd1, deltas={})
        with worn(sd1, [token]):
            found = encoder.get_input_embeddings().weight
            assert found.shape == rows.shape
            assert torch.equal(found[len(table)], token.embeddings[0])
        assert torch.equal(encoder.get_input_embeddings().weight, rows)
    finally:
        encoder.get_input_embeddings().weight = table


def test_tokens_learned_together_share_their_deltas_and_others_are_refused(
    sd1: FrozenDiffusion,
) -> None:
    first = a_token(sd1)
    second = a_token(sd1, "<new2>", 1)
    name = next(iter(first.deltas))
    weight = sd1.unet.get_parameter(name).clone()
    with worn(sd1, [first, replace(second, deltas=dict(first.deltas))]):
        assert torch.equal(sd1.unet.get_parameter(name), weight + first.deltas[name])
    with worn(sd1, [first, replace(second, deltas={})]):
        assert torch.equal(sd1.unet.get_parameter(name), weight + first.deltas[name])
    with pytest.raises(InputError, match="<new1> and <new2> changed the UNet each for itself"):
        with worn(sd1, [first, second]):
            pass


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["<new1>", "<new1>"], "'<new1>' is there twice"),
        (["<new1>", "<NEW1>"], "'<NEW1>' is there twice"),
        (["dog"], "'dog' is a token that the model knows already"),
        (["<|endoftext|>"], "knows already"),
        (["my mug"], "one word is needed"),
        ([""], "one word is needed"),
    ],
)
def test_names_that_cannot_be_new_tokens(
    sd1: FrozenDiffusion, names: list[str], message: str
) -> None:
    kept = list(sd1.tokenizers)
    with pytest.raises(InputError, match=message), introduced(sd1, names):
        pass
    assert sd1.tokenizers == kept


def test_a_token_that_is_worn_already_is_a_duplicate(sd1: FrozenDiffusion) -> None:
    token = a_token(sd1, deltas={})
    with worn(sd1, [token]), pytest.raises(InputError, match="knows already"):
        with worn(sd1, [token]):
            pass


def test_a_token_of_letters_is_not_found_in_other_words(sd1: FrozenDiffusion) -> None:
    plain = sd1.tokenizers[0]("tasks").input_ids
    with introduced(sd1, ["sks"]) as ids:
        assert sd1.tokenizers[0]("tasks").input_ids == plain
        assert ids[0][0] in sd1.tokenizers[0]("a sks cup").input_ids


def test_tokens_of_other_models_are_refused(sd1: FrozenDiffusion) -> None:
    token = a_token(sd1)
    name, delta = next(iter(token.deltas.items()))
    cases = {
        r"embeddings: .*\(16,\)\]: it was": replace(token, embeddings=(torch.zeros(768),)),
        r"read \[\(16,\)\]": replace(token, embeddings=token.embeddings * 2),
        "deltas: .*which is not there": replace(token, deltas={"no." + name: delta}),
        r"deltas: .*which is \(": replace(token, deltas={name: delta[:1]}),
        "model: .* other_models=True": replace(token, model="random-0"),
    }
    for message, other in cases.items():
        with pytest.raises(InputError, match=message), worn(sd1, [other]):
            pass
    with worn(sd1, [replace(token, model="random-0")], other_models=True):
        assert not torch.equal(delta, torch.zeros_like(delta))


def test_a_token_is_kept_in_a_folder(tmp_path: Path, model: FrozenDiffusion) -> None:
    token = a_token(model)
    token.save(tmp_path / "cup")
    token.save(tmp_path / "cup")  # over itself
    found = PersonalToken.load(tmp_path / "cup")
    assert (found.token, found.word, found.model) == ("<new1>", "cup", model.fingerprint())
    pairs = zip(found.embeddings, token.embeddings, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert found.deltas.keys() == token.deltas.keys()
    assert all(torch.equal(found.deltas[n], token.deltas[n]) for n in token.deltas)
    with worn(model, [found]):
        assert len(model.encode_prompts(["<new1>"]).token_indices(0, (0, 6))) == 1


def test_damaged_folders_are_named(tmp_path: Path, sd1: FrozenDiffusion) -> None:
    folder = tmp_path / "cup"
    with pytest.raises(InputError, match="there is no personal token here"):
        PersonalToken.load(folder)
    token = a_token(sd1)
    token.save(folder)
    weights = folder / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(InputError, match="damaged since"):
        PersonalToken.load(folder)
    # Killed between the two files, while another token was written over this one.
    weights.write_bytes(whole)
    card = (folder / CARD).read_bytes()
    a_token(sd1, seed=1).save(folder)
    seals = folder / f"{CARD}.sha256"
    seals.unlink()
    (folder / CARD).write_bytes(card)
    with pytest.raises(InputError, match="belongs to other weights"):
        PersonalToken.load(folder)
    (folder / CARD).write_text(json.dumps({"token": "<new1>"}))
    with pytest.raises(InputError, match="personal token.word: Field required"):
        PersonalToken.load(folder)
