"""What needs no clock: FLOP of a pass, bytes of what is kept, memory of a store's books.

pytest -m benchmark tests/benchmarks/test_work_and_sizes.py -s

FLOP are counted by torch (2 a multiplication and addition) on Stable Diffusion 1.5's networks
without weights. Bytes are those of files, written in the formats of the stores, with what the
papers' sizes make of them. Books are the items and notes of a store, as Python 3 allocates them.

Less than a minute on one core; rows are appended to data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measuring import keep
from PIL import Image
from safetensors.torch import save
from torch.utils.flop_counter import FlopCounterMode

from diffground.backbone.architectures import ARCHITECTURES
from diffground.io.notes import FileNote
from diffground.masks.phrase_masks import describe_mask
from diffground.papers.grounded.feature_maps import feature_maps
from diffground.papers.grounded.samples import Instance, Record, write_part
from diffground.store.items import Item
from diffground.store.reports import Note, line_of

SD15 = ARCHITECTURES["sd15"]


@pytest.mark.benchmark
@pytest.mark.parametrize("side", [512, 1024])
@torch.no_grad()
def test_work_of_a_pass(side):
    with torch.device("meta"):
        unet, vae = SD15.build("unet"), SD15.build("vae")
        image, latents = torch.empty(1, 3, side, side), torch.empty(1, 4, side // 8, side // 8)
        words, now = torch.empty(1, 77, 768), torch.zeros(1)
    passes = {
        "VAE encoder": lambda: vae.encode(image),
        "UNet, one pass": lambda: unet(latents, now, encoder_hidden_states=words),
        "VAE decoder": lambda: vae.decode(latents),
    }
    for name, run in passes.items():
        with FlopCounterMode(display=False) as counter:
            run()
        tflop = round(counter.get_total_flops() / 1e12, 3)
        keep([{"what": f"work of {name}", "variant": f"{side} x {side}", "tflop": tflop}])
        assert tflop > 0.1


@pytest.mark.benchmark
def test_bytes_of_what_is_kept(tmp_path):
    with torch.device("meta"):
        unet = SD15.build("unet")
    numbers = sum(m.channels * (64 >> m.level) ** 2 for m in feature_maps(unet, "blocks"))
    grid = torch.zeros(3, 36, 48, dtype=torch.float16)  # of a 500 x 375 image, three classes
    maps = len(save({"maps": grid, "cross": grid.clone(), "peaks": torch.zeros(3, 2).half()}))
    latents = len(save({"a": torch.zeros(4, 128, 128, dtype=torch.float16)}))
    sizes = {
        "a synthetic sample": {"kB": _sample(tmp_path / "part.safetensors") / 1e3},
        "a sample's features, kept": {"MiB": 2 * numbers / 2**20},
        # In 32 bits, of both halves.
        "a sample's features, as the public code keeps them": {"MiB": 8 * numbers / 2**20},
        "a class of a map": {"kB": maps / 3 / 1e3},
        "latents of an image": {"kB": latents / 1e3},
    }
    for what, size in sizes.items():
        keep([{"what": f"bytes of {what}", "variant": "", **size}])
        assert all(value > 1 for value in size.values())


def _sample(path: Path) -> float:
    """Bytes of one of eight samples of 512 x 512 pixels, with five instances each."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512]
    records, tensors = [], dict[str, torch.Tensor]()
    for number in range(8):
        places = random.uniform(100, 400, (5, 2))
        # Discs with a rim as rough as a network's masks have.
        masks = [np.hypot(y - a, x - b) < 60 + 3 * random.random(y.shape) for a, b in places]
        found = [
            Instance(name="cat", score=0.9, segmentation=describe_mask(mask)["segmentation"])
            for mask in masks
        ]
        item = f"train-{number:05d}"
        records.append(
            Record(
                id=item, prompt="a photo of a cat and a dog", names=("cat", "dog"), absent=(),
                seed=number, kept=True, reason=None, size=(512, 512), timestep=1.0, guided=True,
                ranges=((-1.0, 1.0),) * 4, instances=tuple(found),
            )
        )  # fmt: skip
        coarse = Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8))
        stream = io.BytesIO()
        coarse.resize((128, 128)).save(stream, format="JPEG", quality=80)
        tensors[f"{item}.latent"] = torch.zeros(4, 64, 64, dtype=torch.float16)
        tensors[f"{item}.picture"] = torch.zeros(4, 64, 64, dtype=torch.uint8)
        jpeg = torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
        tensors[f"{item}.thumbnail"] = jpeg
    write_part(path, records, tensors)
    return path.stat().st_size / 8


@pytest.mark.benchmark
def test_books_of_a_store():
    count = 20_000
    kept: list[Any] = []
    tracemalloc.start()
    for number in range(count):
        name = f"{number:012d}"
        sources = {"image": Path(f"/data/coco/train2017/{name}.jpg")}
        kept.append(Item(name, (f"{name}.safetensors",), ("cat", "sofa"), sources))
    items = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        item = kept[number]
        kept.append(
            Note(
                item=item.id, key=f"{number:016x}", files={item.files[0]: f"{number:016x}"},
                sources={"image": FileNote(10**5, 10**18, f"{number:016x}")}, commit="0" * 40,
            )
        )  # fmt: skip
    notes = tracemalloc.get_traced_memory()[0] - items
    tracemalloc.stop()
    assert len(kept) == 2 * count
    row = {
        "item_kb": round(items / count / 1e3, 2),
        "note_kb": round(notes / count / 1e3, 2),
        "line_kb": round(len(line_of(kept[-1])) / 1e3, 2),
    }
    keep([{"what": "books of a store", "variant": "", **row}])
