"""Table 3 of Li et al.: where in the UNet EIPA sits, as an ablation over seeds.

Every row is an experiment of its own (:mod:`diffground.png.experiment`), trained by the same recipe
with the same seeds; rows that are finished are read, not run again. The row without an adapter
trains the one thing it has, the Diffusion head's 16 weights, and is judged by that head; the others
by the adapter head (``png.model.head`` set to ``diffusion`` judges all by the first).
"""

from __future__ import annotations

import json
import logging
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from diffground.backbone.frozen import FrozenDiffusion
from diffground.config import Config
from diffground.png.eipa import Insertion
from diffground.png.experiment import (
    OnLog,
    PngConfig,
    Variant,
    evaluate_variant,
    load_variant,
    train_variant,
)
from diffground.reporting.tables import ResultTable, measured_row, ordering

log = logging.getLogger(__name__)

# (better, worse) in the paper's table, by name
CLAIMS = (
    ("Encoder", "No-Adapter"),
    ("Encoder-Decoder", "No-Adapter"),
    ("Encoder-Decoder", "Encoder"),
    ("Encoder", "Decoder"),
)


class InsertionConfig(Config):
    """The ablation: ``params:png_insertion``. All else is ``params:png``."""

    insertions: tuple[Insertion, ...] = Field(
        default=("none", "encoder", "decoder", "both"), min_length=1
    )
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    max_steps: PositiveInt | None = None  # of each training; None = png.train.max_steps


def row_config(
    base: PngConfig, ablation: InsertionConfig, insertion: Insertion, seed: int
) -> PngConfig:
    """The experiment behind one row and seed."""
    content = base.model_dump()
    content["model"] |= {"insertion": insertion, "fusion": "learned"}
    content["train"] |= {"seed": seed, "restart": False}
    if ablation.max_steps is not None:
        content["train"]["max_steps"] = ablation.max_steps
    return PngConfig.model_validate(content)


def run_insertion(
    base: PngConfig,
    ablation: InsertionConfig,
    coco: Path,
    backbone: FrozenDiffusion,
    models: Path,
    *,
    broken: frozenset[str] = frozenset(),
    on_log: OnLog | None = None,
    commit: str = "",
) -> ResultTable:
    """Trains and evaluates what is missing, and returns the table.

    Args:
        broken: ids of training samples to leave out.
        on_log: called with ``<insertion>-<seed>/...`` values and the step.
        commit: code version, written beside the numbers.
    """
    published = _published()
    rows, seconds = [], 0.0
    for entry in published["rows"]:
        if entry["insertion"] not in ablation.insertions:
            continue
        runs = []
        for seed in ablation.seeds:
            config = row_config(base, ablation, entry["insertion"], seed)
            report = _prefixed(on_log, f"{entry['insertion']}-{seed}")
            training = train_variant(config, coco, backbone, models, broken=broken, on_log=report)
            metrics = _measured(config, coco, backbone, models)
            seconds += training["seconds"]
            runs.append(metrics["ar"])
            log.info("%s, seed %d: AR %s", entry["name"], seed, metrics["ar"])
        rows.append(measured_row(entry["name"], runs, entry["paper"]))
    present = {row.name for row in rows}
    return ResultTable(
        paper="Dynamic Prompting",
        table=f"{published['table']}: insertion of EIPA",
        metric=f"Average Recall (%), protocol {base.eval.protocol}, "
        f"plural rule {base.eval.plural_rule}",
        scale=base.scale,
        rows=tuple(rows),
        orderings=tuple(
            ordering(rows, better, worse, "overall")
            for better, worse in CLAIMS
            if {better, worse} <= present
        ),
        config={
            "protocol": base.eval.protocol,
            "plural_rule": base.eval.plural_rule,
            "note": published["note"],
            "ablation": ablation.model_dump(mode="json"),
            "png": base.model_dump(mode="json"),
        },
        commit=commit,
        seconds=round(seconds, 1),
    )


def _measured(
    config: PngConfig, coco: Path, backbone: FrozenDiffusion, models: Path
) -> dict[str, Any]:
    """The row's Average Recall: read if it was measured before."""
    done = Variant.of(config, coco, backbone).evaluation_path(models, config, coco)
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text("utf-8"))
        return found
    model, variant = load_variant(config, coco, backbone, models)
    return evaluate_variant(config, coco, model, variant, models)[1]


def _prefixed(on_log: OnLog | None, prefix: str) -> OnLog | None:
    if on_log is None:
        return None
    return lambda values, step: on_log({f"{prefix}/{k}": v for k, v in values.items()}, step)


def _published() -> dict[str, Any]:
    """The paper's rows."""
    text = files("diffground.png").joinpath("paper_tables.json").read_text("utf-8")
    published: dict[str, Any] = json.loads(text)["insertion"]
    return published
