"""Progress of long loops: a bar for whoever watches, and hardly a word elsewhere."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from transformers.utils import logging as of_transformers

from diffground.backbone.folder import without_bars
from diffground.progress import Progress, progress
from diffground.segmenters.instance import InstanceSegmenter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_one_line(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    assert list(progress(range(5000), "maps")) == list(range(5000))
    shown = "".join(capfd.readouterr())
    assert "\r" not in shown and "%|" not in shown
    assert [record.message for record in caplog.records] == ["maps: 5000 of 5000, 0 s"]


def test_a_long_loop_gives_signs_of_life(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of 7 seconds: a line every half minute, with what is left."""
    caplog.set_level(logging.INFO)
    clock = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    with Progress(20, "training", done=8) as bar:
        for step in range(12):
            clock[0] += 7
            bar.update(note=f"loss {step}")
    assert [record.message for record in caplog.records] == [
        "training: 13 of 20, 35 s, 49 s to go, loss 4",
        "training: 18 of 20, 1 min 10 s, 14 s to go, loss 9",
        "training: 20 of 20, 1 min 24 s, loss 11",
    ]


def test_a_loop_that_breaks_says_how_far_it_came(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(RuntimeError), Progress(9, "masks") as bar:
        bar.update(2)
        raise RuntimeError
    assert caplog.records[-1].message.startswith("masks: 2 of 9")


@pytest.mark.parametrize("quiet", [{"hidden": True}, {"done": 3}])
def test_nothing_to_show(caplog: pytest.LogCaptureFixture, quiet: dict[str, int]) -> None:
    caplog.set_level(logging.INFO)
    with Progress(3, "masks", **quiet) as bar:  # type: ignore[arg-type]
        bar.update()
    assert not caplog.records


def test_a_terminal_gets_a_bar(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(2_000_000, "weights", unit="B") as bar:
        bar.update(500_000)
        bar.update(1_500_000, "unet")
    last = terminal.getvalue().split("\r")[-1]
    assert "weights" in last and "2.00M/2.00M" in last and "unet" in last
    assert not caplog.records


def test_a_notebook_keeps_one_line_of_a_cell(tmp_path: Path, root: Path) -> None:
    cells = [
        f"import sys; sys.path.insert(0, {str(root / 'src')!r})\n"
        "import diffground.progress as p; p.SHOW_EVERY = 0",
        "for name in ('maps', 'masks'):\n    for i in p.progress(range(50), name): pass",
        "for i in p.progress(range(3), 'labels'): pass",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(notebook, tmp_path / "loops.ipynb")
    done = papermill.execute_notebook(
        tmp_path / "loops.ipynb", tmp_path / "done.ipynb", kernel_name="python3", progress_bar=False
    )
    outputs = [cell["outputs"] for cell in done.cells]
    shown = [[output["data"]["text/plain"] for output in outs] for outs in outputs]
    assert shown == [[], ["masks: 50 of 50, 0 s"], ["labels: 3 of 3, 0 s"]]


def test_every_loop_uses_it(root: Path) -> None:
    source = root / "src/diffground"
    users = [path for path in source.rglob("*.py") if "tqdm" in path.read_text("utf-8")]
    assert users == [source / "progress.py"]


def test_loading_is_silent(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    InstanceSegmenter.from_pretrained(root / "data/06_models/mini-segmenter")
    assert "%|" not in capfd.readouterr().err
    assert of_transformers.is_progress_bar_enabled(), "as it was before"
    of_transformers.disable_progress_bar()
    with without_bars():
        pass
    assert not of_transformers.is_progress_bar_enabled(), "as it was before"
    of_transformers.enable_progress_bar()
