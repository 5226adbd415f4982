"""Loading, encoding and noising: against diffusers' own pipelines, and against wrong folders."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from kedro.io import DatasetError
from safetensors.torch import load_file, save_file

from diffground.adapters.datasets import ModelFolderDataset
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import CROSS_SITES
from diffground.backbone.probe import ProbeRequest
from diffground.errors import InputError
from diffground.io.files import check_sums, write_sums

PROMPTS = ["a photo including a dog, a red cup", "two people"]


@pytest.mark.parametrize("name", ["UNet2DConditionModel", "StableDiffusionPipeline", "utils", ""])
def test_what_calls_itself_a_scheduler_and_is_none(copy: Path, name: str) -> None:
    """Any class of diffusers would be loaded as what it is, pickled weights included."""
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": name}))
    (copy / "scheduler" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(InputError, match=rf"scheduler_config\.json: _class_name: .*'{name}'"):
        FrozenDiffusion.from_pretrained(copy)


def test_damaged_weights_are_named(copy: Path) -> None:
    """A flipped bit is a valid weight: only a checksum tells."""
    write_sums(copy)
    FrozenDiffusion.from_pretrained(copy)
    file = next((copy / "unet").glob("*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
    with pytest.raises(InputError, match=rf"{file.name}: sha256: .*damaged; .*git checkout"):
        FrozenDiffusion.from_pretrained(copy)
    with pytest.raises(DatasetError, match="damaged; by checkout"):
        ModelFolderDataset(filepath=str(copy), remedy="by checkout").load()
    (copy / "SHA256SUMS").unlink()  # a folder of one's own has none
    FrozenDiffusion.from_pretrained(copy)


@pytest.mark.parametrize(
    "name", ["mini-sd", "mini-sdxl-turbo", "mini-clip", "mini-segmenter", "mini-vit"]
)
def test_shipped_models_have_their_checksums(root: Path, name: str, tmp_path: Path) -> None:
    folder = root / "data/06_models" / name
    check_sums(folder, "")
    made = write_sums(Path(shutil.copytree(folder, tmp_path / name)))
    assert made.read_text() == (folder / "SHA256SUMS").read_text() and len(made.read_text()) > 64


def test_other_files_than_those_of_the_folder_are_not_looked_at(copy: Path) -> None:
    (copy / "SHA256SUMS").write_text(f"{0:064x}  ../../secret.safetensors\n")
    with pytest.raises(InputError, match="SHA256SUMS: line: .*no path within"):
        FrozenDiffusion.from_pretrained(copy)


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["sd1"], tmp_path / "model"))


def test_family_and_schedule(models_by_family: dict[str, FrozenDiffusion]) -> None:
    for family, model in models_by_family.items():
        assert model.family == family
        assert model.device.type == "cpu" and model.dtype == torch.float32
    assert models_by_family["sd2"].scheduler.config.prediction_type == "v_prediction"
    assert models_by_family["sdxl"].context_dim == 32


def test_frozen_for_ever(model: FrozenDiffusion) -> None:
    model.train()
    torch.nn.Sequential(model).train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_prompts_as_the_pipeline_encodes_them(
    family: str, models_by_family: dict[str, FrozenDiffusion]
) -> None:
    model = models_by_family[family]
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(model.folder)
    made = model.encode_prompts(PROMPTS)
    if family == "sdxl":
        expected, _, pooled, _ = pipeline.encode_prompt(
            PROMPTS, device="cpu", do_classifier_free_guidance=False
        )
        assert made.pooled is not None
        torch.testing.assert_close(made.pooled, pooled)
    else:
        expected, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
        assert made.pooled is None
    torch.testing.assert_close(made.embeddings, expected)
    for prompt, mask, offsets in zip(PROMPTS, made.mask, made.offsets, strict=True):
        count = len(model.tokenizers[0](prompt).input_ids)
        assert mask.tolist() == [True] * count + [False] * (mask.numel() - count)
        assert all(span == (0, 0) for span in (offsets[0], *offsets[count - 1 :]))


def test_too_long_a_prompt(sd1: FrozenDiffusion) -> None:
    prompt = "a dog, " * 20 + "a table"
    with pytest.raises(InputError, match=r"64 tokens.*reads 32.*a dog, a dog"):
        sd1.encode_prompts(["a dog", prompt])
    encoding = sd1.encode_prompts([prompt], overflow="truncate")
    assert encoding.embeddings.shape[1] == 32 and encoding.mask.all()
    with pytest.raises(InputError, match="'table' lost tokens"):
        sd1.encode_phrases(encoding, [[(2, 5), (142, 147)]])


def test_phrases_are_the_mean_of_their_tokens(sd1: FrozenDiffusion) -> None:
    prompts = ["a red cup, a dog", "two people"]
    encoding = sd1.encode_prompts(prompts)
    phrases, mask = sd1.encode_phrases(encoding, [[(2, 9), (13, 16)], [(0, 10)]])
    assert mask.tolist() == [[True, True], [True, False]]
    for (item, phrase), span in {(0, 0): (2, 9), (0, 1): (13, 16), (1, 0): (0, 10)}.items():
        tokens = encoding.token_indices(item, span)
        expected = encoding.embeddings[item, tokens].mean(dim=0)
        torch.testing.assert_close(phrases[item, phrase], expected)
    assert (phrases[1, 1] == 0).all()


def test_images_to_latents_and_back(sd1: FrozenDiffusion) -> None:
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    posterior = sd1.vae.encode(images).latent_dist
    mean = sd1.encode_images(images)
    assert mean.shape == (2, 4, 4, 6)
    torch.testing.assert_close(mean, posterior.mean * 0.18215)
    drawn = sd1.encode_images(images, seeds=[3, 4])
    alone = sd1.encode_images(images[1:], seeds=[4])
    torch.testing.assert_close(drawn[1:], alone, atol=1e-6, rtol=1e-5)
    assert not torch.equal(drawn, mean)
    torch.testing.assert_close(
        sd1.decode_latents(mean), sd1.vae.decode(mean / 0.18215).sample.clamp(-1, 1)
    )
    with pytest.raises(InputError, match="multiples of 8"):
        sd1.encode_images(images[..., :-1])
    with pytest.raises(InputError, match="3 seeds for a batch of 2"):
        sd1.encode_images(images, seeds=[3, 4, 5])


def test_noise_belongs_to_the_item(sd1: FrozenDiffusion) -> None:
    latents = torch.randn(3, 4, 4, 6)
    noisy = sd1.add_noise(latents, 150, [7, 8, 9])
    order = [2, 0, 1]
    again = sd1.add_noise(latents[order], 150, [9, 7, 8])
    assert torch.equal(again, noisy[order])
    assert torch.equal(sd1.add_noise(latents[1:2], 150, [8]), noisy[1:2])
    assert torch.equal(sd1.add_noise(latents, 150, None), latents)
    copies = sd1.add_noise(latents[:1], 150, [7, 8])
    assert copies.shape[0] == 2 and torch.equal(copies[0], noisy[0])
    noise = torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(7))
    expected = sd1.scheduler.add_noise(latents[:1], noise[None], torch.tensor([150]))
    torch.testing.assert_close(noisy[:1], expected)
    assert sd1.add_noise(latents.bfloat16(), 150, [7, 8, 9]).dtype == torch.bfloat16
    for timestep in (-1, 1000):
        with pytest.raises(InputError, match="timestep"):
            sd1.add_noise(latents, timestep, [7, 8, 9])
    with pytest.raises(InputError, match="2 seeds for a batch of 3"):
        sd1.add_noise(latents, 150, [7, 8])


def test_missing_folder_is_instant(tmp_path: Path) -> None:
    started = time.perf_counter()
    with pytest.raises(InputError, match="no-such-model.*read from disk only"):
        FrozenDiffusion.from_pretrained(tmp_path / "no-such-model")
    with pytest.raises(InputError, match="read from disk only"):
        FrozenDiffusion.from_pretrained("some-hub/name")
    assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize(
    "piece",
    ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"]
    + ["text_encoder/model.safetensors", "tokenizer/merges.txt"],
)
def test_missing_piece_is_named(piece: str, copy: Path) -> None:
    (copy / piece).unlink()
    with pytest.raises(InputError, match=piece.split("/", maxsplit=1)[0]) as caught:
        FrozenDiffusion.from_pretrained(copy)
    assert caught.value.file == str(copy)


def test_pickled_weights_are_refused(copy: Path) -> None:
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InputError, match=r"pickled weights"):
        FrozenDiffusion.from_pretrained(copy)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_incomplete_weights_are_refused(part: str, copy: Path) -> None:
    (weights,) = (copy / part).glob("*.safetensors")
    tensors = load_file(weights)
    tensors.pop(sorted(tensors)[-1])
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match="1 tensors are missing"):
        FrozenDiffusion.from_pretrained(copy)


def test_text_encoder_as_released(copy: Path, sd1: FrozenDiffusion) -> None:
    """Released files name their tensors "text_model.…", newer exports do not."""
    weights = copy / "text_encoder/model.safetensors"
    tensors = {
        f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(weights).items()
    }
    save_file(tensors, weights, metadata={"format": "pt"})
    made = FrozenDiffusion.from_pretrained(copy).encode_prompts(PROMPTS)
    torch.testing.assert_close(made.embeddings, sd1.encode_prompts(PROMPTS).embeddings)


def test_half_precision_files_alone(copy: Path, sd1: FrozenDiffusion) -> None:
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    model = FrozenDiffusion.from_pretrained(copy, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    encoding = model.encode_prompts(PROMPTS)
    torch.manual_seed(0)  # the largest difference depends on the image
    latents = model.encode_images(torch.rand(2, 3, 64, 64))
    assert encoding.embeddings.dtype == latents.dtype == torch.bfloat16
    request = ProbeRequest(cross=CROSS_SITES[4:9], self_=(model.layers.self_layer,))
    result = model.probe(latents, 150, encoding.embeddings, request, context_mask=encoding.mask)
    full = sd1.probe(
        latents.float(), 150, encoding.embeddings.float(), request, context_mask=encoding.mask
    )
    for name, maps in result.cross.items():
        assert maps.dtype == torch.float32
        torch.testing.assert_close(maps, full.cross[name], atol=0.02, rtol=0.1)


def test_foreign_models_are_refused(copy: Path) -> None:
    file = copy / "unet/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(InputError, match="FluxTransformer2DModel"):
        FrozenDiffusion.from_pretrained(copy)
    file.write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        FrozenDiffusion.from_pretrained(copy)


def test_fingerprint_follows_the_files(copy: Path, sd1: FrozenDiffusion) -> None:
    before = sd1.fingerprint()
    assert len(before) == 32
    assert FrozenDiffusion.from_pretrained(copy).fingerprint() == before
    weights = copy / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values())).add_(1)
    save_file(tensors, weights)
    assert FrozenDiffusion.from_pretrained(copy).fingerprint() != before
