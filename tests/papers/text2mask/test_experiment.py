"""Maps, masks and mIoU of a split: what they depend on, what they share, and resuming."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from tiny_text2mask import config, frozen, split, world

from diffground.attention.aggregate import class_maps, initial_labels
from diffground.errors import InputError
from diffground.io.images import write_png
from diffground.io.labels import read_labels
from diffground.masks.crf import dense_crf
from diffground.masks.mask_files import mask_path
from diffground.masks.uncertainty import uncertain
from diffground.metrics.miou import Confusion
from diffground.papers.text2mask.experiment import aggregate, label, measure
from diffground.papers.text2mask.segmenter_training import segmenter_folder, train_segmenter
from diffground.papers.text2mask.text_to_mask import TextToMask


def test_maps_masks_and_scores(tmp_path):
    one = split(tmp_path)
    report = aggregate(one, frozen())
    assert report["complete"] and report["made"] == report["images"] == 10 and report["seconds"] > 0
    assert report["unusable"]["skipped"] == 0
    masks = label(one)
    assert masks["complete"] and masks["made"] == 10

    sample = one.samples[3]
    maps = one.class_maps(sample.id)
    ids = np.array([0, *(one.words.index(name) for name in sample.classes)])
    initial = read_labels(mask_path(one.masks, sample.id, "initial"))
    assert (initial == ids[initial_labels(maps, one.config.attention)]).all()
    assert set(np.unique(read_labels(mask_path(one.masks, sample.id)))) <= {*ids, 255}

    scores = measure(one)
    assert scores["split"] == "train_aug" and scores["skipped"]["skipped"] == 0
    for layer, key in (("initial", "initial"), ("label", "dcrf")):
        confusion = Confusion(one.classes)
        for sample in one.samples:
            found = read_labels(mask_path(one.masks, sample.id, layer))
            confusion.update(found, sample.load_mask(found.shape))
        assert scores[key] == confusion.result()

    again = aggregate(one, frozen())
    assert again["made"] == 0 and again["seconds"] == report["seconds"]
    assert label(one)["made"] == 0 and measure(one) == scores


def test_masks_of_either_crf_are_told_apart(tmp_path, monkeypatch):
    compiled = split(tmp_path, masks={"crf": {"iterations": 2, "backend": "pydensecrf"}})
    monkeypatch.setattr("diffground.masks.crf.find_spec", lambda name: None)
    one = split(tmp_path)
    assert one.maps == compiled.maps and one.masks != compiled.masks
    assert one.masks == split(tmp_path, masks={"crf": {"iterations": 2, "backend": "torch"}}).masks
    aggregate(one, frozen())
    assert label(one)["made"] == 10 and measure(one)["crf"] == "torch"


def test_thresholds_are_those_of_the_vocabulary_or_of_the_dataset(tmp_path):
    def thresholds(**changes) -> tuple[float, float]:
        return split(tmp_path, **changes).config.attention.thresholds

    official = {"attention": {"compat": "official"}}
    assert thresholds(**official) == (0.2, 0.5)
    assert thresholds(vocabulary="coco", **official) == (0.5, 0.35)
    coco = {"source": {"dataset": "coco2014", "split": "train"}}
    assert thresholds(**coco, **official) == (0.5, 0.35) and thresholds(**coco) == (0.2, 0.5)
    chosen = {"attention": {"compat": "official", "box_threshold": 0.4}}
    assert thresholds(**coco, **chosen) == (0.4, 0.35)
    assert split(tmp_path, attention={"background_threshold": 0.5}).masks == split(tmp_path).masks


def test_what_maps_and_masks_depend_on(tmp_path):
    base = split(tmp_path)

    def same(**changes) -> tuple[bool, bool]:
        other = split(tmp_path, **changes)
        return other.maps == base.maps, other.masks == base.masks

    assert same() == (True, True)
    assert same(device="auto", work={"workers": 3}, figures=0, segmenter=None) == (True, True)
    assert same(attention={"noise_batch": 1}) == (True, True)
    assert same(limit=2) == (True, True)  # the same folder, filled further
    assert same(masks={"threshold": 0.9}) == (True, False)
    assert same(attention={"background_power": 3.0}) == (True, False)
    assert same(attention={"background_threshold": 0.4}) == (True, False)
    assert same(attention={"method": "cross"}) == (True, False)
    assert same(attention={"method": "cross+selfcross"}) == (True, False)
    for change in (
        {"attention": {"noises": 2}},
        {"attention": {"method": "cbp"}},
        {"attention": {"method": "daam_trajectory"}},
        {"attention": {"sharpen": 2.0}},
        {"query": {"style": "separate"}},
        {"query": {"lead": "the"}},
        {"seed": 1},
        {"precision": "bfloat16"},
    ):
        assert same(**change) == (False, False), change
    assert split(tmp_path, model=1).maps != base.maps


def test_compat_is_one_switch(tmp_path):
    """Of the maps, the CRF's picture and the 255s; no file is shared between the two."""
    modes = [split(tmp_path, limit=3, attention={"compat": c}) for c in ("official", "paper")]
    assert modes[0].maps != modes[1].maps and modes[0].masks != modes[1].masks
    for one in modes:
        compat = one.config.compat
        aggregate(one, frozen())
        label(one)
        for sample in one.samples:
            work = one.mask_work(sample)
            posterior = dense_crf(work.image, work.scores, one.config.masks.crf, compat)
            labels = np.array(work.label_ids)[posterior.argmax(0)]
            scores = posterior if compat == "official" else work.scores
            unsure = uncertain(scores, compat, 0.5)  # 1 - threshold
            found = read_labels(mask_path(one.masks, sample.id))
            assert (read_labels(mask_path(one.masks, sample.id, "label")) == labels).all()
            assert (found == np.where(unsure, 255, labels)).all()


def test_no_setting_but_the_switch_says_compat():
    """So no row of a table can mix the two."""
    switches = [path for path in _keys_of(config().model_dump(mode="json")) if "compat" in path]
    assert switches == ["attention.compat"]


def _keys_of(content: dict, prefix: str = "") -> list[str]:
    found = []
    for name, value in content.items():
        found.append(prefix + name)
        found += _keys_of(value, f"{prefix}{name}.") if isinstance(value, dict) else []
    return found


@pytest.mark.parametrize("compat", ["official", "paper"])
@pytest.mark.parametrize("method", ["cross", "cross+selfcross"])
def test_shared_maps_are_those_of_the_method(tmp_path, method, compat):
    one = split(tmp_path, limit=1, attention={"method": method, "noises": 2, "compat": compat})
    aggregate(one, frozen())
    sample = one.samples[0]
    asked = one.method.model_copy(update={"attention": one.config.attention})
    segmenter = TextToMask(frozen().model, asked, one.words)
    direct = class_maps(
        segmenter.model,
        sample.load_image(),
        segmenter.prompts(sample.classes),
        one.config.attention,
        item=sample.id,
        seed=one.config.seed,
    )
    found = one.class_maps(sample.id)
    torch.testing.assert_close(found.maps, direct.maps, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.peaks, direct.peaks, atol=1e-3, rtol=0)
    shared = split(tmp_path, limit=1, attention={"noises": 2, "compat": compat}).maps
    assert (one.maps == shared) is (compat == "official"), "masks of draws cannot be shared"


def test_a_longer_list_fills_the_folder_further(tmp_path):
    few = split(tmp_path, limit=2)
    assert aggregate(few, frozen())["made"] == label(few)["made"] == 2
    more = split(tmp_path, limit=3)
    assert aggregate(more, frozen())["made"] == label(more)["made"] == 1
    assert measure(few)["dcrf"]["images"] == 2 and measure(more)["dcrf"]["images"] == 3


def test_broken_images_and_masks_are_reported(tmp_path):
    data = Path(shutil.copytree(world(), tmp_path / "data"))
    voc = next(data.glob("voc2012/**/VOC2012"))
    names = [sample.id for sample in split(tmp_path, data).samples]
    (voc / f"JPEGImages/{names[0]}.jpg").write_bytes(b"\xff\xd8")
    (voc / f"JPEGImages/{names[1]}.jpg").unlink()
    whole = split(tmp_path, data)
    assert len(whole.samples) == 9 and whole.report.problems[0].item == names[1]
    assert aggregate(whole, frozen())["skipped"]["problems"][0]["item"] == names[0]
    assert label(whole)["skipped"]["problems"][0]["item"] == names[0]
    result = measure(whole)
    assert result["dcrf"]["images"] == 8
    assert result["skipped"]["problems"][0]["item"] == names[0]


def without_manifest(tmp_path) -> tuple[Path, Path]:
    """A copy of the tiny world as if it had been downloaded, and its VOC."""
    data = Path(shutil.copytree(world(), tmp_path / "data"))
    for manifest in data.rglob("manifest.json"):
        manifest.unlink()
    return data, next(data.glob("voc2012/**/VOC2012"))


def test_another_image_in_downloaded_data_is_seen(tmp_path):
    data, voc = without_manifest(tmp_path)
    one = split(tmp_path, data)
    aggregate(one, frozen())
    label(one)
    names = [sample.id for sample in one.samples]
    small = Image.new("RGB", (48, 32), (200, 40, 40))
    small.save(voc / f"JPEGImages/{names[0]}.jpg")
    shutil.rmtree(one.masks)
    found = label(one)["skipped"]["problems"]
    assert [row["item"] for row in found] == [names[0]] and "another image" in found[0]["reason"]
    before = segmenter_folder(one, tmp_path / "models")
    assert aggregate(one, frozen())["made"] == 1 and label(one)["made"] == 1
    assert segmenter_folder(one, tmp_path / "models") != before, "another training, not a refusal"
    shutil.copy(voc / f"JPEGImages/{names[2]}.jpg", voc / f"JPEGImages/{names[1]}.jpg")
    assert aggregate(one, frozen())["made"] == 1
    assert label(one)["made"] == 1, "what was made from older maps is made again"


def test_other_classes_in_downloaded_data_are_seen(tmp_path):
    data, voc = without_manifest(tmp_path)
    one = split(tmp_path, data)
    aggregate(one, frozen())
    sample = next(s for s in one.samples if "mug" not in s.classes)
    truth = sample.load_mask(sample.load_image().shape[:2]).copy()
    truth[0, 0] = one.words.index("mug")
    write_png(sample.mask_path, truth)
    other = split(tmp_path, data)
    assert other.maps == one.maps and aggregate(other, frozen())["made"] == 1
    assert "mug" in other.class_maps(sample.id).keys


def test_a_shard_alone_is_not_learnt_from(tmp_path):
    shards = [split(tmp_path, work={"shard": {"index": i, "count": 2}}) for i in (0, 1)]
    for index, part in enumerate(shards):
        aggregate(part, frozen())
        assert label(part)["complete"] is measure(part)["complete"] is bool(index)
        if not index:
            with pytest.raises(InputError, match="every shard"):
                train_segmenter(part, tmp_path / "models")
    assert train_segmenter(shards[1], tmp_path / "models")["images"] == 10


def test_a_folder_s_names_number_all_splits(tmp_path):
    images = tmp_path / "data/images"
    images.mkdir(parents=True)
    one, two = split(tmp_path).samples[:2]
    for sample in (one, two):
        shutil.copy(sample.image_path, images)
    (images / "labels.csv").write_text(f"image,labels\n{one.image_path.name},cat;dog;mug\n")
    (images / "val.csv").write_text(
        f"image,labels\n{one.image_path.name},dog;mug\n{two.image_path.name},cow\n"
    )
    source, val = (
        {"dataset": "folder", "csv": name, "split": None} for name in ("labels.csv", "val.csv")
    )
    given = {"source": source, "val": val, "vocabulary": None}
    found = [split(tmp_path, tmp_path / "data", part, **given) for part in ("source", "val")]
    assert found[1].classes == found[0].classes == ("background", "cat", "dog", "mug")
    assert [problem.item for problem in found[1].report.problems] == [two.id]
    (images / "val.csv").write_text(f"image,labels,mask\n{one.image_path.name},dog,\n")
    with pytest.raises(InputError, match="which label ids"):
        split(tmp_path, tmp_path / "data", **given)


def test_a_folder_of_ones_own_needs_no_vocabulary(tmp_path):
    images = tmp_path / "data/images"
    images.mkdir(parents=True)
    lines = ["image,labels"]
    for sample in split(tmp_path).samples[:2]:
        shutil.copy(sample.image_path, images)
        lines.append(f"{sample.image_path.name},mug;cat")
    (images / "labels.csv").write_text("\n".join(lines))
    source = {"dataset": "folder", "split": None}
    own = split(tmp_path, tmp_path / "data", source=source, val=None, vocabulary=None)
    assert own.classes == ("background", "cat", "mug") and own.maps.name.startswith("folder-")
    aggregate(own, frozen())
    assert label(own)["made"] == 2
    scores = measure(own)
    assert scores["dcrf"]["miou"] is None and scores["skipped"]["skipped"] == 2


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(InputError, match="vocabulary"):
        split(tmp_path, vocabulary=None)
    with pytest.raises(InputError, match="none of 10 lines"):
        split(tmp_path, vocabulary=str(_one_word(tmp_path)))
    with pytest.raises(ValidationError, match="split"):
        config(source={"split": "everything"})
    with pytest.raises(ValidationError, match="typo"):
        config(typo=1)


def _one_word(folder: Path) -> Path:
    path = folder / "words.json"
    path.write_text('{"classes": {"200": {"name": "zebra"}}}')
    return path
