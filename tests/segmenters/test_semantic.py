"""Training on label masks and predicting: crops, broken files, resume, files and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from torch.utils.data import DataLoader

from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError
from diffground.io.images import write_png
from diffground.io.labels import read_labels, write_labels
from diffground.masks.crf import CrfConfig, dense_crf
from diffground.metrics.miou import Confusion
from diffground.segmenters.crops import (
    LabelledCrops,
    augment,
    draws_for,
    usable,
)
from diffground.segmenters.deeplab import DeepLabConfig, DeepLabV2, normalise
from diffground.segmenters.prediction import (
    VOC_SERVER,
    PredictConfig,
    SemanticSegmenter,
    predict,
)
from diffground.segmenters.semantic import (
    MODEL,
    SemanticConfig,
    train_semantic,
)

NAMES = ("background", "red", "blue")
NETWORK = DeepLabConfig.model_validate({
    "init": "random", "batch_norm": "trained", "stem_pooling": False, "output_stride": 4,
    "shape": {"layer_type": "basic", "depths": [1, 1], "hidden_sizes": [8, 12],
              "embedding_size": 8},
    "rates": [1, 2], "scales": [1.0, 0.5], "mean": [0.5] * 3, "std": [0.5] * 3,
})  # fmt: skip
CONFIG = SemanticConfig.model_validate({
    "network": NETWORK,
    "crop": 32,
    "train": {"max_steps": 60, "batch_size": 6, "learning_rate": 0.01, "weight_decay": 0.0,
              "log_every": 10, "checkpoint_every": 20, "evaluate_every": 0, "schedule": "poly"},
})  # fmt: skip


def scene(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A red and a blue box on grey, and their labels; the sizes differ from image to image."""
    random = np.random.default_rng(number)
    height, width = 36 + number % 3, 44
    image = random.integers(90, 130, (height, width, 3), dtype=np.uint8)
    labels = np.zeros((height, width), np.uint8)
    for label in (1, 2):
        top, left = random.integers(0, 20), random.integers(0, 28)
        box = np.s_[top : top + 16, left : left + 16]
        image[box] = (200, 30, 30) if label == 1 else (30, 30, 200)
        labels[box] = label
    labels[0] = 255
    return image, labels


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    root = tmp_path_factory.mktemp("pairs")
    samples = []
    for number in range(16):
        image, labels = scene(number)
        write_png(root / f"{number}.png", image)
        write_labels(root / "labels" / f"{number}.png", labels)
        samples.append(
            LabelledImage(str(number), root / f"{number}.png", root / f"labels/{number}.png")
        )
    return samples


@pytest.fixture(scope="module")
def trained(pairs: list[LabelledImage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    summary = train_semantic(pairs[:12], NAMES, CONFIG, folder)
    assert (summary["trained"], summary["images"], summary["steps"]) == (True, 12, 60)
    assert summary["history"][-1]["loss"] < 0.5 * summary["history"][0]["loss"]
    return folder


def test_it_learns_and_generalises(trained: Path, pairs: list[LabelledImage]) -> None:
    segmenter = SemanticSegmenter(DeepLabV2.from_pretrained(trained / MODEL), PredictConfig())
    assert segmenter.model.classes == NAMES
    result = predict(segmenter, pairs[12:])
    assert result["scores"]["miou"] > 60, result  # an untrained one: 25
    assert result["images"] == 4 and result["skipped"]["skipped"] == 0


def test_a_finished_training_is_kept_and_another_one_refused(
    trained: Path, pairs: list[LabelledImage]
) -> None:
    again = train_semantic(pairs[:12], NAMES, CONFIG, trained)
    assert not again["trained"] and again["images"] == 12
    with pytest.raises(InputError, match="another configuration"):
        train_semantic(pairs[:11], NAMES, CONFIG, trained)


def test_evaluates_while_it_trains(pairs: list[LabelledImage], tmp_path: Path) -> None:
    steps = CONFIG.train.model_copy(update={"max_steps": 4, "evaluate_every": 2})
    seen: dict[int, dict[str, float]] = {}
    summary = train_semantic(
        pairs[:6], NAMES, CONFIG.model_copy(update={"train": steps}), tmp_path, val=pairs[12:],
        on_log=lambda row, step: seen.update({step: row}) if "eval/miou" in row else None,
    )  # fmt: skip
    assert set(seen) == {2, 4} and 0 <= summary["metrics"]["miou"] <= 100


def test_trains_with_sgd_and_the_public_rates(pairs: list[LabelledImage], tmp_path: Path) -> None:
    """Momentum, poly, ten times the rate for the ASPP's weights and twenty for its biases."""
    content = CONFIG.train.model_dump() | {
        "max_steps": 5, "optimizer": "sgd", "momentum": 0.9, "learning_rate": 2.5e-3,
        "rate_factors": {"aspp.": 10, "aspp.0.bias": 20, "aspp.1.bias": 20}, "grad_clip": 0,
        "decay_factors": {"aspp.0.bias": 0, "aspp.1.bias": 0},
    }  # fmt: skip
    config = SemanticConfig(network=NETWORK, crop=CONFIG.crop, train=content)
    assert train_semantic(pairs[:6], NAMES, config, tmp_path)["steps"] == 5


def test_a_crop_depends_on_its_item_and_draw_only(pairs: list[LabelledImage]) -> None:
    crops = LabelledCrops(pairs[:3], 3, 12, NETWORK, draws=4, seed=1)
    assert len(crops) == 12
    reordered = LabelledCrops(pairs[2::-1], 3, 12, NETWORK, draws=9, seed=1)
    for draw in range(4):
        a, b = crops[draw * 3 + 0], reordered[draw * 3 + 2]
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert len({crops[draw * 3][0].numpy().tobytes() for draw in range(4)}) == 4
    other = LabelledCrops(pairs[:3], 3, 12, NETWORK, draws=4, seed=2)
    assert not torch.equal(other[0][0], crops[0][0])
    by_worker = DataLoader(crops, batch_size=5, num_workers=2)
    got = torch.cat([labels for _, labels in by_worker])
    assert torch.equal(got, torch.stack([crops[i][1] for i in range(12)]))
    pixels, labels = crops[0]
    assert (pixels.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert pixels.shape == (3, 12, 12) and labels.shape == (12, 12)
    assert draws_for(20_000, 10, 10_582) == 19


def test_pixels_and_labels_stay_together() -> None:
    """Labels painted as grey values: every crop shows the same in both, padding included."""
    labels = torch.zeros(20, 30, dtype=torch.long)
    labels[5:, 12:] = 1
    pixels = labels.float().expand(3, -1, -1)
    seen = set()
    for draw in range(60):
        random = torch.Generator().manual_seed(draw)
        x, y = augment(pixels, labels, 24, random)
        known = y != 255
        assert not x[:, ~known].any()  # padded with the mean colour
        agree = ((x[0] > 0.5).long() == y)[known].float().mean()
        assert agree > 0.93, draw  # but for the edge, where pixels are blended
        seen.add((int(known.sum()), bool((x != x.flip(-1)).any())))
    assert len(seen) > 2
    x, y = augment(pixels, labels, 30, torch.Generator().manual_seed(10))  # neither
    assert torch.equal(x[:, :20], pixels) and torch.equal(y[:20], labels)
    assert (y[20:] == 255).all()


def test_broken_pairs_are_listed_and_the_rest_is_kept(
    pairs: list[LabelledImage], tmp_path: Path
) -> None:
    def broken(name: str, labels: NDArray[np.uint8] | None) -> LabelledImage:
        path = tmp_path / f"{name}.png"
        if labels is not None:
            write_labels(path, labels)
        return LabelledImage(name, pairs[0].image_path, path)

    height, width = scene(0)[1].shape
    empty = np.full((height, width), 255, np.uint8)
    strange = np.full((height, width), 7, np.uint8)
    cut = LabelledImage("cut", tmp_path / "cut.jpg", pairs[0].mask_path)
    Image.fromarray(scene(0)[0]).save(cut.image_path)
    cut.image_path.write_bytes(cut.image_path.read_bytes()[:-300])  # the header is whole
    bad = [
        broken("small", np.zeros((3, 4), np.uint8)), broken("lost", None),
        broken("empty", empty), broken("strange", strange), cut,
        LabelledImage("none", pairs[0].image_path, None),
    ]  # fmt: skip
    good, report = usable([*bad, *pairs[:2]], 3)
    assert [sample.id for sample in good] == ["0", "1"]
    assert report.total == 8
    found = {problem.item: problem for problem in report.problems}
    assert set(found) == {sample.id for sample in bad}
    assert found["small"].file.endswith("small.png") and "4x3" in found["small"].reason
    assert found["cut"].file.endswith("cut.jpg")
    quick, report = usable([*bad, *pairs[:2]], 3, deep=False)
    assert {problem.item for problem in report.problems} == {"small", "lost", "none"}
    with pytest.raises(InputError, match="none of 6"):
        train_semantic(bad, NAMES, CONFIG, tmp_path / "out")


def test_prediction_takes_the_crf(trained: Path, pairs: list[LabelledImage]) -> None:
    image = pairs[12].load_image()
    segmenter = SemanticSegmenter(DeepLabV2.from_pretrained(trained / MODEL), PredictConfig())
    got = segmenter.probabilities(image)
    whole = normalise(torch.from_numpy(image).permute(2, 0, 1), NETWORK)[None]
    with torch.no_grad():
        scores = segmenter.model(whole)[-1]
    want = torch.nn.functional.interpolate(scores, image.shape[:2], mode="bilinear").softmax(1)[0]
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)
    np.testing.assert_allclose(got.sum(0), 1, atol=1e-5)
    assert np.array_equal(segmenter(image), got.argmax(0))
    crf = CrfConfig(backend="torch")
    refining = PredictConfig(crf=crf)
    for compat in ("official", "paper"):
        refined = SemanticSegmenter(segmenter.model, refining, compat=compat)
        assert np.array_equal(refined(image), dense_crf(image, got, crf, compat).argmax(0))
    assert np.array_equal(segmenter(Image.fromarray(image)), segmenter(image))


def test_predictions_are_written_and_scored(
    trained: Path, pairs: list[LabelledImage], tmp_path: Path
) -> None:
    segmenter = SemanticSegmenter(DeepLabV2.from_pretrained(trained / MODEL), PredictConfig())
    cut = LabelledImage("cut", tmp_path / "missing.jpg", None)
    unlabelled = LabelledImage("2012_000001", pairs[15].image_path, None)
    samples, out = [*pairs[12:], cut, unlabelled], tmp_path / VOC_SERVER
    result = predict(segmenter, samples, folder=out, recipe={"model": "this one"})
    want = Confusion(NAMES)
    for sample in pairs[12:]:
        assert sample.mask_path is not None
        written = read_labels(tmp_path / VOC_SERVER / f"{sample.id}.png", classes=3)
        assert np.array_equal(written, segmenter(sample.load_image()))
        want.update(written, read_labels(sample.mask_path))
    assert result["scores"] == want.result()
    assert result["images"] == 5
    assert [p["item"] for p in result["skipped"]["problems"]] == ["cut"]
    names = {path.name for path in out.glob("*.png")}
    assert names == {"12.png", "13.png", "14.png", "15.png", "2012_000001.png"}
    with Image.open(tmp_path / VOC_SERVER / "2012_000001.png") as picture:
        assert picture.mode == "P" and picture.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    assert predict(segmenter, [unlabelled])["scores"] is None


def test_configurations_that_cannot_work() -> None:
    train = CONFIG.train.model_dump()
    with pytest.raises(ValidationError, match="batch"):
        SemanticConfig(network=NETWORK, train=train | {"batch_size": 1})
    for wrong in ({"crop": 0}, {"crops": 3}):
        with pytest.raises(ValidationError):
            SemanticConfig(network=NETWORK, train=train, **wrong)
