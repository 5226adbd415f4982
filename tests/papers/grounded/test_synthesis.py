"""Synthetic samples: what is kept, what is had from it again, choices, killed runs, bad inputs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_grounded
import torch
from tiny_foundation import CANVAS

from diffground.backbone import sampler
from diffground.errors import InputError
from diffground.foundation.scenes import captioned_scenes
from diffground.masks.phrase_masks import describe_mask
from diffground.papers.grounded.data_config import ChoiceConfig
from diffground.papers.grounded.feature_maps import feature_maps
from diffground.papers.grounded.features import FeatureReader, features, in_16_bits
from diffground.papers.grounded.generation import (
    _run_lengths,
    _thumbnail,
    generated,
    make_set,
    shown,
)
from diffground.papers.grounded.module_config import FeatureConfig
from diffground.papers.grounded.prompts import Attempt
from diffground.papers.grounded.samples import (
    Instance,
    Record,
    SyntheticSet,
    from_8_bits,
    in_8_bits,
    write_part,
)
from diffground.segmenters.instance import InstanceSegmenter
from diffground.store.config import ShardConfig, WorkConfig

MODULES = ("down_blocks.0", "mid_block", "up_blocks.3")
ALL = ChoiceConfig(least_score=0, instances="all", top=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set of five samples in three files."""
    root = tmp_path_factory.mktemp("synthetic")
    summary = tiny_grounded.made(root)
    assert summary["complete"] and summary["made"] == 3
    return root / summary["folder"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def test_a_sample_is_what_was_made(whole: Path) -> None:
    config = tiny_grounded.config()
    samples, refused = SyntheticSet.open(whole).chosen(ALL)
    assert not refused and [s.id for s in samples] == [f"train-{n:05d}" for n in range(5)]
    model = tiny_grounded.frozen().model
    asked = tiny_grounded.attempts(config)
    segmenter = InstanceSegmenter.from_pretrained(tiny_grounded.segmenter())
    for start in (0, 2, 4):
        last = generated(model, asked[start : start + 2], config.generation)
        for row, sample in enumerate(samples[start : start + 2]):
            attempt = asked[start + row]
            assert (sample.prompt, sample.names, sample.seed) == (
                attempt.prompt, attempt.names, attempt.seed,
            )  # fmt: skip
            assert sample.latent.dtype == torch.float16 and sample.timestep == last.timestep
            assert torch.equal(sample.latent.float(), last.entering[row]), "exact in 16 bits"
            torch.testing.assert_close(sample.picture, last.latents[row], atol=0.03, rtol=0)
            # The detector saw the picture that is had from the file, to the last bit.
            found = segmenter([shown(model, sample.picture)], threshold=0.0)[0]
            assert sample.masks.shape == (2, 64, 64)
            assert np.array_equal(sample.masks[0], found.masks.any(0))


def test_features_are_those_of_generation(whole: Path) -> None:
    """To the last bit, out of batches of two and into batches of five."""
    config, model = tiny_grounded.config(), tiny_grounded.frozen().model
    samples, _ = SyntheticSet.open(whole).chosen(ALL)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in MODULES}
    modules = dict(model.unet.named_modules())

    def keep(name: str):
        def hook(_, args, output):
            seen[name].append((output if isinstance(output, torch.Tensor) else output[0]).clone())

        return modules[name].register_forward_hook(hook)

    hooks = [keep(name) for name in MODULES]
    expected: dict[str, list[torch.Tensor]] = {name: [] for name in MODULES}
    asked = tiny_grounded.attempts(config)
    for start in (0, 2, 4):
        part = asked[start : start + 2]
        generated(model, part, config.generation)
        for name in MODULES:  # the last passes, one for each image
            expected[name] += seen[name][-len(part) :]
    for hook in hooks:
        hook.remove()
    both = features(model, list(samples), MODULES, guided=True)
    half = features(model, [samples[3]], MODULES, guided=False)
    for name in MODULES:
        assert torch.equal(both[name], torch.stack(expected[name]).flatten(1, 2))
        assert torch.equal(half[name], expected[name][3][1:])
        assert both[name].shape[1] == 2 * half[name].shape[1]


def test_one_step_without_guidance(tmp_path: Path) -> None:
    """As SDXL-Turbo: the only pass is the last one, and has one half."""
    generation = {"steps": 1, "guidance": 0.0, "scheduler": "EulerAncestralDiscreteScheduler"}
    config = tiny_grounded.config(generation=generation)
    summary = tiny_grounded.made(tmp_path, config)
    samples, _ = SyntheticSet.open(tmp_path / summary["folder"]).chosen(ALL)
    model = tiny_grounded.frozen().model
    assert not samples[0].guided
    assert features(model, list(samples), MODULES, guided=False)["mid_block"].shape[1] == 16
    with pytest.raises(InputError, match="no unconditional half"):
        features(model, list(samples), MODULES, guided=True)


def test_latents_in_8_bits() -> None:
    latents = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0))
    latents[3] = 0.5  # a channel without any range
    levels, ranges = in_8_bits(latents)
    again = from_8_bits(levels, ranges)
    step = (latents.amax((1, 2)) - latents.amin((1, 2))) / 255
    assert levels.dtype == torch.uint8
    assert bool(((again - latents).abs() <= (step / 2 + 1e-5)[:, None, None]).all())


def test_killed_runs_make_nothing_twice(whole: Path, tmp_path: Path) -> None:
    """kill -9 after the first file: nothing is lost, and the bytes are those of one run."""
    command = [
        sys.executable, tiny_grounded.__file__, str(tmp_path),
        str(tiny_grounded.frozen().folder), str(tiny_grounded.segmenter()), "5",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    report, deadline = tmp_path / whole.name / "shard-000-of-001.jsonl", time.monotonic() + 300
    while not (report.exists() and report.read_text().count("\n") >= 1):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folder = tmp_path / whole.name
    before = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    with pytest.raises(InputError, match="not all of them: run `kedro run"):
        SyntheticSet.open(folder)
    summary = tiny_grounded.made(tmp_path)
    assert summary["complete"] and 1 <= summary["kept"] < 3
    assert summary["made"] == 3 - summary["kept"]
    assert contents(folder) == contents(whole)
    kept = [path for path, then in before.items() if path.stat().st_mtime_ns == then]
    assert len(kept) >= summary["kept"]


def test_shards_share_the_files_out(whole: Path, tmp_path: Path) -> None:
    for index in (1, 0):
        work = WorkConfig(shard=ShardConfig(index=index, count=2))
        summary = tiny_grounded.made(tmp_path, tiny_grounded.config(work=work))
        assert summary["made"] == summary["items"] == 2 - index
    assert summary["complete"] and contents(tmp_path / summary["folder"]) == contents(whole)


def test_a_corrupted_file_is_named_and_made_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / whole.name
    shutil.copytree(whole, folder)
    path = folder / "part-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-20] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"part-00001.*damaged: run `kedro run"):
        SyntheticSet.open(folder)
    summary = tiny_grounded.made(tmp_path)
    assert (summary["made"], summary["kept"]) == (1, 2)
    assert contents(folder) == contents(whole)


def test_another_backbone_is_refused(whole: Path, tmp_path: Path) -> None:
    synthetic = SyntheticSet.open(whole)
    synthetic.check_model(tiny_grounded.frozen().fingerprint)
    with pytest.raises(InputError, match="the module is of another diffusion model"):
        synthetic.check_model("0123456789abcdef", "the module")


def test_bad_inputs(tmp_path: Path) -> None:
    name = tiny_grounded.attempts(tiny_grounded.config())[0].names[0]
    asked = tiny_grounded.config(detector={"floor": 0.0, "names": {name: ["sphere"]}})
    with pytest.raises(InputError, match=rf"json: class: the detector does not know '{name}'"):
        tiny_grounded.made(tmp_path, asked)
    unknown = tiny_grounded.config(generation={"scheduler": "FlowMatchEulerDiscreteScheduler"})
    with pytest.raises(InputError, match="does not go with the folder's DDIMScheduler: .*PNDM"):
        tiny_grounded.made(tmp_path, unknown)
    config = tiny_grounded.config()
    prompts = [Attempt("train-00000", "a car", ("cat",), (), 0)]
    with pytest.raises(InputError, match="prompt train-00000: names: the class word 'cat'"):
        make_set(
            "train", prompts, tiny_grounded.frozen(), tiny_grounded.segmenter(), tmp_path, config
        )


def test_what_the_detector_misses_is_no_sample(tmp_path: Path) -> None:
    """A class that is called what is never seen is missing; the thumbnail stays, for the grid."""
    config = tiny_grounded.config()
    synthetic = SyntheticSet.open(tmp_path / tiny_grounded.made(tmp_path, config)["folder"])
    seen = {
        label
        for one in InstanceSegmenter.from_pretrained(tiny_grounded.segmenter())(
            [shown(tiny_grounded.frozen().model, s.picture) for s in synthetic.chosen(ALL)[0]],
            threshold=0.0,
        )
        for label in one.labels
    }
    never = next(label for label in tiny_grounded.EVERYTHING if label not in seen)
    unlucky = synthetic.records[0].names[0]
    names = {**config.detector.names, unlucky: (never,)}
    summary = tiny_grounded.made(
        tmp_path, tiny_grounded.config(detector={"floor": 0.0, "names": names})
    )
    stricter = SyntheticSet.open(tmp_path / summary["folder"])
    taken, refused = stricter.chosen(ALL)
    asked = {r.id for r in synthetic.records if unlucky in r.names}
    assert {*refused} == asked and {*refused.values()} == {"missing"}
    assert not {s.id for s in taken} & asked and len(taken) == 5 - len(asked)
    missed = next(record for record in stricter.records if record.id in asked)
    assert stricter.thumbnail(missed)[:2] == b"\xff\xd8"


def record(item: str, **changes) -> Record:
    fields = {
        "id": item, "prompt": "a cat and a car", "names": ("cat", "car"), "absent": ("mug",),
        "seed": 0, "kept": True, "reason": None, "size": (2, 3), "timestep": 1.0, "guided": True,
        "ranges": ((0.0, 1.0),) * 4, "instances": (),
    }  # fmt: skip
    return Record(**{**fields, **changes})


def instance(name: str, score: float, column: int) -> Instance:
    mask = np.zeros((2, 3), bool)
    mask[:, column] = True
    return Instance(name=name, score=score, segmentation=describe_mask(mask)["segmentation"])


@pytest.fixture
def scored(tmp_path: Path) -> SyntheticSet:
    """Three samples: two cats, one of them doubtful; a doubtful mug that is in no prompt."""
    car = instance("car", 0.9, 2)
    records = [
        record("a", instances=(instance("cat", 0.95, 0), car, instance("cat", 0.6, 1))),
        record("b", instances=(car, instance("cat", 0.5, 0))),
        record("c", instances=(instance("cat", 0.9, 0), car, instance("mug", 0.7, 1))),
        record("d", kept=False, reason="missing", instances=(car,)),
    ]
    path = tmp_path / "part.safetensors"
    tensors = {f"{r.id}.latent": torch.zeros(4, 1, 1, dtype=torch.float16) for r in records[:3]}
    tensors |= {f"{r.id}.picture": torch.zeros(4, 1, 1, dtype=torch.uint8) for r in records[:3]}
    write_part(path, records, tensors)
    return SyntheticSet(tmp_path, [path])


def test_the_score_filter_and_the_instances(scored: SyntheticSet) -> None:
    def choice(**changes) -> ChoiceConfig:
        return ChoiceConfig(**{"least_score": 0.05, "instances": "all", "top": 1.0, **changes})

    taken, refused = scored.chosen(choice())
    assert [s.id for s in taken] == ["a", "b", "c"] and refused == {"d": "missing"}
    assert taken[0].masks[0].sum() == 4 and taken[0].names == ("cat", "car", "mug")
    assert not taken[0].masks[2].any(), "an absent class has an empty mask"
    assert taken[2].names == ("cat", "car"), "the detector saw the mug that nobody asked for"
    first, _ = scored.chosen(choice(instances="first"))
    assert np.array_equal(first[0].masks[0], [[1, 0, 0]] * 2)
    surer, refused = scored.chosen(choice(least_score=0.8))
    assert [s.id for s in surer] == ["a", "c"] and refused["b"] == "low score"
    assert surer[0].masks[0].sum() == 2, "the doubtful cat is no instance any more"
    assert surer[1].names == ("cat", "car", "mug"), "nor is the doubtful mug there"


def test_the_best_pictures(scored: SyntheticSet) -> None:
    best = ChoiceConfig(least_score=0.05, instances="all", top=0.67)
    taken, refused = scored.chosen(best, {"a": 0.2, "b": 0.9, "c": 0.8})
    assert [s.id for s in taken] == ["b", "c"] and refused["a"] == "low quality"
    with pytest.raises(InputError, match="have not been scored"):
        scored.chosen(best)


def test_the_cache_of_features(whole: Path, tmp_path: Path) -> None:
    samples, _ = SyntheticSet.open(whole).chosen(ALL)
    frozen, config = tiny_grounded.frozen(), FeatureConfig(features="blocks", guided=False)
    reader = FeatureReader(frozen, config, tmp_path)
    kept = reader.of(samples[:2])(samples[:2])
    exact = features(frozen.model, list(samples[:2]), reader.modules, guided=False)
    assert [*exact] == [each.name for each in feature_maps(frozen.model.unet, "blocks")]
    for name, maps in exact.items():
        assert torch.equal(kept[name], maps.to(torch.float16))
        assert torch.equal(FeatureReader(frozen, config, None).of(samples)(samples[:2])[name], maps)
    files = sorted(tmp_path.glob("*/*.safetensors"))
    assert len(files) == 2
    before = [path.stat().st_mtime_ns for path in files]
    more = reader.of(samples[:3])
    assert [path.stat().st_mtime_ns for path in files] == before  # only the third is made
    assert more(samples[2:3]).keys() == exact.keys()
    with pytest.raises(InputError, match="train-00004.*cannot be read"):
        more([samples[4]])


def test_features_beyond_16_bits_stay_finite() -> None:
    large = torch.tensor([[7e4, -1e30, 65504.0, 0.1]])
    assert in_16_bits(large, "a").tolist() == [[65504.0, -65504.0, 65504.0, 0.0999755859375]]
    for bad in (torch.inf, torch.nan):
        with pytest.raises(InputError, match="sample a: features: are not finite"):
            in_16_bits(torch.tensor([bad]), "a")


def test_settings_of_prompts_keep_their_samples(tmp_path: Path) -> None:
    """Two class splits, made in turn, do not take each other's place; a longer set goes on."""
    first = tiny_grounded.made(tmp_path)
    other = tiny_grounded.made(tmp_path, tiny_grounded.config(prompts={"split": "mini2"}))
    assert other["folder"] != first["folder"] and other["made"] == 3
    assert tiny_grounded.made(tmp_path)["made"] == 0
    longer = {"train": {"classes": "seen", "attempts": 7, "draw": "random"}}
    more = tiny_grounded.made(tmp_path, tiny_grounded.config(sets=longer))
    assert more["folder"] == first["folder"] and more["kept"] == 2, "but for the last, half a batch"


def test_nothing_is_loaded_if_all_is_made(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        raise AssertionError("generated again")

    monkeypatch.setattr(sampler, "gaussian", fail)
    summary = tiny_grounded.made(whole.parent)
    assert (summary["made"], summary["kept"]) == (0, 3)


def test_a_sample_at_the_sizes_of_stable_diffusion(tmp_path: Path) -> None:
    """At most 64 KiB: noise for latents, which nothing makes smaller, and a picture of its size."""
    random = torch.Generator().manual_seed(0)
    (scene,) = captioned_scenes(7, 1, CANVAS._replace(size=512))
    image, segments = scene.rendering.image, scene.rendering.segments
    masks = [
        Instance(name="cat", score=0.9, segmentation=_run_lengths(scene.rendering.ids == s.number))
        for s in segments
    ]
    levels, ranges = in_8_bits(torch.randn(4, 64, 64, generator=random))
    one = record("a", ranges=ranges, size=(512, 512), instances=tuple(masks))
    tensors = {
        "a.latent": torch.randn(4, 64, 64, generator=random).half(),
        "a.picture": levels,
        "a.thumbnail": _thumbnail(image),
    }
    path = tmp_path / "part.safetensors"
    write_part(path, [one], tensors)
    assert image.shape == (512, 512, 3) and len(masks) > 2
    assert 50_000 < path.stat().st_size <= 64 * 1024
    size = SyntheticSet(tmp_path, [path]).size(one)
    assert size == pytest.approx(path.stat().st_size, abs=1000)
