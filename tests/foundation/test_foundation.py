"""The recipes from end to end at a tiny size, and the figures that judge the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import CROSS_SITES
from diffground.backbone.probe import ProbeResult
from diffground.foundation import build
from diffground.foundation.card import model_card
from diffground.foundation.config import FoundationRecipe, QualityConfig
from diffground.foundation.fitting import Workshop
from diffground.foundation.localise import Located, argmax_iou
from diffground.foundation.pictures import attention_grid, generation_grid
from diffground.foundation.quality import assess, two_object_prompts
from diffground.foundation.scenes import captioned_scenes, to_image, to_tensor
from diffground.foundation.tokenizer import train_tokenizer
from diffground.world.vocabulary import CATEGORIES, COLOURS

TRAIN = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3}
RECIPE = FoundationRecipe.model_validate(
    {
        "name": "test",
        "scenes": {"seed": 7, "count": 8, "size": 64},
        "autoencoder": {"channels": [8, 8, 8, 8], "crop": 32, "whole_share": 0.4, "scenes": 8,
                        "train": TRAIN},
        "diffusion": {"channels": [8, 8, 16, 16], "text_width": 16, "text_heads": 2,
                      "text_layers": 0, "mixed": 0.4,
                      "refine": {"timestep_power": 1.0, "bare": 0.25, "train": TRAIN},
                      "train": TRAIN},
        "clip": {"width": 16, "layers": 1, "heads": 2, "train": TRAIN},
        "segmenter": {
            "stem": 8, "channels": [8, 8, 16, 16], "width": 32, "heads": 2, "encoder_layers": 1,
            "decoder_layers": 1, "points": 64, "scenes": 8, "train": TRAIN,
        },
    }
)  # fmt: skip
QUALITY = QualityConfig(
    scenes=32, images=2, timestep=100, iterations=1, sharpen=1.0, inference_steps=2, guidance=5.0,
    variants=((1, 1.0), (2, 1.0), (2, 4.0)), found_score=0.5, seed=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All parts, trained for two steps, and assembled."""
    root = tmp_path_factory.mktemp("foundation")
    work = root / "work"
    shop = Workshop(RECIPE, work)
    vae = build.make_autoencoder(shop)
    words = build.make_diffusion(shop, vae)
    return {
        "work": work,
        "sd": build.assemble(RECIPE, QUALITY, vae, words, root / "mini-sd"),
        "clip": build.make_clip(shop, words, root / "mini-clip"),
        "segmenter": build.make_segmenter(shop, root / "mini-segmenter"),
    }


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
    scenes = captioned_scenes(7, 8, 64)
    latents = model.encode_images(torch.stack([to_tensor(s.rendering.image) for s in scenes]))
    assert float(latents.std()) == pytest.approx(1.0, abs=0.02)


def test_figures_card_and_pictures(made: dict[str, Path]) -> None:
    scenes = captioned_scenes(11, QUALITY.scenes, 64)
    figures, prompts, images = assess(made["sd"], made["clip"], made["segmenter"], scenes, QUALITY)
    required = ("vae_psnr", "cross_thing_iou", "cross_stuff_iou", "selfcross_thing_iou")
    required += ("segmenter_ap50", "generation_both_found")
    assert all(isinstance(figures[name], float) for name in required)
    assert all(0 <= figures[name] <= 1 for name in required[1:])
    assert figures["self_effective_positions"] <= 64
    card = model_card(RECIPE, Workshop(RECIPE, made["work"]).last_losses(), figures)
    assert (
        "Recipe `test`" in card
        and "its refinement" in card
        and f"{figures['vae_psnr']:.3f}" in card
    )
    assert images[0].shape == (64, 64, 3) and images[0].dtype == np.uint8
    assert generation_grid([p.text for p in prompts], images).axes[0].get_title()
    model = FrozenDiffusion.from_pretrained(made["sd"])
    assert len(attention_grid(model, scenes[:2], QUALITY).axes) >= 4 * 2


def test_finished_steps_are_not_trained_again(made: dict[str, Path]) -> None:
    before = torch.load(
        next((made["work"] / "checkpoints").rglob("segmenter/last.pt")), weights_only=True
    )
    build.make_segmenter(Workshop(RECIPE, made["work"]), made["segmenter"])
    after = torch.load(
        next((made["work"] / "checkpoints").rglob("segmenter/last.pt")), weights_only=True
    )
    assert before["record"]["step"] == after["record"]["step"] == TRAIN["max_steps"]
    assert all(torch.equal(before["model"][k], after["model"][k]) for k in before["model"])


def test_clip_scores_pairs(made: dict[str, Path]) -> None:
    model = CLIPModel.from_pretrained(made["clip"], local_files_only=True)
    tokens = CLIPTokenizer.from_pretrained(made["sd"] / "tokenizer", local_files_only=True)
    assert model.config.text_config.vocab_size == len(tokens)


def test_tokenizer_has_whole_words_and_covers_unseen_ones(tmp_path: Path) -> None:
    texts = [s.prompt.text for s in captioned_scenes(7, 300, 32)]
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
    image = captioned_scenes(7, 1, 64)[0].rendering.image
    assert np.array_equal(to_image(to_tensor(image)), image)


def test_perfect_maps_have_iou_one() -> None:
    scene = captioned_scenes(7, 1, 64)[0]
    masks = np.stack([scene.rendering.mask(p.groups[0]) for p in scene.prompt.phrases])
    located = Located(ProbeResult(), [], masks, np.ones(len(masks), bool))
    assert argmax_iou(torch.from_numpy(masks).float(), located) == pytest.approx(1.0)
    assert argmax_iou(torch.from_numpy(~masks).float(), located).max() < 0.5


def test_two_object_prompts_depend_on_their_index_only() -> None:
    few, many = two_object_prompts(3, 0), two_object_prompts(9, 0)
    assert few == many[:3]
    assert all(len(set(p.names)) == 2 and all(name in p.text for name in p.names) for p in many)
    assert two_object_prompts(3, 1) != few


@pytest.mark.parametrize(("env", "name", "steps"), [("mini", "cpu", 3000), ("long", "long", 11000)])
def test_recipes_for_a_processor_differ_in_the_refinement_only(conf, env, name, steps):
    recipes = [
        FoundationRecipe.model_validate(conf(which)["parameters"]["foundation"])
        for which in (env, "mini")
    ]
    assert recipes[0].name == name and recipes[0].diffusion.refine.train.max_steps == steps
    first, base = (
        recipe.model_dump(exclude={"name": True, "diffusion": {"refine"}}) for recipe in recipes
    )
    assert first == base
