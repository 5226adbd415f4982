"""The maps of a dataset as files: whole, resumed, in parts, and what could not be made."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny_text2mask
import torch

from diffground.attention.aggregate import class_maps
from diffground.errors import InputError
from diffground.papers.text2mask.map_files import maps_path, read_maps, write_maps
from diffground.papers.text2mask.text_to_mask import TextToMask
from diffground.store.config import ShardConfig, WorkConfig
from diffground.store.manifest import is_valid

RECIPE = {"model": "tiny"}


@pytest.fixture(scope="module")
def samples():
    return tiny_text2mask.split(tiny_text2mask.world()).samples[:4]


@pytest.fixture(scope="module")
def segmenter():
    split = tiny_text2mask.split(tiny_text2mask.world())
    return TextToMask(tiny_text2mask.frozen().model, split.method, split.words)


@pytest.fixture
def write(segmenter):
    def written(samples, folder, recipe=RECIPE, open_segmenter=lambda: segmenter, **shard):
        work = WorkConfig(shard=ShardConfig(**shard))
        return write_maps(open_segmenter, samples, folder, recipe, seed=1, work=work)

    return written


def test_what_is_read_is_what_was_made(tmp_path, samples, segmenter, write):
    report = write(samples, tmp_path)
    assert report["complete"] and (report["items"], report["made"], report["kept"]) == (4, 4, 0)
    assert is_valid(tmp_path)
    sample = samples[1]
    found = read_maps(tmp_path, sample.id)
    image, config = sample.load_image(), segmenter.config.attention
    prompts = segmenter.prompts(sample.classes)
    made = class_maps(segmenter.model, image, prompts, config, item=sample.id, seed=1)
    assert (found.keys, found.geometry) == (made.keys, made.geometry)
    for name in ("maps", "cross", "peaks"):
        torch.testing.assert_close(getattr(found, name), getattr(made, name), atol=1e-3, rtol=0)
    maps = found.maps.numpy()
    assert maps.dtype == np.float32 and maps.min() == 0 and maps.max() == 1


def test_shards_write_the_same_and_load_no_model_for_nothing(tmp_path, samples, write):
    parts = [write(samples, tmp_path, index=index, count=2) for index in (0, 1)]
    assert [part["complete"] for part in parts] == [False, True]
    write(samples, tmp_path / "alone")
    for sample in samples:
        name = maps_path(tmp_path, sample.id).name
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / name).read_bytes()
    maps_path(tmp_path, samples[0].id).unlink()
    assert write(samples, tmp_path)["made"] == 1
    found = write(samples, tmp_path, open_segmenter=lambda: pytest.fail("loaded"))
    assert found["kept"] == 4 and found["seconds"] == 0
    assert write(samples, tmp_path, {"model": "another"})["made"] == 4


def test_another_image_or_other_classes_are_made_again(tmp_path, samples, write):
    image = tmp_path / "image.jpg"
    shutil.copy(samples[0].image_path, image)
    one = replace(samples[0], image_path=image)
    folder = tmp_path / "maps"

    def made(*given) -> int:
        return write(given, folder)["made"]

    assert (made(one, samples[1]), made(one, samples[1])) == (2, 0)
    shutil.copy(samples[2].image_path, image)
    assert (made(one, samples[1]), made(one, samples[1])) == (1, 0)
    other = replace(one, classes=("mug",))
    assert made(other, samples[1]) == 1 and read_maps(folder, one.id).keys == ("mug",)


@pytest.mark.parametrize("place", [-5, 60, None])
def test_damaged_maps_are_not_read(tmp_path, samples, write, place):
    """A flipped bit among the numbers or in the header changes no size."""
    write(samples[2:3], tmp_path)
    path = maps_path(tmp_path, samples[2].id)
    before = path.read_bytes()
    spoilt = bytearray(before)
    if place is None:
        del spoilt[100:]
    else:
        spoilt[place] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(InputError, match=rf"{path.name}: maps: .*attention_aggregation makes"):
        read_maps(tmp_path, samples[2].id)
    assert write(samples[2:3], tmp_path)["made"] == 1 and path.read_bytes() == before


def test_a_broken_image_and_one_without_classes_hinder_nothing(tmp_path, samples, write):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0")
    given = [samples[0], replace(samples[1], image_path=broken), replace(samples[2], classes=())]
    report = write(given, tmp_path / "maps")
    assert report["complete"] and report["made"] == 1
    items = [problem["item"] for problem in report["skipped"]["problems"]]
    assert items == [samples[1].id, samples[2].id]
    with pytest.raises(InputError, match="can be read"):
        read_maps(tmp_path / "maps", samples[1].id)
