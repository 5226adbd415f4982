"""The recipes from end to end at a tiny size, and what their steps promise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from tiny_foundation import CANVAS, PHASES, RECIPE, TRAIN
from transformers import CLIPModel, CLIPTokenizer

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import CROSS_SITES
from diffground.foundation import build
from diffground.foundation.autoencoder import _Objective, build_autoencoder, decode
from diffground.foundation.config import DiffusionRecipe, FoundationRecipe
from diffground.foundation.fitting import Workshop
from diffground.foundation.scenes import captioned_scenes, pictures, to_image, to_tensor
from diffground.foundation.tokenizer import train_tokenizer
from diffground.world.vocabulary import CATEGORIES, COLOURS


def checkpoint(made: dict[str, Path], part: str) -> dict[str, Any]:
    (path,) = (made["work"] / "checkpoints").glob(f"*/{part}/last.pt")
    return torch.load(path, weights_only=True)


def test_the_folder_is_a_stable_diffusion(made: dict[str, Path]) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(made["sd"], local_files_only=True)
    assert pipeline.unet.config.cross_attention_dim == RECIPE.diffusion.text_width
    image = pipeline("a red ball on grass", num_inference_steps=2).images[0]
    assert image.size == (64, 64)
    assert {p.name for p in (made["sd"] / "tokenizer").iterdir()} >= {"vocab.json", "merges.txt"}
    for config in made["sd"].rglob("*.json"):
        assert str(made["work"]) not in config.read_text("utf-8")
    model = FrozenDiffusion.from_pretrained(made["sd"])
    assert model.latent_stride == 8
    assert set(model.layers.cross) <= set(CROSS_SITES)
    assert "training scenes" in model.layers.note
    weights = torch.cat([t.flatten() for t in model.encode_prompts(["a ball"]).embeddings])
    assert torch.isfinite(weights).all()


def test_latents_have_unit_variance(made: dict[str, Path]) -> None:
    model = FrozenDiffusion.from_pretrained(made["sd"])
    source = RECIPE.scenes
    scenes = captioned_scenes(7, 8, CANVAS, simple=source.simple, mugs=source.mugs)
    latents = model.encode_images(torch.stack([to_tensor(s.rendering.image) for s in scenes]))
    assert float(latents.std()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "part",
    ["diffusion/phase-1", "diffusion/phase-2", "turbo/pretrain", "turbo/distil", "segmenter"],
)
def test_finished_steps_are_not_trained_again(made: dict[str, Path], part: str) -> None:
    before = checkpoint(made, part)
    shop = Workshop(RECIPE, CANVAS, made["work"])
    if part == "segmenter":
        build.make_segmenter(shop, made["draft"], made["vae"], made["segmenter"])
    elif part.startswith("turbo"):
        build.make_turbo(shop, made["vae"], made["sd"], made["turbo"])
    else:
        build.make_diffusion(shop, made["vae"])
    after = checkpoint(made, part)
    assert before["record"]["step"] == after["record"]["step"] == TRAIN["max_steps"]
    assert all(torch.equal(before["model"][k], after["model"][k]) for k in before["model"])


def test_a_phase_can_be_added_and_goes_on_from_the_averages(
    made: dict[str, Path], tmp_path: Path
) -> None:
    """Of a recipe with one phase more, the phases that were finished are kept as they are."""
    shutil.copytree(made["work"], tmp_path / "work")
    still: Any = {**PHASES[1], "train": {**TRAIN, "max_steps": 1, "learning_rate": 1e-12}}
    recipe = RECIPE.diffusion.model_dump() | {"phases": [*PHASES, still]}
    longer = RECIPE.model_copy(update={"diffusion": DiffusionRecipe.model_validate(recipe)})
    folder = build.make_diffusion(Workshop(longer, CANVAS, tmp_path / "work"), made["vae"])
    assert folder == tmp_path / "work/diffusion"
    copied = {"work": tmp_path / "work"}
    for part in ("diffusion/phase-1", "diffusion/phase-2"):
        kept, now = checkpoint(made, part), checkpoint(copied, part)
        assert all(torch.equal(kept["model"][k], now["model"][k]) for k in kept["model"])
    before, after = checkpoint(made, "diffusion/phase-2"), checkpoint(copied, "diffusion/phase-3")
    for name, weight in after["model"].items():
        torch.testing.assert_close(weight, (before["average"] or before["model"])[name])
    first = checkpoint(made, "diffusion/phase-1")["model"]
    assert any(not torch.equal(first[k], before["model"][k]) for k in first), "phase 2 trains"


def test_the_autoencoder_is_judged_by_features_of_whole_images() -> None:
    """The loss is what the recipe says; crops have no features, and no part of them counts."""
    torch.manual_seed(0)
    images = pictures(captioned_scenes(7, 4, CANVAS))
    seen = []

    def features(batch: torch.Tensor) -> list[torch.Tensor]:
        seen.append(batch)
        return [batch[:, :, ::2, ::2], batch.mean(1)]

    def losses(**changes: Any) -> dict[str, torch.Tensor]:
        recipe = RECIPE.autoencoder.model_copy(update=changes)
        objective = _Objective(build_autoencoder(recipe), features, recipe)
        return objective(images)

    whole = losses(whole_share=1.0, feature_weight=0.5, kl_weight=0.1)
    expected = whole["l1"] + 4 * whole["l2"] + 0.1 * whole["kl"] + 0.5 * whole["features"]
    torch.testing.assert_close(whole["loss"], expected)
    true, made = seen  # wanted first; a quarter of the images, which cost as much as the crops
    assert torch.equal(true, images[:1]) and made.requires_grad
    made = made.detach()
    pairs = [(made[:, :, ::2, ::2], true[:, :, ::2, ::2]), (made.mean(1), true.mean(1))]
    parts = [float((a - b).abs().mean() / b.abs().mean()) for a, b in pairs]
    assert whole["features"].item() == pytest.approx(np.mean(parts), rel=1e-5)
    crop = losses(whole_share=0.0)
    assert "features" not in crop and len(seen) == 2


def test_the_decoder_goes_on_alone(made: dict[str, Path]) -> None:
    """What the second training of the autoencoder changes is the decoder, so that latents stay."""
    first = checkpoint(made, "autoencoder")
    before = first["average"] or first["model"]
    after = AutoencoderKL.from_pretrained(made["work"] / "autoencoder").state_dict()
    for name, weight in after.items():
        same = torch.equal(weight, before[f"vae.{name}"])
        assert same or name.startswith(("decoder.", "post_quant_conv."))
        if name.startswith(("encoder.", "quant_conv.")):
            assert same, name
    assert not torch.equal(after["decoder.conv_in.weight"], before["vae.decoder.conv_in.weight"])


def test_latents_are_kept_and_made_again_where_damaged(tmp_path: Path) -> None:
    """A training that goes on need not encode all scenes again."""
    shop, calls = Workshop(RECIPE, CANVAS, tmp_path), []
    wanted = torch.arange(6.0).reshape(2, 3).T

    def make() -> torch.Tensor:
        calls.append(1)
        return wanted

    for _ in range(2):
        assert torch.equal(shop.kept("latents", make), wanted) and len(calls) == 1
    path = shop.checkpoints / "latents.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert torch.equal(shop.kept("latents", make), wanted) and len(calls) == 2


def test_the_segmenter_also_learns_from_reconstructions(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of its samples are what the autoencoder makes of the scenes, with the scenes' masks."""
    data: list[Any] = []
    monkeypatch.setattr(Workshop, "fit", lambda *args, **kwargs: data.append(args[4]))
    shop = Workshop(RECIPE, CANVAS, made["work"])
    build.make_segmenter(shop, made["draft"], made["vae"], made["work"].parent / "again")
    samples, count = data[0], RECIPE.segmenter.scenes
    assert len(samples) == 2 * count
    vae = AutoencoderKL.from_pretrained(made["vae"], local_files_only=True)
    decoded = decode(vae, shop.scenes(count))
    for index in range(count):
        true, other = samples[index], samples[count + index]
        assert torch.equal(true["masks"], other["masks"])
        assert torch.equal(((other["image"] + 1) * 127.5).round().byte(), decoded[index])
        assert not torch.equal(true["image"], other["image"])


def test_clip_scores_pairs(made: dict[str, Path]) -> None:
    model = CLIPModel.from_pretrained(made["clip"], local_files_only=True)
    tokens = CLIPTokenizer.from_pretrained(made["sd"] / "tokenizer", local_files_only=True)
    assert model.config.text_config.vocab_size == len(tokens)


def test_tokenizer_has_whole_words_and_covers_unseen_ones(tmp_path: Path) -> None:
    texts = [s.prompt.text for s in captioned_scenes(7, 300, CANVAS)]
    tokenizer = train_tokenizer(texts, 1200)
    for word in [*(c.name for c in CATEGORIES), *COLOURS]:
        assert len(tokenizer.tokenize(word)) == 1, word
    assert (
        tokenizer.decode(tokenizer("zebra's café").input_ids, skip_special_tokens=True)
        == "zebra 's café"
    )
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert again(texts[0]).input_ids == tokenizer(texts[0]).input_ids
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == len(tokenizer) - 1


def test_images_survive_the_tensor() -> None:
    image = captioned_scenes(7, 1, CANVAS)[0].rendering.image
    assert np.array_equal(to_image(to_tensor(image)), image)


def test_a_share_of_the_training_scenes_is_simple() -> None:
    """Which ones depends on the scene, not on how many are drawn."""
    none, some, every = (
        [s.scene for s in captioned_scenes(7, 200, CANVAS, simple=share)] for share in (0, 0.5, 1)
    )
    chosen = [a == b for a, b in zip(some, every, strict=True)]
    assert all(a == b for a, b, simple in zip(some, none, chosen, strict=True) if not simple)
    both = [a == b for a, b in zip(none, every, strict=True)]  # simple as it is
    assert 0.35 < (sum(chosen) - sum(both)) / (len(both) - sum(both)) < 0.65
    assert [s.scene for s in captioned_scenes(7, 20, CANVAS, simple=0.5)] == some[:20]
    mugs = [s.scene for s in captioned_scenes(7, 200, CANVAS, simple=0.5, mugs=0.2)]
    other = [a != b for a, b in zip(some, mugs, strict=True)]
    assert 0.1 < np.mean(other) < 0.3  # noqa: PLR2004
    assert {"mug"} <= {g.category.name for s, o in zip(mugs, other, strict=True) if o
                       for g in s.groups} <= {"mug", "book", "bottle"}  # fmt: skip


@pytest.mark.parametrize(("env", "name"), [("mini", "cpu"), ("gpu", "gpu")])
def test_recipes_make_the_same_networks(conf: Callable[[str], Any], env: str, name: str) -> None:
    """They differ in scenes and steps: what one trains, the other one's folders can hold."""
    recipe = FoundationRecipe.model_validate(conf(env)["parameters"]["foundation"])
    assert recipe.name == name
    base = FoundationRecipe.model_validate(conf("base")["parameters"]["foundation"])

    def networks(recipe: FoundationRecipe) -> dict[str, Any]:
        told = {"train", "refine", "scenes", "phases", "crop", "pretrain", "trajectories", "distil"}
        parts = ("autoencoder", "diffusion", "turbo", "clip", "segmenter")
        return {part: getattr(recipe, part).model_dump(exclude=told) for part in parts}

    assert networks(recipe) == networks(base)
    phases = recipe.diffusion.phases
    assert [p.train.schedule for p in phases] == ["constant", "constant", "cosine"]
    assert [(p.timestep_power, p.bare) for p in phases] == [
        (p.timestep_power, p.bare) for p in base.diffusion.phases
    ]
    assert len({p.train.seed for p in phases}) == len(phases), "other samples in every phase"
