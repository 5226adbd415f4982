"""Public files of Custom Diffusion: the three layouts are read, anything else is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from safetensors.torch import save_file
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.personal import worn
from diffground.backbone.personal_formats import load_public
from diffground.errors import InputError

# diffusers' name -> CompVis's, of every transformer of SD 1.x: written down, not computed.
COMPVIS = {
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.attentions.1": "input_blocks.2.1",
    "down_blocks.1.attentions.0": "input_blocks.4.1",
    "down_blocks.1.attentions.1": "input_blocks.5.1",
    "down_blocks.2.attentions.0": "input_blocks.7.1",
    "down_blocks.2.attentions.1": "input_blocks.8.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.1.attentions.0": "output_blocks.3.1",
    "up_blocks.1.attentions.1": "output_blocks.4.1",
    "up_blocks.1.attentions.2": "output_blocks.5.1",
    "up_blocks.2.attentions.0": "output_blocks.6.1",
    "up_blocks.2.attentions.1": "output_blocks.7.1",
    "up_blocks.2.attentions.2": "output_blocks.8.1",
    "up_blocks.3.attentions.0": "output_blocks.9.1",
    "up_blocks.3.attentions.1": "output_blocks.10.1",
    "up_blocks.3.attentions.2": "output_blocks.11.1",
}


@pytest.fixture
def tuned(sd1: FrozenDiffusion) -> dict[str, Tensor]:
    """Keys and values of the cross-attention after a training, by diffusers' names."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: weight + 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in sd1.unet.named_parameters()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(2, 16, generator=torch.Generator().manual_seed(1))


def write_delta(folder: Path, tuned: dict[str, Tensor], rows: Tensor) -> Path:
    tokens = {"<new1>": rows[0], "<new2>": rows[1]}
    torch.save({"unet": tuned, "modifier_token": tokens}, folder / "delta.bin")
    return folder / "delta.bin"


def compvis(name: str) -> str:
    """CompVis numbers its blocks otherwise; a UNet of three levels of attention has them all."""
    start = name.partition(".transformer_blocks")[0]
    return "model.diffusion_model." + name.replace(start, COMPVIS[start])


def write_compvis(folder: Path, tuned: dict[str, Tensor], rows: Tensor) -> Path:
    state = {compvis(name): weight for name, weight in tuned.items()} | {"embed": rows}
    path = folder / "delta_epoch=000004.ckpt"
    torch.save({"state_dict": state}, path)
    return path


def write_diffusers(
    model: Path, folder: Path, tuned: dict[str, Tensor], rows: Tensor, *, safe: bool
) -> Path:
    """Weights by diffusers itself, with its own processors; tokens as its example writes them."""
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet", local_files_only=True)
    processors = {}
    for name in unet.attn_processors:
        path = name.removesuffix(".processor")
        crossed = path.endswith("attn2")
        made = CustomDiffusionAttnProcessor(
            train_kv=crossed,
            train_q_out=False,
            hidden_size=unet.get_submodule(path).to_k.out_features,
            cross_attention_dim=unet.config.cross_attention_dim if crossed else None,
        )
        if crossed:
            weights = {
                f"to_{kind}_custom_diffusion.weight": tuned[f"{path}.to_{kind}.weight"]
                for kind in "kv"
            }
            made.load_state_dict(weights)
        processors[name] = made
    unet.set_attn_processor(processors)
    unet.save_attn_procs(folder, safe_serialization=safe)
    for index, row in enumerate(rows):
        content = {f"<new{index + 1}>": row.clone()}
        if safe:  # the example calls it .bin all the same
            save_file(content, folder / f"<new{index + 1}>.bin")
        else:
            torch.save(content, folder / f"<new{index + 1}>.bin")
    return folder


@pytest.fixture(params=["delta", "compvis", "diffusers", "diffusers, pickled"])
def written(
    request: pytest.FixtureRequest,
    folders: dict[str, Path],
    tmp_path: Path,
    tuned: dict[str, Tensor],
    rows: Tensor,
) -> Path:
    match request.param:
        case "delta":
            return write_delta(tmp_path, tuned, rows)
        case "compvis":
            return write_compvis(tmp_path, tuned, rows)
        case kind:
            safe = kind == "diffusers"
            return write_diffusers(folders["sd1"], tmp_path, tuned, rows, safe=safe)


def test_every_format_gives_the_weights_and_tokens_that_are_in_it(
    written: Path, sd1: FrozenDiffusion, tuned: dict[str, Tensor], rows: Tensor
) -> None:
    tokens = load_public(written, sd1, "cup")
    assert [(token.token, token.word) for token in tokens] == [("<new1>", "cup"), ("<new2>", "cup")]
    with worn(sd1, tokens):
        for name, weight in tuned.items():
            torch.testing.assert_close(sd1.unet.get_parameter(name).data, weight)
        table = sd1.text_encoders[0].get_input_embeddings().weight
        ids = sd1.tokenizers[0].convert_tokens_to_ids(["<new1>", "<new2>"])
        assert torch.equal(table[ids], rows)


@pytest.mark.parametrize("layout", ["delta", "compvis"])
def test_compressed_weights_are_what_is_added(
    layout: str, tmp_path: Path, sd1: FrozenDiffusion, tuned: dict[str, Tensor], rows: Tensor
) -> None:
    low = {}
    for name, weight in tuned.items():
        u, s, v = torch.linalg.svd(weight - sd1.unet.get_parameter(name))
        low[name] = {"u": u[:, :3] @ torch.diag(s[:3]), "v": v[:3]}
    write: Callable[..., Any] = write_delta if layout == "delta" else write_compvis
    tokens = load_public(write(tmp_path, low, rows), sd1, "cup")
    for name, parts in low.items():
        torch.testing.assert_close(tokens[0].deltas[name], parts["u"] @ parts["v"])


def test_both_text_encoders_of_sdxl(
    tmp_path: Path, models_by_family: dict[str, FrozenDiffusion]
) -> None:
    model = models_by_family["sdxl"]
    name = next(n for n, _ in model.unet.named_parameters() if n.endswith("attn2.to_k.weight"))
    content = {
        "unet": {name: model.unet.get_parameter(name) + 1},
        "modifier_token": {"<new1>": [torch.ones(16), torch.zeros(16)]},
    }
    torch.save(content, tmp_path / "delta.bin")
    (token,) = load_public(tmp_path / "delta.bin", model, "cup")
    assert [float(row.mean()) for row in token.embeddings] == [1.0, 0.0]
    torch.testing.assert_close(token.deltas[name], torch.ones_like(token.deltas[name]))


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path, sd1: FrozenDiffusion) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "it ran",))

    for name, write in {
        "torch.bin": lambda path: torch.save({"unet": Harm()}, path),
        "plain.bin": lambda path: path.write_bytes(pickle.dumps({"unet": Harm()})),
    }.items():
        write(tmp_path / name)
        with pytest.raises(InputError, match="would run as code"):
            load_public(tmp_path / name, sd1, "cup")
    assert not (tmp_path / "it ran").exists()


def test_what_cannot_be_used_is_named(
    tmp_path: Path, sd1: FrozenDiffusion, tuned: dict[str, Tensor]
) -> None:
    row, name = torch.zeros(16), next(iter(tuned))
    token = {"<new1>": row}
    cases: dict[str, Any] = {
        "text_encoder: it has a text encoder of its own": {
            "unet": tuned,
            "modifier_token": token,
            "text_encoder": {"x": row},
        },
        "tokens: there is no new token": {"unet": tuned},
        "of no format of Custom Diffusion": {"weights": tuned},
        "a list, not a dict": [row],
        "learned by another architecture": {
            "unet": {f"more.{name}": tuned[name]},
            "modifier_token": token,
        },
        "does not fit": {"unet": {name: tuned[name][:2]}, "modifier_token": token},
        "embeddings: <new1> has embeddings of shapes": {
            "unet": tuned,
            "modifier_token": {"<new1>": torch.zeros(768)},
        },
        "no cross-attention weight of CompVis": {"state_dict": {"model.x": row}},
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / "delta.bin")
        with pytest.raises(InputError, match=message):
            load_public(tmp_path / "delta.bin", sd1, "cup")
    (tmp_path / "delta.bin").write_bytes(b"PK\x03\x04 cut short")
    for path in (tmp_path / "delta.bin", tmp_path / "none.bin", tmp_path):
        with pytest.raises(InputError, match="cannot be read|no such file|is in the folder"):
            load_public(path, sd1, "cup")
