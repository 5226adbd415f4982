"""Label files: by a pool, by several processes, and by runs that were killed; the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_semantic import NAMES, NETWORK, scene

from diffground.config import Compat
from diffground.errors import InputError
from diffground.io import write_png
from diffground.io.labels import read_labels, write_labels
from diffground.masks.crf import CrfConfig
from diffground.segmenters import prediction
from diffground.segmenters.crops import LabelledImage
from diffground.segmenters.deeplab import DeepLabV2, normalise
from diffground.segmenters.label_files import RECIPE
from diffground.segmenters.prediction import PredictConfig, SemanticSegmenter, predict

CRF = CrfConfig(backend="torch", iterations=2)
MADE_BY = {"model": "this one"}


class Killed(RuntimeError):
    """Stands for the end of the process."""


class Counting(SemanticSegmenter):
    """Counts the images it is asked about, and may end in the middle."""

    asked = 0
    end = 99

    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.asked == self.end:
            raise Killed
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


def segmenter(crf: CrfConfig | None = CRF, end: int = 99, compat: Compat = "official") -> Counting:
    made = Counting(network(), PredictConfig(crf=crf), compat=compat)
    made.end = end
    return made


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


def test_a_pool_gives_the_same_files_and_numbers(
    samples: list[LabelledImage], tmp_path: Path
) -> None:
    streamed = predict(segmenter(), samples)
    assert streamed["images"] == 5 and streamed["scores"]["images"] == 4
    problems = streamed["skipped"]["problems"]
    assert [problem["item"] for problem in problems] == ["3", "lost"]
    alone = predict(segmenter(), samples, folder=tmp_path / "alone")
    pooled = predict(segmenter(), samples, folder=tmp_path / "pooled", workers=1, look_ahead=2)
    assert alone == pooled == streamed
    assert predict(segmenter(), samples[:3], workers=1) == predict(segmenter(), samples[:3])
    assert files(tmp_path / "alone") == files(tmp_path / "pooled")
    assert set(files(tmp_path / "alone")) == {"0.png", "1.png", "2.png", "4.png", "free.png"}
    assert len(np.unique(read_labels(tmp_path / "alone" / "0.png"))) > 1, "it says something"
    assert not (tmp_path / "alone" / RECIPE).exists(), "nobody said what these are"


def test_a_killed_run_goes_on(samples: list[LabelledImage], tmp_path: Path) -> None:
    whole = predict(segmenter(), samples, folder=tmp_path / "whole", recipe=MADE_BY)
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        predict(segmenter(end=3), samples, folder=cut, recipe=MADE_BY)
    assert set(files(cut)) == {"0.png", "1.png", "2.png"}
    (cut / ".4-0123.part").write_bytes(b"half")
    (cut / "1.png").write_bytes((cut / "1.png").read_bytes()[:-40])  # somebody's full disk
    write_labels(cut / "2.png", np.full((38, 44), 255, np.uint8))  # none of ours
    rest = segmenter()
    assert predict(rest, samples, folder=cut, recipe=MADE_BY) == whole
    assert rest.asked == 4  # 1, 2, 4 and the one without a true mask
    assert files(cut) == files(tmp_path / "whole") and not list(cut.glob(".*.part"))
    again = segmenter()
    assert predict(again, samples, folder=cut, recipe=MADE_BY) == whole and again.asked == 0


def test_files_of_another_recipe_are_made_again(
    samples: list[LabelledImage], tmp_path: Path
) -> None:
    def asked(
        chosen: list[LabelledImage],
        crf: CrfConfig | None,
        recipe: dict[str, str],
        compat: Compat = "official",
    ) -> int:
        made = segmenter(crf, compat=compat)
        got = predict(made, chosen, folder=tmp_path, recipe=recipe)
        assert got == predict(segmenter(CRF if crf else None, compat=compat), chosen)
        return made.asked

    few = samples[:3]
    predict(segmenter(None), samples[:1], folder=tmp_path)  # by nobody knows whom
    assert asked(few, CRF, MADE_BY) == 3
    assert asked(few, CRF.model_copy(update={"device": "meta"}), MADE_BY) == 0  # says not what
    assert asked(few, CRF, MADE_BY, "paper") == 3
    assert asked(few, None, MADE_BY) == 3
    assert asked(few, None, MADE_BY, "paper") == 0, "it is of the CRF alone"
    assert asked(few[:1], None, {"model": "another"}) == 1
    assert asked(few, None, {"model": "another"}) == 2, "those of the first are not trusted"
    assert asked(few[:2], None, {"model": "another"}) == 0
    assert asked(few, None, {"model": "another"}) == 0
    (tmp_path / RECIPE).write_text("{", "utf-8")
    assert asked(few, None, {"model": "another"}) == 3


def test_what_no_image_is_to_blame_for_ends_the_run(
    samples: list[LabelledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffground.masks.crf.find_spec", lambda name: None)
    for folder in (None, tmp_path):
        with pytest.raises(InputError, match="pydensecrf is not installed"):
            predict(segmenter(CrfConfig(backend="pydensecrf")), samples, folder=folder)
    with pytest.raises(InputError, match="occurs twice"):
        predict(segmenter(), [samples[0], samples[0]], folder=tmp_path)


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
    got = t.predict(made, samples, folder=out, recipe=t.MADE_BY, workers=1)
    view = {"result": got, "asked": made.asked, "alone": t.predict(made, samples)}
    (root / f"{processes().process_index}.json").write_text(json.dumps(view))
"""


def test_two_processes_share_the_images(tmp_path: Path) -> None:
    samples = samples_in(tmp_path / "samples")
    want = predict(segmenter(), samples, folder=tmp_path / "whole")
    out = tmp_path / "out"
    predict(segmenter(), samples[:2], folder=out, recipe=MADE_BY)
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
    assert sum(view["asked"] for view in views) == 3, "the others were there"
    assert files(out) == files(tmp_path / "whole")


def test_labels_of_other_code_are_written_again(
    samples: list[LabelledImage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made_by: Callable[[str], str],
) -> None:
    def asked(digit: str) -> tuple[int, set[str]]:
        """How many images the network was asked for, and whose files now lie there."""
        made_by(digit)
        made = segmenter()
        predict(made, samples[:2], folder=tmp_path, recipe=MADE_BY)
        return made.asked, set(json.loads((tmp_path / RECIPE).read_text())["ids"].values())

    assert asked("a") == (2, {"a" * 40})
    assert asked("b") == (0, {"a" * 40})
    (tmp_path / "1.png").unlink()
    assert asked("b") == (1, {"a" * 40, "b" * 40})
    monkeypatch.setattr(prediction, "CODE_VERSION", 2)
    assert asked("c") == (2, {"c" * 40})
    assert f"{tmp_path} is made again, as the code is another one: prediction 1 → 2" in caplog.text
