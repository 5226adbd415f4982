"""Initialising MLMA's visual attention and the decoder from Mask2Former's weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from recipes import recipe
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation

from diffground.errors import InputError
from diffground.papers.png.decoder import DecoderConfig, MaskFeature, PhraseDecoder
from diffground.papers.png.mlma import MLMA, MlmaConfig
from diffground.papers.png.pretrained import LoadReport, load_panoptic_weights

WIDTH, LAYERS, DECODER_LAYERS = 64, 2, 3  # the mini segmenter's
STAGES = (48, 64, 96)  # channels of its backbone at 1/8, 1/16, 1/32
FINE = 32  # and at 1/4


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "data/06_models/mini-segmenter"


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Mask2FormerForUniversalSegmentation:
    return Mask2FormerForUniversalSegmentation.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32
    ).eval()


class Parts:
    """The three modules, freshly initialised."""

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = STAGES,
        fine: int = FINE,
        layers: int = LAYERS,
        decoder_layers: int = DECODER_LAYERS,
        seed: int = 0,
        **mlma: object,
    ) -> None:
        torch.manual_seed(seed)
        config = {"width": WIDTH, "layers": layers, "heads": 4, "ffn": 256, **mlma}
        decoder = recipe(DecoderConfig, layers=decoder_layers, heads=4, ffn=256)
        self.mlma = MLMA(widths, 16, recipe(MlmaConfig, **config)).eval()
        self.mask_feature = MaskFeature(WIDTH, fine).eval()
        self.decoder = PhraseDecoder(WIDTH, 5, decoder).eval()

    def load(self, source: Path) -> LoadReport:
        return load_panoptic_weights(self.mlma, self.mask_feature, self.decoder, source)

    def tensors(self) -> dict[str, Tensor]:
        parts = {"mlma": self.mlma, "mask_feature": self.mask_feature, "decoder": self.decoder}
        return {
            f"{part}.{name}": tensor.clone()
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }


ORIGINAL_NAMES = [  # transformers -> Mask2Former's own, written from its code
    (r"^model\.pixel_level_module\.decoder\.", "sem_seg_head.pixel_decoder."),
    (r"(pixel_decoder\.)encoder\.", r"\1transformer.encoder."),
    (r"(pixel_decoder\.)level_embed", r"\1transformer.level_embed"),
    (r"(pixel_decoder\.transformer.*)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(pixel_decoder\.transformer.*)\.final_layer_norm\.", r"\1.norm2."),
    (r"(pixel_decoder\.transformer.*)\.fc([12])\.", r"\1.linear\2."),
    (r"input_projections\.", "input_proj."),
    (r"(adapter_1|layer_1)\.0\.", r"\1."),
    (r"(adapter_1|layer_1)\.1\.", r"\1.norm."),
    (r"mask_projection\.", "mask_features."),
    (r"^model\.transformer_module\.(decoder\.)?", "sem_seg_head.predictor."),
    (r"predictor\.layernorm\.", "predictor.decoder_norm."),
    (r"mask_predictor\.mask_embedder\.(\d)\.0\.", r"mask_embed.layers.\1."),
    (
        r"predictor\.layers\.(\d)\.cross_attn\.",
        r"predictor.transformer_cross_attention_layers.\1.multihead_attn.",
    ),
    (
        r"predictor\.layers\.(\d)\.cross_attn_layer_norm\.",
        r"predictor.transformer_cross_attention_layers.\1.norm.",
    ),
    (
        r"predictor\.layers\.(\d)\.self_attn\.",
        r"predictor.transformer_self_attention_layers.\1.self_attn.",
    ),
    (
        r"predictor\.layers\.(\d)\.self_attn_layer_norm\.",
        r"predictor.transformer_self_attention_layers.\1.norm.",
    ),
    (r"predictor\.layers\.(\d)\.fc([12])\.", r"predictor.transformer_ffn_layers.\1.linear\2."),
    (
        r"predictor\.layers\.(\d)\.final_layer_norm\.",
        r"predictor.transformer_ffn_layers.\1.norm.",
    ),
    (r"queries_embedder\.", "query_embed."),
    (r"queries_features\.", "query_feat."),
    (r"^class_predictor\.", "sem_seg_head.predictor.class_embed."),
    (r"^model\.pixel_level_module\.encoder\.", "backbone."),
]


def original_names(folder: Path) -> dict[str, Tensor]:
    """The mini segmenter as Mask2Former's own code would have saved it."""
    renamed = {}
    for old, tensor in load_file(folder / "model.safetensors").items():
        new = old
        for pattern, replacement in ORIGINAL_NAMES:
            new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        parts = [renamed.pop(name.replace("q_proj", x)) for x in ("q_proj", "k_proj", "v_proj")]
        renamed[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return renamed


def test_everything_that_fits_is_loaded(folder: Path):
    parts = Parts()
    before = parts.tensors()
    report = parts.load(folder)
    assert report.skipped == ()
    changed = {name for name, tensor in parts.tensors().items() if not tensor.equal(before[name])}
    assert changed <= set(report.loaded) and len(set(report.loaded)) == len(report.loaded)
    expected = {
        name
        for name in before
        if re.match(r"mlma\.(layers\.\d\.deformable|level_embed|image_projections)", name)
        or name.startswith(("mask_feature.", "decoder."))
    } - {"decoder.classifier.weight", "decoder.classifier.bias"}
    assert set(report.loaded) == expected
    assert len(expected) == 2 * 16 + 1 + 12 + 3 + 3 + 2 + 3 * 22 + 2 + 6 + 1


@torch.no_grad()
def test_loaded_modules_compute_what_the_segmenter_does(
    folder: Path, segmenter: Mask2FormerForUniversalSegmentation
):
    """MLMA without its phrase side is the pixel decoder's encoder, and the rest follows."""
    parts = Parts(bi_attention=False, self_attention=False)
    parts.load(folder)
    library = segmenter.model
    generator = torch.Generator().manual_seed(3)
    features = [
        torch.randn(2, channels, *size, generator=generator)
        for channels, size in zip((FINE, *STAGES), [(24, 16), (12, 8), (6, 4), (3, 2)], strict=True)
    ]
    expected = library.pixel_level_module.decoder(features)
    queries = library.transformer_module.queries_features.weight.expand(2, -1, -1)
    library.transformer_module.queries_embedder.weight.zero_()  # ours have no positions
    masks = library.transformer_module(list(expected.multi_scale_features), expected.mask_features)

    valid = torch.ones(queries.shape[:2], dtype=torch.bool)
    phrases = [torch.zeros(2, queries.shape[1], 16)] * 3
    images = parts.mlma(features[1:], phrases, valid).images
    for mine, theirs in zip(images, reversed(expected.multi_scale_features), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    mask_feature = parts.mask_feature(images[0], features[0])
    torch.testing.assert_close(mask_feature, expected.mask_features, atol=1e-4, rtol=1e-4)
    outputs = parts.decoder(queries, images, mask_feature, valid)
    for mine, theirs in zip(outputs.layers, masks.masks_queries_logits, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("prefix", ["", "module.ema."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_both_layouts_give_the_same(folder: Path, tmp_path: Path, prefix: str, suffix: str):
    weights = {f"{prefix}{name}": tensor for name, tensor in original_names(folder).items()}
    file = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save({"model": weights, "iteration": 7}, file)
    hub, original = Parts(seed=1), Parts(seed=1)
    first, second = hub.load(folder), original.load(file)
    assert first == second
    theirs = original.tensors()
    for name, tensor in hub.tensors().items():
        assert tensor.equal(theirs[name]), name


def test_other_shapes_are_skipped_and_named(folder: Path):
    parts = Parts(widths=(48, 24, 96), fine=40)
    before = parts.tensors()
    report = parts.load(folder)
    skipped = dict(report.skipped)
    assert set(skipped) == {
        *(f"mlma.image_projections.1.{n}.{p}" for n in (0, 1) for p in ("weight", "bias")),
        *(f"mask_feature.lateral.{x}" for x in ("0.weight", "1.weight", "1.bias")),
    }
    reason = skipped["mask_feature.lateral.1.weight"]
    assert "(64, 32, 1, 1)" in reason and "(64, 40, 1, 1)" in reason
    after = parts.tensors()
    assert all(after[name].equal(before[name]) for name in skipped)
    assert "mask_feature.output.0.weight" in report.loaded


def test_layers_that_the_model_lacks_are_named(folder: Path):
    report = Parts(layers=1, decoder_layers=2).load(folder)
    lacking = "the model has no such layer"
    assert report.skipped == (
        ("mlma.layers.1.deformable", lacking),
        ("decoder.layers.2", lacking),
    )
    report = Parts(deformable=False).load(folder)
    assert not any(".deformable." in name for name in report.loaded)
    assert ("mlma.layers.0.deformable", lacking) in report.skipped


def test_too_few_layers_or_other_sizes_are_errors(folder: Path):
    for parts, words in (
        (Parts(decoder_layers=4), r"decoder\.layers\.3\.\S+: is not there, .*\(64, 64\)"),
        (Parts(layers=3), r"encoder\.layers\.2\.\S+: is not there"),
        (Parts(ffn=128), r"fc1\.weight: has shape \(256, 64\), .* has \(128, 64\)"),
        (Parts(heads=8), "num_attention_heads: 4, the MLMA has 8"),
        (Parts(points=8), "points: 4, MLMA has 8"),
    ):
        before = parts.tensors()
        with pytest.raises(InputError, match=words) as caught:
            parts.load(folder)
        assert "mini-segmenter" in caught.value.file
        after = parts.tensors()
        assert all(tensor.equal(before[name]) for name, tensor in after.items())


def test_unreadable_sources(folder: Path, tmp_path: Path):
    def fails(source: Path, words: str) -> None:
        with pytest.raises(InputError, match=words):
            Parts().load(source)

    fails(tmp_path, "config.json")
    fails(tmp_path / "nothing.pth", "does not exist")
    (tmp_path / "model.pkl").write_bytes(b"")
    fails(tmp_path / "model.pkl", "state dict")
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "object.pth")
    fails(tmp_path / "object.pth", "plain tensors")
    torch.save([1, 2], tmp_path / "list.pth")
    fails(tmp_path / "list.pth", "a list")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    fails(tmp_path / "torn.safetensors", "it cannot be read")
    save_file({"unet.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    fails(tmp_path / "other.safetensors", "no tensor is named sem_seg_head")
    weights = original_names(folder)
    twice = {f"{x}{name}": tensor.clone() for name, tensor in weights.items() for x in ("", "ema.")}
    save_file(twice, tmp_path / "twice.safetensors")
    fails(tmp_path / "twice.safetensors", "there are two of")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "maskformer"}))
    fails(copy, "'maskformer', not 'mask2former'")
    (copy / "config.json").write_text("{")
    fails(copy, "unreadable")
