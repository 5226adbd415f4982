"""Frozen features: the cache changes nothing, survives a kill, and says what it lacks."""

from __future__ import annotations

import copy
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_png
import torch
from memory_runs import run_in_memory
from recipes import recipe
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffground.data.png_benchmark import PngBenchmark, PngSample
from diffground.data.png_reading import Narratives
from diffground.errors import InputError
from diffground.io.images import read_image, write_png
from diffground.papers.png import feature_extraction
from diffground.papers.png.feature_extraction import FeatureExtractionConfig, extract_features
from diffground.papers.png.feature_store import FeatureKey, FeatureStore, FrozenInputs
from diffground.papers.png.features import feature_key, frozen_inputs
from diffground.papers.png.narratives import PngBatch, collate
from diffground.store.config import ShardConfig, WorkConfig
from diffground.training.config import TrainConfig
from diffground.training.loop import train

ULP = 2.0**-10  # of float16, relative
ONE = recipe(FeatureExtractionConfig, num_workers=0, batch_size=1, block_size=2)


@pytest.fixture
def samples(tmp_path: Path) -> list[PngSample]:
    """Four narratives of this test's own files, and two more on the first and the last image."""
    benchmark = PngBenchmark(tiny_png.make_benchmark(tmp_path / "coco"), "train2017")
    found = benchmark.read()[0]
    more = [replace(s, id=f"{s.image_id}_{4 + i}", row=4 + i) for i, s in enumerate(found[::3])]
    return found + more


def key_of(**changes) -> FeatureKey:
    content = {
        "backbone": tiny_png.backbone().fingerprint(),
        "backbone_precision": "float32",
        "coco": "0" * 16,
        "split": "train2017",
        "code": {"features": 1},
        "image_size": tiny_png.SIDE,
        "max_phrases": 30,
        "long_captions": "per_sentence",
        "precision": "float16",
    }
    return FeatureKey(**content | changes)


KEY = key_of()


def extract(samples, root, config=ONE, key=KEY, backbone=None):
    return extract_features(backbone or tiny_png.backbone(), samples, key, root, config)


def stored(root: Path, key: FeatureKey = KEY) -> FeatureStore:
    store = FeatureStore.open(root, key)
    assert store is not None
    return store


def inputs(batch: PngBatch, precision="float16"):
    return frozen_inputs(tiny_png.backbone(), batch, "per_sentence", precision)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_one_by_one_cached_features_are_the_computed_ones(samples, tmp_path, precision):
    key = key_of(precision=precision)
    extract(samples, tmp_path, key=key)
    fresh, cached = (
        tiny_png.dataset(samples),
        tiny_png.dataset(samples, store=stored(tmp_path, key)),
    )
    for index in range(len(samples)):
        want = inputs(collate([fresh[index]]), precision)
        got = inputs(collate([cached[index]]), precision)
        assert torch.equal(got.latents, want.latents) and got.latents.dtype == torch.float32
        assert torch.equal(got.context, want.context)
        assert torch.equal(got.valid, want.valid) and want.valid.dtype == torch.bool
        assert got.pooled is None and want.pooled is None


def test_other_batches_differ_by_a_rounding_at_most(samples, tmp_path):
    extract(samples, tmp_path, recipe(FeatureExtractionConfig, num_workers=0, batch_size=4))
    fresh, cached = tiny_png.dataset(samples), tiny_png.dataset(samples, store=stored(tmp_path))
    want = inputs(collate([fresh[i] for i in (0, 1, 2)]))
    got = inputs(collate([cached[i] for i in (0, 1, 2)]))
    assert want.context.shape == (3, 2, tiny_png.TEXT)
    assert torch.equal(got.valid, want.valid)
    torch.testing.assert_close(got.latents, want.latents, rtol=ULP, atol=1e-7)
    torch.testing.assert_close(got.context, want.context, rtol=ULP, atol=1e-7)


def test_rounding_stays_below_its_bound(samples):
    batch = collate([tiny_png.dataset(samples)[0]])
    exact, rounded = inputs(batch, "float32"), inputs(batch)
    error = (rounded.latents - exact.latents).abs() / exact.latents.abs()
    assert 0 < error.max() < 2.0**-11 * 1.001


def test_no_image_is_read_with_a_store(samples, tmp_path):
    extract(samples, tmp_path / "features")
    for sample in samples[:4]:
        sample.image_path.unlink()
    cached = tiny_png.dataset(samples, store=stored(tmp_path / "features"))
    batch = collate([cached[0], cached[1]])
    assert batch.images is None and batch.features is not None
    assert batch.targets.shape == (2, 2, 16, 16)
    assert batch.features.latents.shape == (2, 4, 8, 8)
    assert batch.features.valid.tolist() == [[True, True], [True, True]]
    assert batch.features.latents.dtype == torch.float16
    moved = batch.to("meta")
    assert moved.features is not None and moved.features.context.device.type == "meta"
    assert moved.features.valid.dtype == torch.bool and moved.images is None


def test_all_tensors_of_a_batch_are_pinned(samples, tmp_path, monkeypatch):
    extract(samples, tmp_path)
    cached = tiny_png.dataset(samples, store=stored(tmp_path))
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.clone())  # there is no GPU
    for dataset in (cached, tiny_png.dataset(samples)):
        batch = collate([dataset[0], dataset[1]])
        pinned = batch.pin_memory()
        parts = [(pinned, batch), (pinned.features, batch.features)]
        held = [(vars(a), vars(b)) for a, b in parts if a is not None and b is not None]
        assert len(held) == 1 + (dataset is cached)
        for after, before in held:
            for name, value in before.items():
                if isinstance(value, Tensor):
                    assert torch.equal(after[name], value) and after[name] is not value, name


def test_padded_phrases_are_not_valid(samples, tmp_path):
    samples[0] = replace(samples[0], phrases=samples[0].phrases[:1])
    extract(samples, tmp_path)
    batch = collate([tiny_png.dataset(samples, store=stored(tmp_path))[i] for i in (0, 1)])
    assert batch.features is not None
    assert batch.features.valid.tolist() == [[True, False], [True, True]]
    assert not batch.features.context[0, 1].any()


def test_pooled_text_goes_along(samples):
    item = tiny_png.dataset(samples)[0]
    kept = FrozenInputs(torch.ones(4, 8, 8), torch.ones(2, 3), torch.tensor([True, True]))
    pooled = [replace(kept, pooled=torch.full((5,), value)) for value in (1.0, 2.0)]
    batch = collate([replace(item, image=None, features=features) for features in pooled])
    assert batch.features is not None and batch.features.pooled is not None
    assert batch.to("cpu").features.pooled.tolist() == [[1.0] * 5, [2.0] * 5]


def test_narratives_share_their_images_latents(samples, tmp_path):
    report = extract(samples, tmp_path)
    assert report["narratives"] == 6 and report["images"] == 4 and report["items"] == 6
    store = stored(tmp_path)
    assert torch.equal(store.get(samples[0]).latents, store.get(samples[4]).latents)
    keys: list[str] = []
    for path in sorted(store.folder.glob("latents-*.safetensors")):
        with safe_open(path, framework="pt") as shard:
            keys += shard.keys()
    assert sorted(keys) == ["1", "2", "3", "4"]


def test_an_extraction_is_shared_out_and_goes_on(samples, tmp_path):
    parts = [WorkConfig(shard=ShardConfig(index=i, count=2)) for i in (0, 1)]
    shards = [ONE.model_copy(update={"work": part}) for part in parts]
    first = extract(samples, tmp_path, shards[0])
    folder = tmp_path / first["folder"]
    assert (first["made"], first["complete"]) == (3, False)
    assert {path.name[:7] for path in folder.glob("*.safe*")} == {"latents", "phrases"}
    second = extract(samples, tmp_path, shards[1])
    assert (second["made"], second["complete"]) == (3, True)
    assert extract(samples, tmp_path)["kept"] == 6
    extract(samples, tmp_path / "alone")
    before = contents(KEY.folder(tmp_path / "alone"))
    assert contents(folder) == before and len(before) == 6
    flipped = bytearray(before["latents-00000.safetensors"])
    flipped[-3] ^= 1  # changes no size
    (folder / "latents-00000.safetensors").write_bytes(flipped)
    assert FeatureStore.open(tmp_path, KEY) is None
    assert extract(samples, tmp_path)["made"] == 1 and contents(folder) == before


def test_blocks_of_another_size_take_the_place_of_the_old_ones(samples, tmp_path):
    folder = tmp_path / extract(samples[:3], tmp_path)["folder"]
    large = ONE.model_copy(update={"block_size": 6})
    assert extract(samples[:3], tmp_path, large)["made"] == 0, "they are there"
    (folder / "notes.txt").write_text("mine")
    assert extract(samples, tmp_path, large)["made"] == 2 and stored(tmp_path).covers(samples)
    names = ["latents-00000.safetensors", "phrases-00000.safetensors"]
    assert sorted(path.name for path in folder.glob("*.safetensors")) == names
    assert (folder / "notes.txt").read_text() == "mine"


def test_the_store_of_a_split_knows_model_and_data(samples, tmp_path):
    backbone, png = tiny_png.backbone(), tiny_png.config()
    read = Narratives.read(tmp_path / "coco", "train2017", "auto", limit=None, max_phrases=30)
    extract(samples, tmp_path, key=feature_key(png, read, backbone))
    assert stored(tmp_path, feature_key(png, read, backbone)).covers(samples)
    half = copy.deepcopy(backbone).to(torch.bfloat16)
    for other in (
        feature_key(png, replace(read, max_phrases=None), backbone),
        feature_key(png, read, tiny_png.backbone(1)),
        feature_key(png, read, half),
    ):
        assert FeatureStore.open(tmp_path, other) is None


def test_more_narratives_extend_the_store(samples, tmp_path):
    extract(samples[:3], tmp_path)
    assert not stored(tmp_path).covers(samples)
    with pytest.raises(InputError, match=f"{samples[3].id}: not among .* feature_extraction"):
        stored(tmp_path).get(samples[3])
    assert extract(samples, tmp_path)["made"] == 4  # the first two are as they were
    assert stored(tmp_path).covers(samples)
    assert extract(samples[:3], tmp_path)["made"] == 0


def test_broken_images_are_skipped_until_they_are_mended(samples, tmp_path):
    path, root = samples[0].image_path, tmp_path / "features"
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    report = extract(samples, root)
    assert report["complete"]
    problems = {(row["item"], row["file"]) for row in report["skipped"]["problems"]}
    assert problems == {(samples[0].id, str(path)), (samples[4].id, str(path))}
    store = stored(root)
    with pytest.raises(InputError, match=rf"{samples[4].id}: skipped .*{path.name}"):
        store.get(samples[4])
    assert store.covers(samples) and store.get(samples[1]).latents.shape == (4, 8, 8)
    assert extract(samples, root)["made"] == 0
    path.write_bytes(whole)
    report = extract(samples, root)
    assert report["made"] == 1 and not report["skipped"]["skipped"]
    assert stored(root).get(samples[4]).latents.shape == (4, 8, 8)


def test_a_replaced_image_is_noticed(samples, tmp_path):
    """Under an unchanged JSON, and of the same size; another date alone is none."""
    path, root = samples[1].image_path, tmp_path / "features"
    extract(samples, root)
    old = stored(root).get(samples[1]).latents
    os.utime(path, (0, 0))
    assert stored(root).covers(samples)
    write_png(path, 255 - read_image(path))
    assert not stored(root).covers(samples)
    assert extract(samples, root)["made"] == 1 and stored(root).covers(samples)
    assert not torch.equal(stored(root).get(samples[1]).latents, old)


def test_an_image_that_the_system_denies_is_not_left_out_for_good(samples, tmp_path, monkeypatch):
    def denied(sample):
        raise InputError.denied(sample.image_path, OSError(errno.ESTALE, "stale"))

    with monkeypatch.context() as patch:
        patch.setattr(feature_extraction, "load_image", denied)
        report = extract(samples[:2], tmp_path)
    assert (report["complete"], report["made"]) == (False, 1)
    assert report["skipped"]["by_field"] == {"access": 1}
    report = extract(samples[:2], tmp_path)
    assert (report["complete"], report["made"], report["skipped"]["skipped"]) == (True, 1, 0)


def test_captions_that_are_refused_are_skipped(samples, tmp_path):
    phrase = replace(samples[1].phrases[0], text="x" * 100, start=0, end=100)
    samples[1] = replace(samples[1], caption="x" * 100, phrases=(phrase,))
    report = extract(samples, tmp_path, recipe(FeatureExtractionConfig, num_workers=0))
    assert [p["item"] for p in report["skipped"]["problems"]] == [samples[1].id]
    with pytest.raises(InputError, match="skipped by the extraction: caption 'xxx"):
        stored(tmp_path).get(samples[1])
    assert stored(tmp_path).get(samples[0]).valid.all()
    assert extract(samples, tmp_path)["made"] == 0


def test_what_does_not_fit_is_refused(samples, tmp_path):
    huge = copy.deepcopy(tiny_png.backbone())
    with torch.no_grad():
        huge.text_encoders[0].get_submodule("final_layer_norm").weight.mul_(1e8)
    with pytest.raises(InputError, match=r"1_0.context does not fit into float16"):
        extract(samples, tmp_path, backbone=huge)
    with pytest.raises(InputError, match="train2017: there is no narrative"):
        extract([], tmp_path)
    extract(samples, tmp_path)
    fewer = replace(samples[0], phrases=samples[0].phrases[:1])
    with pytest.raises(InputError, match="cached with 2 phrases, read with 1"):
        stored(tmp_path).get(fewer)
    batch = collate([tiny_png.dataset(samples, store=stored(tmp_path))[0]])
    with pytest.raises(InputError, match="frozen_precision is float32"):
        inputs(batch, "float32")


def test_workers_read_the_store_and_the_images(samples, tmp_path):
    extract(samples, tmp_path, recipe(FeatureExtractionConfig, num_workers=2, batch_size=1))
    cached = tiny_png.dataset(samples, store=stored(tmp_path))
    alone = [cached[index] for index in range(len(samples))]  # opens shards before the fork
    loader = DataLoader(cached, batch_size=2, num_workers=2, collate_fn=collate)
    for start, batch in zip((0, 2, 4), loader, strict=True):
        want = collate(alone[start : start + 2])
        assert batch.ids == want.ids and torch.equal(batch.features.latents, want.features.latents)
        assert torch.equal(batch.features.context, want.features.context)


class Head(nn.Module):
    """Something to train on frozen inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Conv2d(4, 8, 1), nn.Linear(tiny_png.TEXT, 8)

    def forward(self, batch: PngBatch) -> Tensor:
        found = inputs(batch)
        maps = torch.einsum("bchw,bkc->bkhw", self.image(found.latents), self.text(found.context))
        return nn.functional.interpolate(maps, size=batch.mask_size)


@pytest.mark.parametrize("mixed", ["no", "bf16"])
def test_training_from_the_cache_is_training_without(samples, tmp_path, mixed):
    """Also under autocast, which the frozen model does not take part in."""
    extract(samples, tmp_path / "features")
    histories = []
    for name, data in {
        "computed": tiny_png.dataset(samples),
        "cached": tiny_png.dataset(samples, store=stored(tmp_path / "features")),
    }.items():
        result = train(
            model=Head(),
            loss_fn=lambda model, batch: {
                "loss": nn.functional.binary_cross_entropy_with_logits(
                    model(batch).float(), batch.targets
                )
            },
            dataset=data,
            collate=collate,
            config=TrainConfig(
                max_steps=5, batch_size=1, learning_rate=0.01, log_every=1, mixed_precision=mixed
            ),
            folder=tmp_path / name,
        )
        histories.append(result.history)
    assert histories[0] == histories[1] and len(histories[0]) == 5
    assert histories[0][0]["loss"] != histories[0][4]["loss"]


def test_the_pipeline_extracts_both_splits(tmp_path):
    from diffground.pipelines.png import create_pipeline

    coco = tiny_png.make_benchmark(tmp_path / "coco")
    png = tiny_png.config(data={"max_phrases": 1}, eval={"limit": 3})
    write_png(tmp_path / "coco/images/train2017/000000000001.png", tiny_png._draw(1)[0][:32])
    root, folder = tmp_path / "features", tiny_png.backbone().folder
    inputs = {
        "coco": coco,
        "stable_diffusion": folder,
        "png_features_folder": root,
        "params:png": png,
        "params:feature_extraction": ONE,
    }
    made = run_in_memory(create_pipeline(["features"]), inputs)
    report = made["png_features_report"]
    assert made["png_features"] == {name: root / report[name]["folder"] for name in report}
    assert [report[name]["narratives"] for name in ("train", "val")] == [4, 3]
    assert report["train"]["skipped"]["by_field"] == {"size": 1}
    for read in (made["png_train_narratives"], made["png_val_narratives"]):
        assert FeatureStore.open(root, feature_key(png, read, tiny_png.backbone()))
