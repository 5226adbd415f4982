"""The public names: few, lazy, with short representations."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_png

import diffground
from diffground import FrozenDiffusion, PhraseMasks, TextToMask
from diffground.papers.text2mask.config import TextToMaskConfig


@pytest.mark.parametrize("module", ["diffground", "diffground.console"])
def test_importing_it_loads_no_torch(root: Path, module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'kedro', 'numpy'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(root / "src")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []


def test_every_name_is_there_and_known_to_type_checkers() -> None:
    for name in diffground.__all__:
        assert getattr(diffground, name).__name__ == name and name in dir(diffground)
    tree = ast.parse(Path(diffground.__file__).read_text("utf-8"))
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("diffground.")
        for alias in node.names
    }
    assert typed == diffground._HOMES and sorted(typed) == diffground.__all__
    with pytest.raises(AttributeError, match="no attribute 'TextToMasks'"):
        diffground.TextToMasks  # noqa: B018


def test_models_and_results_say_in_a_line_what_they_are() -> None:
    model = tiny_png.backbone()
    assert isinstance(model, FrozenDiffusion)
    assert repr(model) == f"<FrozenDiffusion {model.folder.name}: sd1, float32 on cpu>"
    segmenter = TextToMask(model, TextToMaskConfig(crf=None))
    assert repr(segmenter) == (
        f"<TextToMask of {model.folder.name}: selfcross, compat official, no CRF, any words>"
    )
    result = segmenter(np.full((40, 60, 3), 90, np.uint8), ["cat"])
    assert isinstance(result, PhraseMasks)
    assert repr(result).startswith("<TextMasks of 60x40 pixels: 'cat' ")
