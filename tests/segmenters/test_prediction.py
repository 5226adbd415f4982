"""Label files: by a pool, and by several processes; the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_semantic import NAMES, NETWORK, scene

from diffground.config import Compat
from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError
from diffground.io.images import write_png
from diffground.io.labels import read_labels, write_labels
from diffground.masks.crf import CrfConfig
from diffground.segmenters import prediction
from diffground.segmenters.deeplab import DeepLabV2, normalise
from diffground.segmenters.prediction import PredictConfig, SemanticSegmenter, predict
from diffground.store.manifest import is_valid

CRF = CrfConfig(backend="torch", iterations=2)
MADE_BY = {"model": "this one"}


class Counting(SemanticSegmenter):
    """Counts the images it is asked about."""

    asked = 0

    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.asked += 1
        return super().probabilities(image)


def network() -> DeepLabV2:
    """An untrained one, whose labels vary."""
    model = DeepLabV2.build(NETWORK, NAMES, seed=1)
    image = torch.from_numpy(scene(0)[0]).permute(2, 0, 1)
    with torch.no_grad():
        for branch in model.aspp:
            branch.weight.mul_(300)
        model.aspp[0].bias -= model.eval()(normalise(image, NETWORK)[None])[-1].mean((0, 2, 3))
    return model


def segmenter(crf: CrfConfig | None = CRF, compat: Compat = "official") -> Counting:
    return Counting(network(), PredictConfig(crf=crf), compat=compat)


def samples_in(root: Path) -> list[LabelledImage]:
    """Five images with true masks, one of them broken, one image without, and one that is lost."""
    samples = []
    for number in range(5):
        image, labels = scene(number)
        write_png(root / f"{number}.png", image)
        write_labels(root / "labels" / f"{number}.png", labels[:9] if number == 3 else labels)
        samples.append(
            LabelledImage(str(number), root / f"{number}.png", root / f"labels/{number}.png")
        )
    return [
        *samples,
        LabelledImage("free", root / "0.png", None),
        LabelledImage("lost", root / "lost.png", None),
    ]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    return samples_in(tmp_path_factory.mktemp("samples"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def kept(made: Counting, samples: list[LabelledImage], folder: Path, **how: Any) -> dict[str, Any]:
    return predict(made, samples, folder=folder, **{"recipe": MADE_BY, **how})


def test_a_pool_gives_the_same_files_and_numbers(
    samples: list[LabelledImage], tmp_path: Path
) -> None:
    nowhere = predict(segmenter(), samples)
    assert nowhere["images"] == 5 and nowhere["scores"]["images"] == 4
    problems = nowhere["skipped"]["problems"]
    assert [problem["item"] for problem in problems] == ["3", "lost"]
    alone = kept(segmenter(), samples, tmp_path / "alone")
    pooled = kept(segmenter(), samples, tmp_path / "pooled", workers=1)
    assert alone == pooled == nowhere
    assert predict(segmenter(), samples[:3], workers=1) == predict(segmenter(), samples[:3])
    assert files(tmp_path / "alone") == files(tmp_path / "pooled")
    assert set(files(tmp_path / "alone")) == {f"{s.id}.png" for s in samples} - {"lost.png"}
    assert len(np.unique(read_labels(tmp_path / "alone" / "0.png"))) > 1, "it says something"


def test_what_labels_depend_on(
    samples: list[LabelledImage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    few = [replace(sample, image_path=tmp_path / sample.image_path.name) for sample in samples[:2]]
    for sample, moved in zip(samples, few, strict=False):
        shutil.copy(sample.image_path, moved.image_path)

    def asked(crf: CrfConfig | None, compat: Compat = "official", model: str = "this one") -> int:
        made = segmenter(crf, compat=compat)
        got = kept(made, few, tmp_path / "labels", recipe={"model": model})
        assert got == predict(segmenter(CRF if crf else None, compat=compat), few)
        return made.asked

    assert (asked(CRF), asked(CRF.model_copy(update={"device": "meta"}))) == (2, 0)
    assert (asked(CRF, "paper"), asked(None)) == (2, 2)
    assert asked(None, "paper") == 0, "it is of the CRF alone"
    shutil.copy(samples[2].image_path, few[1].image_path)
    few[1] = replace(few[1], mask_path=samples[2].mask_path)
    assert asked(None) == 1
    assert asked(None, model="another") == 2 and "made again" not in caplog.text
    monkeypatch.setattr(prediction, "CODE_VERSION", 2)
    assert asked(None, model="another") == 2
    assert "made again, as the code is another one: prediction 1 → 2" in caplog.text


def test_what_no_image_is_to_blame_for_ends_the_run(
    samples: list[LabelledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffground.masks.crf.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pydensecrf is not installed"):
        predict(segmenter(CrfConfig(backend="pydensecrf")), samples)
    with pytest.raises(InputError, match="occurs twice"):
        kept(segmenter(), [samples[0], samples[0]], tmp_path)


SCRIPT = """
import json, sys
from collections.abc import Callable
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_prediction as t
from diffground.training.processes import processes
root, out = Path(sys.argv[2]), Path(sys.argv[3])
if __name__ == "__main__":
    processes()
    made = t.segmenter()
    samples = t.samples_in(root / str(processes().process_index))
    got = t.kept(made, samples, out, workers=1)
    view = {"result": got, "asked": made.asked, "alone": t.predict(made, samples)}
    (root / f"{processes().process_index}.json").write_text(json.dumps(view))
"""


def test_two_processes_share_the_images(tmp_path: Path) -> None:
    samples = samples_in(tmp_path / "samples")
    want = kept(segmenter(), samples, tmp_path / "whole")
    out = tmp_path / "out"
    kept(segmenter(), samples[:2], out)
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(tmp_path / "script.py"),
         str(Path(__file__).parent), str(tmp_path), str(out)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    views = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for view in views:
        for got in (view["result"], view["alone"]):
            assert got["scores"] == want["scores"] and got["images"] == want["images"]
            assert [p["item"] for p in got["skipped"]["problems"]] == ["3", "lost"]
    assert sum(view["asked"] for view in views) == 4, "the others were there"
    assert is_valid(out)
    assert files(out) == files(tmp_path / "whole")
