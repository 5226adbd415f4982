"""Tables 2 to 4 of Li et al.: ablations over components, insertion of EIPA and parts of MLMA.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``. Every row is an
experiment of its own (:mod:`diffground.papers.png.experiment`), trained by the same recipe with the
same seeds; rows that tables share, and rows that are finished, are not run again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from pydantic import ValidationError

from diffground.backbone.frozen import FrozenDiffusion
from diffground.errors import InputError
from diffground.experiments.result_tables import (
    Figures,
    ResultRow,
    ResultTable,
    measured_row,
    ordering,
)
from diffground.metrics.average_recall import AverageRecall
from diffground.papers.png.config import PngConfig, PngFolders
from diffground.papers.png.evaluate import Prediction
from diffground.papers.png.experiment import evaluate_variant, kept_evaluation, train_variant
from diffground.papers.png.keys import Variant
from diffground.papers.png.model import PngModel
from diffground.papers.png.tables_config import PngTablesConfig, TableName, paper_figures, published
from diffground.papers.png.trained import load_variant
from diffground.provenance import Made, commit

log = logging.getLogger(__name__)


class RowLog(Protocol):
    """What one row, with one seed, reports to."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """The training's losses."""

    def log_results(
        self,
        training: dict[str, Any],
        metrics: dict[str, Any],
        phrases: list[dict[str, Any]],
        predictions: list[Prediction],
    ) -> None:
        """What the pipeline ``png_train`` saves under these names; no predictions if the row was
        measured before.
        """


#: Opens what one row reports to: called with a name and the row's whole configuration.
OpenRow = Callable[[str, PngConfig], AbstractContextManager[RowLog]]


def row_config(
    base: PngConfig, ablation: PngTablesConfig, model: dict[str, Any], seed: int
) -> PngConfig:
    """The experiment behind one row and seed; ``model`` is what the row changes.

    Raises:
        InputError: ``ablation.max_steps`` does not go with ``base.train``.
    """
    content = base.model_dump()
    changed = {name: value for name, value in model.items() if name != "mlma"}
    content["model"] |= {**changed, "head": "auto", "fusion": "learned"}
    content["model"]["mlma"] |= model.get("mlma", {})
    content["model"]["pretrained"] &= model["decode"]
    content["train"] |= {"seed": seed, "restart": False}
    if ablation.max_steps is not None:
        content["train"]["max_steps"] = ablation.max_steps
    try:
        return PngConfig.model_validate(content)
    except ValidationError as error:  # what the row or max_steps does not go with
        first = error.errors()[0]
        raise InputError("png_tables", ".".join(map(str, first["loc"])), first["msg"]) from error


def run_tables(
    base: PngConfig,
    ablation: PngTablesConfig,
    folders: PngFolders,
    backbone: FrozenDiffusion,
    *,
    broken: frozenset[str] = frozenset(),
    open_row: OpenRow | None = None,
) -> list[ResultTable]:
    """Trains and evaluates what is missing, and returns the tables.

    Args:
        broken: ids of training samples to leave out.
        open_row: gives every row and seed a place for its losses and results.
    """
    done: dict[str, tuple[list[dict[str, float | None]], float, list[Made]]] = {}
    tables = []
    for name in ablation.tables:
        entry = published(name)
        rows: list[ResultRow] = []
        seconds = 0.0
        for row in _asked(name, ablation):
            key = json.dumps(row["model"], sort_keys=True)
            if key not in done:
                title = f"{name}: {row['name']}"
                done[key] = _run_row(
                    base, ablation, folders, backbone, row["model"], broken, title, open_row
                )
            runs, spent, made = done[key]
            seconds += spent
            rows.append(measured_row(row["name"], runs, row["paper"], made))
        tables.append(_table(base, ablation, entry, rows, seconds))
    return tables


def reported(row: dict[str, Any], base: PngConfig) -> Figures:
    """The paper's figures that stand beside a row: at its scale, those of the same pretraining.

    The mini world's levels are compared with none, so there the printed table stays as it is.
    """
    same = base.scale == "mini" or base.model.pretrained or not row["model"]["decode"]
    figures: Figures = row["paper"] if same else row.get("paper_unpretrained", {})
    return figures


def phrase_rows(
    base: PngConfig, ablation: PngTablesConfig, folders: PngFolders, backbone: FrozenDiffusion
) -> dict[str, AverageRecall]:
    """The phrases of a table's measured rows, by row, first seed: what Figure 4 is drawn from.

    The paper draws Table 2; if that is not among the tables asked for, the first of them is drawn.
    """
    name = "components" if "components" in ablation.tables else ablation.tables[0]
    found = {}
    for row in _asked(name, ablation):
        config = row_config(base, ablation, row["model"], ablation.seeds[0])
        rows = _phrases(config, folders, backbone)
        found[row["name"]] = AverageRecall.from_rows(
            rows, base.eval.protocol, base.eval.plural_rule
        )
    return found


def full_model(
    base: PngConfig, ablation: PngTablesConfig, folders: PngFolders, backbone: FrozenDiffusion
) -> tuple[PngModel, PngConfig] | None:
    """The most complete model with an adapter among the rows that were run, first seed.

    It is what Figures 5 and 6 are drawn with; None if no row with an adapter was asked for.
    """
    models = [
        row_config(base, ablation, row["model"], ablation.seeds[0])
        for name in ablation.tables
        for row in _asked(name, ablation)
    ]
    adapted = [config for config in models if config.model.insertion != "none"]
    if not adapted:
        return None
    chosen = max(adapted, key=_completeness)
    return load_variant(chosen, folders, backbone)[0], chosen


def _asked(name: TableName, ablation: PngTablesConfig) -> list[dict[str, Any]]:
    """The rows of a table that are to be run."""
    rows = published(name)["rows"]
    return [row for row in rows if ablation.rows is None or row["name"] in ablation.rows]


def _completeness(config: PngConfig) -> tuple[bool, bool, int]:
    mlma = config.model.mlma
    parts = (mlma.bi_attention, mlma.deformable, mlma.self_attention)
    return config.model.insertion == "both", config.model.decode, sum(parts)


def _run_row(
    base: PngConfig,
    ablation: PngTablesConfig,
    folders: PngFolders,
    backbone: FrozenDiffusion,
    model: dict[str, Any],
    broken: frozenset[str],
    title: str,
    open_row: OpenRow | None,
) -> tuple[list[dict[str, float | None]], float, list[Made]]:
    """Average Recall of every seed, the seconds of all trainings, and who trained and measured."""
    runs, seconds, made = [], 0.0, []
    for seed in ablation.seeds:
        config = row_config(base, ablation, model, seed)
        place = open_row(f"{title}, seed {seed}", config) if open_row else nullcontext()
        with place as row:
            on_log = row.log_metrics if row else None
            training = train_variant(config, folders, backbone, broken=broken, on_log=on_log)
            metrics, predictions = _measured(config, folders, backbone)
            if row:
                phrases = _phrases(config, folders, backbone)
                row.log_results(training, metrics, phrases, predictions)
        seconds += training["seconds"]
        runs.append(metrics["ar"])
        made += [Made.of(training), Made.of(metrics)]
        log.info("%s, seed %d: AR %s", metrics["variant"], seed, metrics["ar"])
    return runs, seconds, made


def _table(
    base: PngConfig,
    ablation: PngTablesConfig,
    entry: dict[str, Any],
    rows: list[ResultRow],
    seconds: float,
) -> ResultTable:
    present = {row.name for row in rows}
    beside = {row["name"]: reported(row, base) for row in entry["rows"]}
    return ResultTable(
        paper=paper_figures()["paper"],
        table=entry["table"],
        metric=f"Average Recall (%), protocol {base.eval.protocol}, "
        f"plural rule {base.eval.plural_rule}",
        scale=base.scale,
        rows=tuple(row.model_copy(update={"paper": beside[row.name]}) for row in rows),
        orderings=tuple(
            ordering(rows, better, worse, "overall")
            for better, worse in entry["claims"]
            if {better, worse} <= present
        ),
        config={
            "protocol": base.eval.protocol,
            "plural_rule": base.eval.plural_rule,
            "notes": [entry["note"], *paper_figures()["notes"]],
            "source": paper_figures()["source"],
            "ablation": ablation.model_dump(mode="json"),
            "png": base.model_dump(mode="json"),
        },
        commit=commit(),
        seconds=round(seconds, 1),
    )


def _measured(
    config: PngConfig, folders: PngFolders, backbone: FrozenDiffusion
) -> tuple[dict[str, Any], list[Prediction]]:
    """The row's Average Recall, read if it was measured before; and if not, a few predictions."""
    found = kept_evaluation(Variant.of(config, folders, backbone).evaluation_path(config, folders))
    if found is not None:
        return found, []
    model, variant = load_variant(config, folders, backbone)
    result, metrics = evaluate_variant(config, folders, model, variant)
    return metrics, result.predictions


def _phrases(
    config: PngConfig, folders: PngFolders, backbone: FrozenDiffusion
) -> list[dict[str, Any]]:
    """The phrases behind a row's Average Recall."""
    path = Variant.of(config, folders, backbone).phrases_path(config, folders)
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return rows
