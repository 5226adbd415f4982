"""The maps of a dataset as files: whole, resumed, in parts, and what could not be made."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny_text2mask
import torch
from PIL import Image

from diffground.attention.aggregate import class_maps
from diffground.data.labelled_images import load_image
from diffground.errors import InputError
from diffground.papers.text2mask.map_files import maps_path, read_maps, write_maps
from diffground.papers.text2mask.text_to_mask import TextToMask
from diffground.store.config import ShardConfig
from diffground.store.manifest import is_valid

RECIPE = {"model": "tiny"}


@pytest.fixture(scope="module")
def samples():
    return tiny_text2mask.split(tiny_text2mask.world()).samples[:4]


@pytest.fixture(scope="module")
def segmenter():
    split = tiny_text2mask.split(tiny_text2mask.world())
    return TextToMask(tiny_text2mask.frozen().model, split.method, split.words)


def stamps(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def test_what_is_read_is_what_was_made(tmp_path, samples, segmenter):
    report = write_maps(lambda: segmenter, samples, tmp_path, RECIPE, seed=1)
    assert report["complete"] and (report["items"], report["made"], report["kept"]) == (4, 4, 0)
    assert is_valid(tmp_path)
    sample = samples[1]
    found = read_maps(tmp_path, sample.id)
    image, config = load_image(sample), segmenter.config.attention
    prompts = segmenter.prompts(sample.classes)
    made = class_maps(segmenter.model, image, prompts, config, item=sample.id, seed=1)
    assert (found.keys, found.geometry) == (made.keys, made.geometry)
    torch.testing.assert_close(found.maps, made.maps, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.cross, made.cross, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.peaks, made.peaks, atol=1e-3, rtol=0)


def test_only_what_is_missing_or_broken_is_made(tmp_path, samples, segmenter):
    write_maps(lambda: segmenter, samples, tmp_path, RECIPE, seed=1)
    before = stamps(tmp_path)
    again = write_maps(lambda: segmenter, samples, tmp_path, RECIPE, seed=1)
    assert (again["made"], again["kept"]) == (0, 4) and stamps(tmp_path) == before
    maps_path(tmp_path, samples[0].id).unlink()
    maps_path(tmp_path, samples[2].id).write_bytes(b"cut short")
    (tmp_path / ".left-by-a-killed-run.part").touch()
    mended = write_maps(lambda: segmenter, samples, tmp_path, RECIPE, seed=1)
    assert (mended["made"], mended["kept"]) == (2, 2) and mended["complete"]
    assert not list(tmp_path.glob(".*.part"))
    kept = {maps_path(tmp_path, samples[index].id).name for index in (1, 3)}
    assert all(stamps(tmp_path)[name] == before[name] for name in kept)
    other = write_maps(lambda: segmenter, samples, tmp_path, {"model": "another"}, seed=1)
    assert other["made"] == 4


def test_without_anything_to_make_no_model_is_loaded(tmp_path, samples, segmenter):
    first = write_maps(lambda: segmenter, samples, tmp_path, RECIPE, seed=1)
    again = write_maps(lambda: pytest.fail("loaded"), samples, tmp_path, RECIPE, seed=1)
    assert first["seconds"] > 0 == again["seconds"]


def test_another_image_or_other_classes_are_made_again(tmp_path, samples, segmenter):
    image = tmp_path / "image.jpg"
    shutil.copy(samples[0].image_path, image)
    one = replace(samples[0], image_path=image)
    folder = tmp_path / "maps"

    def made(*given) -> int:
        return write_maps(lambda: segmenter, given, folder, RECIPE, seed=1)["made"]

    assert (made(one, samples[1]), made(one, samples[1])) == (2, 0)
    shutil.copy(samples[2].image_path, image)
    assert (made(one, samples[1]), made(one, samples[1])) == (1, 0)
    other = replace(one, classes=("mug",))
    assert made(other, samples[1]) == 1 and read_maps(folder, one.id).keys == ("mug",)


@pytest.mark.parametrize("place", [-5, 60])
def test_damaged_maps_are_made_again(tmp_path, samples, segmenter, place):
    """A flipped bit among the numbers or in the header changes no size."""
    write_maps(lambda: segmenter, samples, tmp_path, RECIPE, seed=1)
    path = maps_path(tmp_path, samples[2].id)
    before = path.read_bytes()
    flipped = bytearray(before)
    flipped[place] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(InputError, match=rf"{path.name}: maps: "):
        read_maps(tmp_path, samples[2].id)
    report = write_maps(lambda: segmenter, samples, tmp_path, RECIPE, seed=1)
    assert (report["made"], report["kept"]) == (1, 3) and path.read_bytes() == before


def test_an_image_of_the_same_size_in_bytes_is_another_one(tmp_path, samples, segmenter):
    image, folder = tmp_path / "image.png", tmp_path / "maps"
    pixels = np.zeros((64, 64, 3), np.uint8)
    sample = replace(samples[0], image_path=image)

    def made() -> int:
        return write_maps(lambda: segmenter, [sample], folder, RECIPE, seed=1)["made"]

    Image.fromarray(pixels).save(image, compress_level=0)
    assert made() == 1
    os.utime(image, (0, 0))
    assert made() == 0, "a copy of the data has other dates"
    Image.fromarray(255 - pixels).save(image, compress_level=0)
    assert (made(), made()) == (1, 0)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_damaged_problem_files_are_written_again(tmp_path, samples, segmenter, content):
    given = [*samples, replace(samples[2], id="broken", classes=())]
    write_maps(lambda: segmenter, given, tmp_path, RECIPE, seed=1)
    (notes,) = tmp_path.glob("problems-*.json")
    before = notes.read_text()
    notes.write_text(content)
    report = write_maps(lambda: segmenter, given, tmp_path, RECIPE, seed=1)
    assert report["complete"] and report["made"] == 0 and notes.read_text() == before


def test_a_mended_image_is_tried_again(tmp_path, samples, segmenter):
    image = tmp_path / "image.jpg"
    given = [replace(samples[0], image_path=image), samples[1]]
    whole = samples[0].image_path.read_bytes()
    image.write_bytes(whole[:300])
    folder = tmp_path / "maps"
    first = write_maps(lambda: segmenter, given, folder, RECIPE, seed=1)
    assert first["complete"] and first["made"] == 1 and first["skipped"]["skipped"] == 1
    image.write_bytes(whole)
    mended = write_maps(lambda: segmenter, given, folder, RECIPE, seed=1)
    assert (mended["complete"], mended["made"], mended["skipped"]["skipped"]) == (True, 1, 0)


def test_parts_are_whole_together(tmp_path, samples, segmenter):
    first = write_maps(
        lambda: segmenter, samples, tmp_path, RECIPE, seed=1, shard=ShardConfig(count=2)
    )
    assert (first["items"], first["made"], first["complete"]) == (2, 2, False)
    part = ShardConfig(index=1, count=2)
    second = write_maps(lambda: segmenter, samples, tmp_path, RECIPE, seed=1, shard=part)
    assert second["complete"] and is_valid(tmp_path)
    alone = tmp_path / "alone"
    write_maps(lambda: segmenter, samples, alone, RECIPE, seed=1)
    for sample in samples:
        name = maps_path(tmp_path, sample.id).name
        assert (alone / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_broken_image_is_reported_every_time_and_hinders_nothing(tmp_path, samples, segmenter):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0")
    given = [samples[0], replace(samples[1], image_path=broken), replace(samples[2], classes=())]
    folder = tmp_path / "maps"
    for made, kept in ((1, 0), (0, 1)):
        report = write_maps(lambda: segmenter, given, folder, RECIPE, seed=1)
        assert report["complete"] and (report["made"], report["kept"]) == (made, kept)
        items = [problem["item"] for problem in report["skipped"]["problems"]]
        assert items == [samples[1].id, samples[2].id]
    part = ShardConfig(index=1, count=2)
    shutil.rmtree(folder)
    for shard in (ShardConfig(count=2), part):
        report = write_maps(lambda: segmenter, given, folder, RECIPE, seed=1, shard=shard)
    assert report["complete"]
    with pytest.raises(InputError, match="can be read"):
        read_maps(folder, samples[1].id)


def test_maps_are_in_range(tmp_path, samples, segmenter):
    write_maps(lambda: segmenter, samples[:1], tmp_path, RECIPE, seed=1)
    maps = read_maps(tmp_path, samples[0].id).maps.numpy()
    assert maps.dtype == np.float32 and maps.min() == 0 and maps.max() == 1
