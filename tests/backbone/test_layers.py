"""The papers' layer numbers, and the layer table of a model folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import (
    CROSS_SITES,
    LAYERS_FILE,
    LayerTable,
    cross_sites,
    paper_layer,
)
from diffground.backbone.probe import ProbeRequest
from diffground.errors import InputError

# Read off the public Text2Mask code: the 0-based order of its transformer blocks.
REFERENCE = {
    0: "down_blocks.0.attentions.0",
    1: "down_blocks.0.attentions.1",
    2: "down_blocks.1.attentions.0",
    3: "down_blocks.1.attentions.1",
    4: "down_blocks.2.attentions.0",
    5: "down_blocks.2.attentions.1",
    6: "mid_block.attentions.0",
    7: "up_blocks.1.attentions.0",
    8: "up_blocks.1.attentions.1",
    9: "up_blocks.1.attentions.2",
    10: "up_blocks.2.attentions.0",
    11: "up_blocks.2.attentions.1",
    12: "up_blocks.2.attentions.2",
    13: "up_blocks.3.attentions.0",
    14: "up_blocks.3.attentions.1",
    15: "up_blocks.3.attentions.2",
}


def test_paper_layers() -> None:
    assert {i: paper_layer(i) for i in range(16)} == {
        i: f"{name}.transformer_blocks.0" for i, name in REFERENCE.items()
    }
    assert len(CROSS_SITES) == 16
    for index in (-1, 16):
        with pytest.raises(InputError, match="0 to 15"):
            paper_layer(index)


def test_sites_are_in_the_order_of_execution(model: FrozenDiffusion) -> None:
    order: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, module in model.unet.named_modules()
        if name.endswith(".attn2")
    ]
    encoding = model.encode_prompts(["a dog"])
    model.probe(
        torch.randn(1, 4, 8, 8),
        1,
        encoding.embeddings,
        ProbeRequest(features=("conv_out",)),
        pooled=encoding.pooled,
    )
    for hook in hooks:
        hook.remove()
    assert cross_sites(model.unet) == tuple(order)
    if model.family != "sdxl":
        assert tuple(order) == CROSS_SITES


def test_default_table_is_the_papers(models_by_family: dict[str, FrozenDiffusion]) -> None:
    for family in ("sd1", "sd2"):
        table = models_by_family[family].layers
        assert table.cross == tuple(f"{paper_layer(i)}.attn2" for i in range(4, 9))
        assert table.self_layer == f"{paper_layer(11)}.attn1"
    table = models_by_family["sdxl"].layers
    blocks = ["down_blocks.2.attentions.0", "down_blocks.2.attentions.1"]
    blocks += ["mid_block.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]
    assert table.cross == tuple(
        f"{block}.transformer_blocks.{i}.attn2" for block in blocks for i in range(3)
    )
    assert table.self_layer == "up_blocks.1.attentions.1.transformer_blocks.0.attn1"


def test_table_of_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["sd1"], tmp_path / "model"))
    table = {"cross": [CROSS_SITES[7]], "self_layer": f"{paper_layer(10)}.attn1", "note": "chosen"}
    (copy / LAYERS_FILE).write_text(json.dumps(table))
    model = FrozenDiffusion.from_pretrained(copy)
    assert model.layers == LayerTable.model_validate(table)
    for field, wrong in (("cross", ["up_blocks.9.attn2"]), ("self_layer", CROSS_SITES[0])):
        (copy / LAYERS_FILE).write_text(json.dumps(table | {field: wrong}))
        with pytest.raises(InputError, match=f"{LAYERS_FILE}: {field}"):
            LayerTable.read(copy, model.unet)
    (copy / LAYERS_FILE).write_text("[]")
    with pytest.raises(InputError, match="layers: Input should be an object"):
        LayerTable.read(copy, model.unet)
