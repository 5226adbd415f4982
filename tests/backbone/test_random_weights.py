"""Folders with random weights: the released sizes are counted, the tiny one is written for real."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from random_model import TINY, TINY_XL
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from diffground.backbone import random_weights
from diffground.backbone.architectures import ARCHITECTURES, TextPart
from diffground.backbone.folder import RANDOM_FILE, ModelFolder
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import cross_sites
from diffground.backbone.probe import ProbeRequest
from diffground.backbone.random_weights import random_part, write_random
from diffground.errors import InputError


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> Path:
    return root / random_weights.TOKENIZER


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    return write_random(tmp_path_factory.mktemp("models") / "tiny", "tiny", tokenizer=tokenizer)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "tiny"])
def test_every_part_has_the_released_number_of_parameters(name: str) -> None:
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        counts = {
            part: sum(p.numel() for p in architecture.build(part).parameters())
            for part in architecture.parts
        }
    assert counts == architecture.parameters


def test_architectures_are_of_their_families() -> None:
    with torch.device("meta"):
        unets = {name: a.build("unet") for name, a in ARCHITECTURES.items()}
    assert {name: len(cross_sites(unet)) for name, unet in unets.items()} == {
        "sd14": 16, "sd15": 16, "sd21": 16, "sdxl-turbo": 70, "tiny": 16,
    }  # fmt: skip
    heads = {name: unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1.heads
             for name, unet in unets.items()}  # fmt: skip
    assert heads == {"sd14": 8, "sd15": 8, "sd21": 20, "sdxl-turbo": 10, "tiny": 2}
    types = {name: a.build_scheduler().config for name, a in ARCHITECTURES.items()}
    assert types["sd21"]["prediction_type"] == "v_prediction"
    assert types["sd15"]["prediction_type"] == types["sdxl-turbo"]["prediction_type"] == "epsilon"
    assert types["sdxl-turbo"]["timestep_spacing"] == "trailing"
    # √ᾱ at the last step is that of the released schedules.
    for architecture in ARCHITECTURES.values():
        alphas = architecture.build_scheduler().alphas_cumprod
        assert float(alphas[-1].sqrt()) == pytest.approx(0.0683, abs=1e-4)


def test_the_folder_is_loaded_and_run(written: Path, tokenizer: Path) -> None:
    model = FrozenDiffusion.from_pretrained(written, dtype=torch.bfloat16)
    assert model.family == "sd1" and model.dtype == torch.bfloat16
    encoding = model.encode_prompts(["a red ball on grass"])
    latents = model.encode_images(torch.zeros(1, 3, 64, 64))
    result = model.probe(latents, 1, encoding.embeddings, ProbeRequest(features=("conv_out",)))
    output = result.features["conv_out"]
    assert output.shape == (1, 4, 8, 8) and output.isfinite().all() and output.std() > 0

    ids = CLIPTokenizer.from_pretrained(tokenizer)
    config = json.loads((written / "text_encoder/config.json").read_text())
    for token in ("bos", "eos", "pad"):
        assert config[f"{token}_token_id"] == getattr(ids, f"{token}_token_id")
    assert (written / "tokenizer/vocab.json").exists()
    assert (written / "tokenizer/merges.txt").exists()
    pipeline = DiffusionPipeline.from_pretrained(written, local_files_only=True)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"


def test_the_folder_says_that_it_is_random(written: Path) -> None:
    content = json.loads((written / RANDOM_FILE).read_text())
    assert (content["architecture"], content["seed"], content["dtype"]) == ("tiny", 0, "bfloat16")
    assert content["parameters"]["unet"] == 210_860
    folder = ModelFolder.check(written)
    assert folder.random and folder.fingerprint().startswith("random-")
    assert "Random weights" in (written / "README.md").read_text()


def test_sdxl_has_two_text_encoders(tmp_path: Path, tokenizer: Path) -> None:
    folder = write_random(tmp_path / "xl", "tiny-xl", architecture=TINY_XL, tokenizer=tokenizer)
    model = FrozenDiffusion.from_pretrained(folder)
    assert model.family == "sdxl" and model.context_dim == 32
    first, second = model.tokenizers
    assert (first.pad_token, second.pad_token) == ("<|endoftext|>", "!")
    assert model.text_encoders[1].config.pad_token_id == second.pad_token_id
    encoding = model.encode_prompts(["a red ball"])
    result = model.probe(
        torch.randn(1, 4, 8, 8),
        1,
        encoding.embeddings,
        ProbeRequest(features=("conv_out",)),
        pooled=encoding.pooled,
    )
    assert result.features["conv_out"].isfinite().all()
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert type(pipeline).__name__ == "StableDiffusionXLPipeline"


def test_weights_follow_the_seed_and_the_part(written: Path, tmp_path: Path, tokenizer) -> None:
    weights = load_file(written / "unet/diffusion_pytorch_model.safetensors")
    state = torch.get_rng_state()
    again = random_part(TINY, "unet", dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    other = random_part(TINY, "unet", dtype=torch.bfloat16, seed=1).state_dict()
    assert not torch.equal(other["conv_in.weight"], weights["conv_in.weight"])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


def test_it_is_not_written_twice_and_another_seed_replaces_it(
    tmp_path: Path, tokenizer: Path
) -> None:
    folder = tmp_path / "tiny"
    write_random(folder, "tiny", tokenizer=tokenizer)
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    before, made = file.read_bytes(), file.stat().st_mtime_ns
    write_random(folder, "tiny", tokenizer=tokenizer)
    assert file.stat().st_mtime_ns == made
    write_random(folder, "tiny", tokenizer=tokenizer, seed=1)
    assert file.read_bytes() != before
    assert json.loads((folder / RANDOM_FILE).read_text())["seed"] == 1
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".partial", ".old"))]


def test_what_it_did_not_write_is_left_alone(tmp_path: Path, tokenizer: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match="not written by this command"):
        write_random(folder, "tiny", tokenizer=tokenizer)
    assert [path.name for path in folder.iterdir()] == ["weights.safetensors"]

    written = write_random(tmp_path / "tiny", "tiny", tokenizer=tokenizer)
    (written / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"the released weights")
    with pytest.raises(InputError, match="changed since"):
        write_random(written, "tiny", tokenizer=tokenizer, seed=1)


def test_wrong_requests(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(InputError, match="'sd3' is not known, only sd14"):
        write_random(tmp_path / "a", "sd3", tokenizer=tokenizer)
    with pytest.raises(InputError, match="there is no tokenizer"):
        write_random(tmp_path / "a", "tiny", tokenizer=tmp_path)
    small = replace(TINY, texts=(TextPart({**TINY.texts[0].config, "vocab_size": 700}),))
    with pytest.raises(InputError, match=r"\d+ tokens, but the text encoder embeds 700"):
        write_random(tmp_path / "a", "small", architecture=small, tokenizer=tokenizer)
    assert not (tmp_path / "a").exists()


def test_a_full_disk_is_found_out_before(tmp_path: Path, tokenizer: Path, monkeypatch) -> None:
    usage = random_weights.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(random_weights.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="GB are to be written, and 0.0 GB are free"):
        write_random(tmp_path / "a", "tiny", tokenizer=tokenizer)
    assert not (tmp_path / "a").exists()


def test_the_command(tmp_path: Path, root: Path, monkeypatch, capsys, caplog) -> None:
    monkeypatch.chdir(root)
    folder = tmp_path / "models/tiny"
    with caplog.at_level(logging.INFO, "diffground"):
        random_weights.main(["tiny", str(folder), "--dtype", "float32", "--seed", "3"])
    assert "tiny with random weights" in caplog.text
    assert json.loads((folder / RANDOM_FILE).read_text())["dtype"] == "float32"
    with pytest.raises(SystemExit) as stopped:
        random_weights.main(["tiny", str(root / "data/06_models/mini-sd")])
    assert stopped.value.code == 2 and "not written by this command" in capsys.readouterr().err
