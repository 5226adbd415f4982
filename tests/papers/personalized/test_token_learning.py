"""Learning personal tokens, on a tiny model with random weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_model import ROOT, TINY_XL
from torch import Tensor, nn
from torch.nn import functional

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.personal import worn
from diffground.backbone.random_weights import TOKENIZER, write_random
from diffground.errors import InputError, ProblemReport
from diffground.papers.personalized import prior_images as of_prior
from diffground.papers.personalized.learning_config import PriorConfig, TokenLearningConfig
from diffground.papers.personalized.lessons import Thing, collate
from diffground.papers.personalized.prior_images import prior_images
from diffground.papers.personalized.token_learning import (
    Learner,
    _added_hook,
    learn,
    learn_together,
    lessons_of,
)
from diffground.training.checkpoint import LAST

PRIOR = {"count": 4, "steps": 2, "guidance": 2.0, "batch": 2}
TRAIN = {"max_steps": 6, "batch_size": 2, "learning_rate": 1e-3, "checkpoint_every": 2}
CONFIG = TokenLearningConfig.model_validate({"prior": PRIOR, "train": TRAIN})


def changed(**changes: Any) -> TokenLearningConfig:
    return TokenLearningConfig.model_validate({"prior": PRIOR, "train": TRAIN, **changes})


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def batch_of(model: FrozenDiffusion, things: list[Thing], config: Any, root: Path) -> Any:
    lessons = lessons_of(model, things, config, root)
    return collate([lessons[index] for index in range(config.train.batch_size)])


def gradients(model: FrozenDiffusion, config: Any, photos: list[Path], root: Path) -> list[Tensor]:
    things = [Thing.read("<new1>", "cup", photos)]
    with Learner(model, things, config).hung() as learner:
        torch.manual_seed(0)
        learner(batch_of(model, things, config, root))["loss"].backward()
        assert not any(p.grad is not None for p in model.parameters())
        return [p.grad.clone() for p in [*learner.embeddings, *learner.deltas]]


@pytest.mark.parametrize("trained", ["kv", "attention"])
def test_what_is_learned_and_what_is_not(
    tiny: FrozenDiffusion, photos: list[Path], prior: Path, tmp_path: Path, trained: str
) -> None:
    before, kept = state(tiny), list(tiny.tokenizers)
    config = changed(trained=trained)
    token = learn(tiny, photos, "cup", config, tmp_path, prior=prior)
    assert same(before, state(tiny)) and tiny.tokenizers == kept
    assert not any(p.requires_grad or p.grad is not None for p in tiny.parameters())
    assert not any(m._forward_hooks for m in tiny.modules())
    ends = {name.partition(".attn2.")[2] for name in token.deltas}
    sites = {name.partition(".attn2.")[0] for name in token.deltas}
    kv = {"to_k.weight", "to_v.weight"}
    rest = {"to_q.weight", "to_out.0.weight", "to_out.0.bias"}
    assert len(sites) == 16 and ends == (kv if trained == "kv" else kv | rest)
    assert all(delta.abs().max() > 0 for delta in token.deltas.values())
    with Learner(tiny, [Thing.read("<new1>", "cup", photos)], config).hung() as fresh:
        assert not torch.equal(token.embeddings[0], fresh.embeddings[0][0])
    with worn(tiny, [token]):
        assert tiny.encode_prompts(["a <new1> cup"]).embeddings.isfinite().all()


def test_learning_lowers_the_loss(
    tiny: FrozenDiffusion, photos: list[Path], prior: Path, tmp_path: Path
) -> None:
    """On one lesson without augmentation, which it then knows by heart."""
    config = changed(
        resize=False,
        flip=0.0,
        train={**TRAIN, "max_steps": 40, "learning_rate": 0.02},
    )
    things = [Thing.read("<new1>", "cup", photos[:1])]

    def loss(learner: Learner) -> float:
        batch, found = batch_of(tiny, things, config, prior), []
        for seed in range(10):
            torch.manual_seed(seed)
            with torch.no_grad():
                found.append(float(learner(batch)["photos"]))
        return float(np.mean(found))

    learner = Learner(tiny, things, config)
    with learner.hung():
        before = loss(learner)
    (token,) = learn_together(tiny, things, config, tmp_path, prior=prior)
    with torch.no_grad():
        learner.embeddings[0].copy_(token.embeddings[0][None])
        for name, delta in zip(learner.names, learner.deltas, strict=True):
            delta.copy_(token.deltas[name])
    with learner.hung():
        assert loss(learner) < 0.97 * before


def test_the_trained_model_is_the_worn_one(
    tiny: FrozenDiffusion, photos: list[Path], prior: Path, tmp_path: Path
) -> None:
    """What hangs beside the modules computes what the weights with the deltas compute."""
    config = changed(trained="attention", train={**TRAIN, "learning_rate": 0.05})
    things = [Thing.read("<new1>", "cup", photos)]
    (token,) = learn_together(tiny, things, config, tmp_path, prior=prior)
    learner = Learner(tiny, things, config)
    with torch.no_grad():
        learner.embeddings[0].copy_(token.embeddings[0][None])
        for name, delta in zip(learner.names, learner.deltas, strict=True):
            delta.copy_(token.deltas[name])

    def output() -> Tensor:
        context = tiny.encode_prompts(["a <new1> cup"]).embeddings
        latents = torch.ones(1, 4, 8, 8)
        with torch.no_grad():
            return tiny.unet(latents, 300, context).sample

    with learner.hung():
        hung = output()
    with worn(tiny, [token]):
        torch.testing.assert_close(output(), hung, atol=1e-5, rtol=1e-4)
    with worn(tiny, [replace(token, deltas={})]):
        assert (output() - hung).abs().max() > 1e-3


def test_the_start_token_teaches_nothing() -> None:
    """CD: the gradient of the first key and value is not passed on; those of the others are."""
    layer, context = nn.Linear(4, 3, bias=False).requires_grad_(False), torch.randn(2, 5, 4)
    delta = nn.Parameter(torch.randn(3, 4))
    handle = layer.register_forward_hook(_added_hook(delta, None, of_text=True))
    weights = torch.randn(2, 5, 3)
    output = layer(context)
    torch.testing.assert_close(output, functional.linear(context, layer.weight + delta))
    (output * weights).sum().backward()
    expected = torch.einsum("btc,btd->cd", weights[:, 1:], context[:, 1:])
    torch.testing.assert_close(delta.grad, expected)
    handle.remove()


def test_checkpointing_gives_the_same_gradients(
    tiny: FrozenDiffusion, photos: list[Path], prior: Path
) -> None:
    plain = gradients(tiny, changed(), photos, prior)
    saving = gradients(tiny, changed(checkpointing=True), photos, prior)
    assert all(grad.abs().max() > 0 for grad in plain)
    for one, other in zip(plain, saving, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-4)
    assert not tiny.unet.is_gradient_checkpointing


def test_textual_inversion_learns_the_embedding_alone(
    tiny: FrozenDiffusion, photos: list[Path], tmp_path: Path
) -> None:
    config = changed(method="textual_inversion")
    token = learn(tiny, photos, "cup", config, tmp_path)
    assert not token.deltas and token.embeddings[0].shape == (16,)
    assert not (tmp_path / "prior").exists()  # it needs no pictures of the class


def test_several_things_are_learned_together(
    tiny: FrozenDiffusion, photos: list[Path], prior: Path, tmp_path: Path
) -> None:
    things = [
        Thing.read("<new1>", "cup", photos[:3]),
        Thing.read("<new2>", "dog", photos[3:]),
    ]
    first, second = learn_together(tiny, things, CONFIG, tmp_path, prior=prior)
    assert (second.token, second.word) == ("<new2>", "dog")
    assert not torch.equal(first.embeddings[0], second.embeddings[0])
    with worn(tiny, [first, second]):
        assert len(tiny.encode_prompts(["<new1> cup, <new2> dog"]).token_indices(0, (0, 6))) == 1
    assert {path.name.split("-")[0] for path in prior.iterdir()} >= {"cup", "dog"}
    lessons = lessons_of(tiny, things, CONFIG, prior)
    assert ["<new1>" in lessons[i]["prompt"] for i in range(4)] == [True, False, True, False]
    assert lessons.name(3) == "<new2>, photo 0"


def test_both_text_encoders_of_sdxl_learn(tmp_path: Path, photos: list[Path]) -> None:
    folder = write_random(
        tmp_path / "xl", "xl", architecture=TINY_XL, tokenizer=ROOT / TOKENIZER, dtype=torch.float32
    )
    model = FrozenDiffusion.from_pretrained(folder)
    config = changed(train={**TRAIN, "max_steps": 1})
    token = learn(model, photos, "cup", config, tmp_path / "training")
    with Learner(model, [Thing.read("<new1>", "cup", photos)], config).hung() as fresh:
        for learned, start in zip(token.embeddings, fresh.embeddings, strict=True):
            assert not torch.equal(learned, start[0])
    with worn(model, [token]):
        assert model.encode_prompts(["a <new1> cup"]).pooled is not None


def test_half_precision_is_half_the_size(
    tiny: FrozenDiffusion, photos: list[Path], tmp_path: Path
) -> None:
    sizes = []
    for precision in ("float32", "float16"):
        config = changed(precision=precision, prior=None, train={**TRAIN, "max_steps": 1})
        token = learn(tiny, photos, "cup", config, tmp_path / precision)
        token.save(tmp_path / precision / "token")
        sizes.append(sum(delta.nbytes for delta in token.deltas.values()))
        assert token.embeddings[0].dtype == torch.float32
        with worn(tiny, [token]):
            assert tiny.dtype == torch.float32
    assert sizes[0] == 2 * sizes[1]


def test_killed_and_started_again_it_ends_with_the_same_token(
    tiny: FrozenDiffusion, tiny_folder: Path, photos: list[Path], prior: Path, tmp_path: Path
) -> None:
    """A real process, killed by signal 9 in its fourth step, which two checkpoints are before."""
    script = (
        "import os, sys; sys.path[:0] = sys.argv[1:3]; import test_token_learning as t\n"
        "from pathlib import Path\n"
        "model = t.FrozenDiffusion.from_pretrained(sys.argv[3])\n"
        "plain, calls = t.Learner.forward, []\n"
        "def dying(learner, batch):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 3: os.kill(os.getpid(), 9)\n"
        "    return plain(learner, batch)\n"
        "t.Learner.forward = dying\n"
        "t.learn(model, [Path(p) for p in sys.argv[6:]], 'cup', t.CONFIG, Path(sys.argv[4]),"
        " prior=Path(sys.argv[5]))\n"
    )
    here = Path(__file__)
    places = [here.parent, here.parents[2], tiny_folder, tmp_path / "cut", prior, *photos]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, places)],
        check=False, capture_output=True, env=environment,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    record = torch.load(tmp_path / "cut" / LAST, weights_only=True)["record"]
    assert record["step"] == 2
    whole = learn(tiny, photos, "cup", CONFIG, tmp_path / "whole", prior=prior)
    resumed = learn(tiny, photos, "cup", CONFIG, tmp_path / "cut", prior=prior)
    assert torch.equal(whole.embeddings[0], resumed.embeddings[0])
    assert same(dict(whole.deltas), dict(resumed.deltas))


def test_another_things_checkpoint_is_refused(
    tiny: FrozenDiffusion, photos: list[Path], prior: Path, tmp_path: Path
) -> None:
    config = changed(train={**TRAIN, "max_steps": 1})
    learn(tiny, photos, "cup", config, tmp_path, prior=prior)
    for others, word in ((photos[:2], "cup"), (photos, "dog")):
        with pytest.raises(InputError, match="another configuration, model or dataset"):
            learn(tiny, others, word, config, tmp_path, prior=prior)


def test_class_pictures_are_made_once_and_mended(
    tiny: FrozenDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, made = PriorConfig(**PRIOR), []
    plain = of_prior.draw_images

    def counted(model: Any, prompts: Any, seeds: list[int], **options: Any) -> Any:
        made.append((list(prompts), len(seeds)))
        return plain(model, prompts, seeds, **options)

    monkeypatch.setattr(of_prior, "draw_images", counted)
    files = prior_images(tiny, "cup", config, tmp_path)
    assert made == [(["a photo of a cup"], 2)] * 2
    content = [file.read_bytes() for file in files]
    assert len({*content}) == 4
    assert prior_images(tiny, "cup", replace_weight(config, 0.5), tmp_path) == files
    assert len(made) == 2  # the weight of their loss makes no other pictures
    files[3].write_bytes(b"damaged")
    assert prior_images(tiny, "cup", config, tmp_path) == files
    assert len(made) == 3 and [file.read_bytes() for file in files] == content
    assert prior_images(tiny, "dog", config, tmp_path) != files


def replace_weight(config: PriorConfig, weight: float) -> PriorConfig:
    return config.model_copy(update={"weight": weight})


def test_photos_that_cannot_be_used(
    tiny: FrozenDiffusion, photos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[:200])
    for none in ([], str(photos[0]), photos[0]):
        with pytest.raises(InputError, match="<new1> needs at least one photo"):
            learn(tiny, none, "cup", CONFIG, tmp_path / "training")
    with pytest.raises(InputError, match="none of 2 can be read"):
        learn(tiny, [broken, tmp_path / "none.jpg"], "cup", CONFIG, tmp_path / "training")
    with pytest.raises(InputError, match="needs the word of its class"):
        learn(tiny, photos, " ", CONFIG, tmp_path / "training")
    report = ProblemReport()
    thing = Thing.read("<new1>", "cup", [*photos, broken], report)
    assert [photo.shape for photo in thing.photos] == [
        (64, 64, 3), (90, 40, 3), (33, 200, 3), (96, 128, 3),
    ]  # fmt: skip
    assert (report.total, [p.item for p in report.problems]) == (5, [str(broken)])
    assert "broken.jpg is skipped" in caplog.text


@pytest.mark.parametrize(
    ("token", "changes", "message"),
    [
        ("mug", {}, "knows already"),
        ("<new 1>", {}, "one word is needed"),
        ("<new1>", {"rare": ()}, "0 tokens to begin with for 1 things"),
    ],
)
def test_tokens_that_cannot_be_learned(
    tiny: FrozenDiffusion,
    photos: list[Path],
    tmp_path: Path,
    token: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        learn(tiny, photos, "cup", changed(**changes), tmp_path, token=token)
    assert not list(tmp_path.iterdir())  # refused before any picture is made


def test_tokens_begin_as_their_word_or_as_a_rare_one(
    tiny: FrozenDiffusion, photos: list[Path]
) -> None:
    things = [Thing.read("<new1>", "mug", photos), Thing.read("<new2>", "red dog", photos)]
    table = tiny.text_encoders[0].get_input_embeddings().weight

    def rows(text: str) -> Tensor:
        return table[tiny.tokenizers[0](text, add_special_tokens=False).input_ids]

    word = Learner(tiny, things, changed(start="word")).embeddings[0]
    assert len(rows("mug")) == 1 and torch.equal(word[0], rows("mug")[0])
    torch.testing.assert_close(word[1], rows("red dog").mean(0))
    rare = Learner(tiny, things, changed()).embeddings[0]
    torch.testing.assert_close(rare, torch.stack([rows("ktn").mean(0), rows("pll").mean(0)]))


def test_a_model_in_half_precision(tiny_folder: Path, photos: list[Path], tmp_path: Path) -> None:
    """bfloat16 learns, in full precision; float16 wants a GPU, where its loss can be scaled."""
    config = changed(prior=None, train={**TRAIN, "max_steps": 1})
    model = FrozenDiffusion.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    token = learn(model, photos, "cup", config, tmp_path / "bfloat16")
    assert {delta.dtype for delta in token.deltas.values()} == {torch.float32}
    assert all(delta.abs().max() > 0 for delta in token.deltas.values())
    model = FrozenDiffusion.from_pretrained(tiny_folder, dtype=torch.float16)
    with pytest.raises(InputError, match="float16 learns on a GPU only"):
        learn(model, photos, "cup", config, tmp_path / "float16")
