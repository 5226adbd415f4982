"""The notebooks: clean in git, and they run from their first cell to their last."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
import pytest

from diffground.adapters.notebook_tables import TABLE

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@dataclass(frozen=True)
class Small:
    """Parameters that make a notebook small, and what it then writes and shows."""

    parameters: dict[str, Any]
    tables: str | None = None  # its file in data/08_reporting
    rows: tuple[int, ...] = ()  # of each table in that file
    pictures: int = 3  # exactly
    hidden: int = 0  # tables of that file that the notebook does not show, the last ones


def _params(*pairs: str) -> str:
    """As for ``kedro run --params``; the mini world is a handful of images."""
    world = ("coco_panoptic.train=16", "coco_panoptic.val=8", "voc2012.train=8", "voc2012.aug=1")
    world += ("voc2012.val=2", "voc2012.test=1", "coco2014.train=2", "coco2014.val=1")
    world += ("mug19.scenes=1", "mug19.views=1", "mug19.max_references=5")
    return ",".join([*(f"world.{pair}" for pair in world), *pairs])


_EAGER = "png.train.warmup_steps=0"  # two steps are too few for a slow start
_PNG = {"seeds": "0", "max_steps": 2, "params": _params("png_tables.figures=1", _EAGER)}
_TEXT2MASK = {
    "params": _params(
        "text2mask.attention.noises=1",
        "text2mask_tables.bins=3",
        "text2mask.segmenter.train.warmup_steps=0",
    )
}
_PERSONALIZED = {
    "params": _params(
        "personalized.learning.prior.count=2",
        "personalized.learning.prior.steps=1",
        "personalized.learning.train.max_steps=1",
        "personalized_tables.figures=1",
    )
}
_ONE_SEED = _PERSONALIZED | {"seeds": "0"}
# The detector passes about a third of what the mini model makes in a few steps.
_FEW = {"train": 16, "val": 16, "test_seen": 6, "test_unseen": 6}
_GROUNDED = {
    "params": _params(
        *(f"grounding_data.sets.{name}.attempts={n}" for name, n in _FEW.items()),
        "grounding_data.sets.test_mixed.attempts=6",
        "grounding_data.choice.least_score=0.05",
        "grounding_data.generation.steps=6",
        "grounding_train.train.epochs=1",
        "grounding_train.train.batch_size=1",
        "grounding_train.train.evaluations=1",
        "grounded_tables.attempts.train=16",
        "grounded_tables.epochs.1=1",
        "grounded_tables.epochs.10=1",
    )
}
_TABLES = _GROUNDED | {"seeds": "0"}
_IOSD = {
    "seeds": "0",
    "params": _params(
        *(f"iosd_tables.attempts.{name}={n}" for name, n in _FEW.items()),
        "iosd_data.choice.least_score=0.05",
        "grounding_data.generation.steps=6",
        "iosd_train.train.epochs=1",
        "iosd_train.train.batch_size=1",
    ),
}
# Everything that the four methods learn, for a step or two.
_ALL = _params(
    _EAGER,
    "png.train.batch_size=4",
    "personalized.learning.prior.count=2",
    "personalized.learning.prior.steps=1",
    "grounding_data.choice.least_score=0.05",
    "grounding_data.generation.steps=6",
    "grounding_train.train.epochs=1",
    "grounding_train.train.batch_size=1",
    "grounding_train.train.evaluations=1",
)
SMALL = {
    "00_quickstart": Small(
        {"grounder_steps": 2, "pictures": 24, "token_steps": 1, "params": _ALL}, pictures=5
    ),
    "01_look_inside": Small(
        {"layers": "6,13,15", "timesteps": "1,300", "params": _params()}, pictures=6
    ),
    "png_components": Small(_PNG | {"rows": "Baseline;+ EIPA + MLMA"}, "png_tables", (2,), 4),
    # Once with all nouns, and with each set held out, which leaves few of the few narratives.
    "png_insertion": Small(
        {**_PNG, "rows": "UNet blind;Encoder"}
        | {"params": _params("png_tables.figures=1", _EAGER, "png.train.batch_size=4")},
        "png_tables",
        (2, 2, 2),
        4,
    ),
    "png_mlma": Small(_PNG | {"rows": "Deform-Attn"}, "png_tables", (1,), 2),
    "text2mask_quickstart": Small(_TEXT2MASK),
    # Tables 5 and 1, two curves, and Figure D.9, which is always among them.
    "text2mask_attention": Small(
        _TEXT2MASK
        | {"rows": "Cross;SelfCross;1 noise", "cross_layers": "4,5;13", "self_layers": "13"}
        | {"pictures": 1},
        "text2mask_tables",
        (2, 1, 2, 1, 2),
        4,
        hidden=1,
    ),
    "text2mask_prompts": Small(
        _TEXT2MASK | {"rows": "separate;composed, BG."}, "text2mask_tables", (2, 2), 3, hidden=1
    ),
    "text2mask_sweeps": Small(
        _TEXT2MASK
        | {"timesteps": "1,100", "thresholds": "0.4,0.5", "powers": "1", "noises": "none"}
        | {"seeds": 40},
        "text2mask_tables",
        (2, 2, 2, 2),
        3,
    ),
    "text2mask_segmenter": Small(
        _TEXT2MASK
        | {"rows": "VOC 2012 trainaug;VOC 2012 val: DeepLabV2", "max_steps": 2, "pictures": 1},
        "text2mask_tables",
        (1, 1, 2),
        5,
        hidden=1,
    ),
    "personalized_quickstart": Small(_PERSONALIZED | {"steps": 1}),
    "personalized_splits": Small(
        _ONE_SEED | {"rows": "Ours;Context Only"}, "personalized_tables", (2,), 2
    ),
    "personalized_combinations": Small(
        _ONE_SEED | {"rows": "Custom + SelfCross"}, "personalized_tables", (1,), 1
    ),
    "personalized_variant": Small(
        _ONE_SEED | {"rows": "Context Only;Chance"}, "personalized_tables", (2,), 1
    ),
    "personalized_segments": Small(
        _ONE_SEED | {"rows": "connected segments", "tuning_scenes": 1},
        "personalized_tables",
        (1,),
        2,
    ),
    "grounded_quickstart": Small(_GROUNDED, pictures=4),
    "grounded_results": Small(
        _TABLES | {"rows": "Improved model;Chance"}, "grounded_tables", (2,), 1
    ),
    "grounded_prompts": Small(_TABLES | {"rows": "x"}, "grounded_tables", (1,), 1),
    "grounded_losses": Small(_TABLES | {"rows": "BCE"}, "grounded_tables", (1,), 1),
    "grounded_versions": Small(_TABLES, "grounded_tables", (1,), 1),
    "grounded_checkpoints": Small(_TABLES, "grounded_tables", (1, 1), 2),
    "grounded_dropout": Small(_TABLES | {"rows": "0.1"}, "grounded_tables", (1,), 1),
    "grounded_filter": Small(_TABLES | {"rows": "score 0.3"}, "grounded_tables", (1,), 2),
    "iosd_splits": Small(_IOSD | {"rows": "GD, Split1"}, "iosd_tables", (1,), 1),
    "iosd_switches": Small(_IOSD | {"rows": "SF, the model of G.D."}, "iosd_tables", (1,), 1),
}


def check_page(outputs: Sequence[Any]) -> None:
    """A cell shows pictures, tables, what it prints, and one line of progress at most."""
    kinds = [output["output_type"] for output in outputs]
    assert not [o for o in outputs if o.get("name") == "stderr"], outputs
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "INFO" not in printed and "WARNING" not in printed, printed
    others = [o["data"] for o in outputs if o["output_type"] in ("display_data", "execute_result")]
    lines = [data for data in others if "image/png" not in data and TABLE not in data]
    assert len(lines) <= 1 and not any("text/html" in data for data in lines), (kinds, lines)


def check_tables(done: Any, rows: Sequence[int]) -> None:
    """Tables are shown as styled DataFrames, of these numbers of rows."""
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    shown = [output["data"] for output in outputs if TABLE in output.get("data", ())]
    assert [len(data[TABLE]["rows"]) for data in shown] == [*rows]
    for data in shown:
        page = "".join(data["text/html"])
        assert page.count("</tr>") == 2 + len(data[TABLE]["rows"]) and "<caption>" in page
        assert all(row["mean"] for row in data[TABLE]["rows"])


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A copy of the project with empty data folders: runs leave nothing in the real one."""
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(root / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    (tmp_path / "conf/local").mkdir()
    shutil.copytree(root / "src/diffground", tmp_path / "src/diffground")
    models = tmp_path / "data/06_models"
    models.mkdir(parents=True)
    for folder in (root / "data/06_models").glob("mini-*"):
        (models / folder.name).symlink_to(folder)
    return tmp_path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_clean(path: Path) -> None:
    notebook = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    assert len(tagged) == 1
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "papermill" not in notebook["metadata"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_listed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``papermill NOTEBOOK --help-notebook`` names every parameter, its type and its meaning."""
    notebook = json.loads(path.read_text("utf-8"))
    (cell,) = (c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", ()))
    lines = [line for line in ast.parse("".join(cell["source"])).body]
    names = [line.target.id for line in lines]
    found = papermill.inspect_notebook(path)
    assert list(found) == names and not caplog.records, caplog.text
    for name, about in found.items():
        value = ast.literal_eval(about["default"])
        assert about["inferred_type_name"] == type(value).__name__, name
        assert about["help"] or any("#" in line for line in cell["source"]), name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFGROUND_RUN_LOG", "0")
    small = SMALL[path.stem]
    done = papermill.execute_notebook(
        path,
        project / "done.ipynb",
        parameters={"project": str(project), **small.parameters},
        kernel_name="python3",
        progress_bar=False,
    )
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert sum("image/png" in output.get("data", ()) for output in outputs) == small.pictures
    for cell in done.cells:
        check_page(cell.get("outputs", ()))
    if small.tables:
        file = project / f"data/08_reporting/{small.tables}.json"
        written = json.loads(file.read_text("utf-8"))
        assert {table["scale"] for table in written} == {"mini"}
        assert tuple(len(table["rows"]) for table in written) == small.rows
    check_tables(done, small.rows[: len(small.rows) - small.hidden])
