"""The mini SDXL-Turbo: its folder, the trajectories it learns from, its training and figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from pydantic import ValidationError
from recipes import recipe
from tiny_foundation import CANVAS, QUALITY, RECIPE
from torch.utils.data import StackDataset

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.latents import alpha_bar
from diffground.backbone.sampler import sample
from diffground.foundation import few_steps, turbo
from diffground.foundation.config import FoundationRecipe, TurboRecipe
from diffground.foundation.diffusion import token_ids
from diffground.foundation.few_steps import assess_turbo
from diffground.foundation.fitting import Workshop
from diffground.foundation.painting import (
    found_names,
    found_shares,
    generate,
    judge_painting,
)
from diffground.foundation.prompts import two_object_prompts
from diffground.foundation.turbo import (
    Distillation,
    Student,
    build_turbo_unet,
    kept_trajectories,
    student_timesteps,
    teacher_features,
    trajectories,
)
from diffground.seeds import derive_seed
from diffground.segmenters.instance import InstanceSegmenter

PROMPTS = ["a photo of a red ball", "a photo of a cat and a mug", "a blue boat on water"]


@pytest.fixture(scope="module")
def teacher(made: dict[str, Path]) -> FrozenDiffusion:
    return FrozenDiffusion.from_pretrained(made["sd"])


@pytest.fixture(scope="module")
def model(made: dict[str, Path]) -> FrozenDiffusion:
    return FrozenDiffusion.from_pretrained(made["turbo"])


def test_diffusers_paints_with_the_folder_what_we_do(
    made: dict[str, Path], model: FrozenDiffusion
) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        made["turbo"], local_files_only=True, add_watermarker=False
    )
    assert model.family == "sdxl" and model.latent_stride == 8
    for steps in (1, 2):
        (image,) = pipeline(
            PROMPTS[0],
            num_inference_steps=steps,
            guidance_scale=0.0,
            height=64,
            width=64,
            generator=torch.Generator().manual_seed(3),
            output_type="pt",
        ).images
        taken = list(
            sample(model, model.encode_prompts(PROMPTS[:1]), [3], steps=steps, guidance=1.0)
        )
        assert len(taken) == steps and taken[0].timestep == 999
        ours = model.decode_latents(taken[-1].latents)[0].add(1).div(2)
        torch.testing.assert_close(ours, image.float(), atol=1e-3, rtol=0)


def test_the_topology_is_that_of_sdxl(made: dict[str, Path], model: FrozenDiffusion) -> None:
    unet = model.unet
    with_attention = [hasattr(block, "attentions") for block in unet.down_blocks]
    assert with_attention == [False, True, True]
    assert [hasattr(block, "attentions") for block in unet.up_blocks] == [True, True, False]
    assert unet.config.addition_embed_type == "text_time" and len(model.text_encoders) == 2
    for part in (
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/vocab.json",
    ):
        assert (made["turbo"] / part).read_bytes() == (made["sd"] / part).read_bytes()
    for config in made["turbo"].rglob("*.json"):
        assert str(made["work"]) not in config.read_text("utf-8")


def test_every_token_stands_for_itself(model: FrozenDiffusion) -> None:
    """What the UNet reads of a word depends on it and its place; the pooled text on all words."""
    one, other = model.encode_prompts(["a red ball on grass", "a red ball on snow"]).embeddings
    same = (one == other).all(-1)
    (offsets,) = model.encode_prompts(["a red ball on grass"]).offsets
    place = next(i for i, (start, _) in enumerate(offsets) if start == len("a red ball on "))
    assert same[:place].all() and not same[place]
    first, second = model.encode_prompts(["a red ball on grass", "a blue ball on grass"]).pooled
    assert not torch.allclose(first, second)


def test_the_student_is_what_the_folder_has(
    made: dict[str, Path], model: FrozenDiffusion, teacher: FrozenDiffusion
) -> None:
    """In training tokens become velocities as they do when the folder is used."""
    student = Student(RECIPE.turbo, teacher.tokenizers[0], CANVAS.size)
    student.unet.load_state_dict(model.unet.state_dict())
    for ours, theirs in zip((student.text, student.text_2), model.text_encoders, strict=True):
        ours.load_state_dict(theirs.state_dict())
    encoding = model.encode_prompts(PROMPTS)
    latents = torch.randn(3, 4, 8, 8)
    ids = token_ids(teacher.tokenizers[0], PROMPTS).long()
    with torch.no_grad():
        found = student(latents, torch.tensor([999] * 3), ids)
        wanted = model.unet(
            latents,
            999,
            encoding.embeddings,
            added_cond_kwargs=model.added(latents, encoding.pooled),
        ).sample
    torch.testing.assert_close(found, wanted)


def test_all_that_is_trained_has_a_gradient_from_both_trainings(teacher: FrozenDiffusion) -> None:
    """So that several processes can train it; of the teacher nothing is trained."""
    student = Student(RECIPE.turbo, teacher.tokenizers[0], CANVAS.size)
    distillation = Distillation(student, teacher_features(teacher), RECIPE.turbo)
    path = trajectories(teacher, PROMPTS, 0, RECIPE.turbo)
    losses = distillation({"ids": token_ids(teacher.tokenizers[0], PROMPTS), "path": path})
    losses["loss"].backward()
    torch.testing.assert_close(losses["loss"], losses["squared"] + 0.3 * losses["features"])
    lacking = [n for n, p in distillation.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking
    assert all(p.grad is None for p in teacher.parameters())


def test_trajectories_are_the_teachers(teacher: FrozenDiffusion) -> None:
    """From pure noise at 999 past the student's steps to the latents that sampling gives."""
    wanted = student_timesteps(RECIPE.turbo)
    assert wanted == [999, 749, 499, 249]
    path = trajectories(teacher, PROMPTS, 0, RECIPE.turbo)
    assert path.shape == (3, 5, 4, 8, 8) and path.dtype == torch.float16
    scheduler = DDIMScheduler.from_config(teacher.scheduler.config, timestep_spacing="trailing")
    seed = derive_seed(10, 2, "trajectory")
    steps = list(
        sample(
            teacher,
            teacher.encode_prompts(PROMPTS[2:]),
            [seed],
            steps=8,
            guidance=3.0,
            scheduler=scheduler,
        )
    )
    by_time = {step.timestep: step.entering for step in steps}
    way = torch.cat([*(by_time[t] for t in wanted), steps[-1].latents])
    torch.testing.assert_close(path[2].float(), way, atol=5e-3, rtol=1e-2)
    # A trajectory has its number's noise, in whatever part it is made.
    late = trajectories(teacher, PROMPTS[2:], 2, RECIPE.turbo)
    torch.testing.assert_close(late[0].float(), path[2].float(), atol=5e-3, rtol=1e-2)


def test_trajectories_are_kept_part_by_part(
    teacher: FrozenDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed makes the parts that lack; another teacher's are not taken."""
    monkeypatch.setattr(turbo, "PART", 2)
    shop, made = Workshop(RECIPE, CANVAS, tmp_path), []
    real = turbo.trajectories

    def counted(*args: Any) -> torch.Tensor:
        made.append(args[2])
        return real(*args)

    monkeypatch.setattr(turbo, "trajectories", counted)
    first = kept_trajectories(shop, teacher, PROMPTS, "weights")
    assert made == [0, 2] and len(first) == 3
    files = sorted(shop.checkpoints.glob("trajectories-*.safetensors"))
    files[0].unlink()
    assert torch.equal(kept_trajectories(shop, teacher, PROMPTS, "weights"), first)
    assert len(made) == 3
    kept_trajectories(shop, teacher, [*PROMPTS, "a ball"], "weights")
    assert made[3:] == [2], "of more prompts the whole parts are kept"
    kept_trajectories(shop, teacher, PROMPTS, "other weights")
    assert made[4:] == [0, 2]


def test_the_loss_is_none_where_the_trajectory_ends(teacher: FrozenDiffusion) -> None:
    """A student that knows the velocity of every point of the way has no loss."""
    path = trajectories(teacher, PROMPTS, 0, RECIPE.turbo)
    alphas = {t: alpha_bar(teacher.scheduler, t) for t in student_timesteps(RECIPE.turbo)}
    asked: list[int] = []

    class Knowing(torch.nn.Module):
        def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor) -> Any:
            asked.extend(timesteps.tolist())
            signal = torch.tensor([alphas[int(t)] for t in timesteps]).view(-1, 1, 1, 1)
            return (signal.sqrt() * noisy - path[:, -1].float()) / (1 - signal).sqrt()

    knowing: Any = Knowing()
    distillation = Distillation(knowing, teacher_features(teacher), RECIPE.turbo)
    ids = token_ids(teacher.tokenizers[0], PROMPTS)
    for _ in range(40):
        losses = distillation({"ids": ids, "path": path})
        assert losses["squared"] < 1e-8 and losses["features"] < 1e-2
    assert set(asked) == set(alphas)
    assert 0.45 < np.mean([t == 999 for t in asked]) < 0.75, "the recipe's share"


def test_it_learns_where_trajectories_end(teacher: FrozenDiffusion, tmp_path: Path) -> None:
    """On a few of them the distance falls well below that of a student that learned nothing."""
    config = RECIPE.turbo.distil.train.model_copy(
        update={"max_steps": 60, "batch_size": 4, "learning_rate": 3e-3, "log_every": 10}
    )
    distil = RECIPE.turbo.distil.model_copy(update={"train": config})
    changed = RECIPE.turbo.model_copy(update={"distil": distil})
    shop = Workshop(RECIPE.model_copy(update={"turbo": changed}), CANVAS, tmp_path)
    prompts = [*PROMPTS, "a green kite"]
    ids = token_ids(teacher.tokenizers[0], prompts)
    paths: Any = StackDataset(ids=ids, path=trajectories(teacher, prompts, 0, changed))
    scenes: Any = StackDataset(prompt=ids, bare=ids, narrative=ids, latents=torch.randn(4, 4, 8, 8))
    turbo.train_turbo(shop, scenes, paths, teacher, "key")
    rows = json.loads((tmp_path / "turbo/distil/losses.json").read_text("utf-8"))
    assert rows[-1]["squared"] < 0.6 * rows[0]["squared"]
    assert rows[-1]["features"] < rows[0]["features"]
    assert set(shop.last_losses()) == {"turbo/pretrain", "turbo/distil"}


def test_figures_stand_beside_the_teachers(made: dict[str, Path], model: FrozenDiffusion) -> None:
    detector = InstanceSegmenter.from_pretrained(made["segmenter"])
    base = FrozenDiffusion.from_pretrained(made["sd"])
    one, two = (judge_painting(base, detector, QUALITY, seed)[0] for seed in QUALITY.eval_seeds)
    teacher = {name: (one[name] + two[name]) / 2 for name in one} | {"deviation": {}, "vae_psnr": 1}
    figures = assess_turbo(made["turbo"], made["segmenter"], teacher, QUALITY)
    assert list(figures["steps"]) == ["1", "2"]
    assert figures["teacher"]["found_each"] == teacher["found_each"]
    for steps, found in figures["steps"].items():
        assert set(found) == set(figures["teacher"]) and "vae_psnr" not in found
        way = few_steps.in_few_steps(QUALITY, int(steps))
        each = []
        for seed in QUALITY.eval_seeds:
            asked = two_object_prompts(QUALITY.images, seed)
            images = generate(model, [prompt.text for prompt in asked], way, seed)
            names = found_names(detector, images, QUALITY.found_score)
            each.append(found_shares([prompt.names for prompt in asked], names)["each"])
        assert found["found_each"] == pytest.approx(np.mean(each))
        assert found["deviation"]["found_each"] == pytest.approx(np.std(each, ddof=1))


def test_a_teacher_that_does_not_pass_by_is_refused() -> None:
    content = RECIPE.turbo.model_dump() | {"steps": 3}
    with pytest.raises(ValidationError, match="8 steps do not pass by all of the student's 3"):
        TurboRecipe.model_validate(content)


@pytest.mark.parametrize("env", ["mini", "gpu"])
def test_the_shipped_size(conf: Callable[[str], Any], env: str) -> None:
    """In half precision the UNet leaves room for the rest within 12 MB."""
    made = FoundationRecipe.model_validate(conf(env)["parameters"]["foundation"])
    with torch.device("meta"):
        unet = build_turbo_unet(made.turbo, 16)
    assert 2 * sum(p.numel() for p in unet.parameters()) < 9e6
    assert student_timesteps(recipe(FoundationRecipe).turbo) == [999, 749, 499, 249]
