"""Tables 2 to 4 of Li et al.: ablations over components, insertion of EIPA and parts of MLMA.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``. Every row is an
experiment of its own (:mod:`diffground.papers.png.experiment`), trained by the same recipe with the
same seeds; rows that tables share, and rows that are finished, are not run again. Tables may be
measured once more with nouns held out of the training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.config import Nouns
from diffground.experiments.published import PublishedTable, changed
from diffground.experiments.runner import Heading, Outcome, RowLog
from diffground.metrics.average_recall import NOUN_GROUPS, AverageRecall
from diffground.papers.png.config import PngConfig, PngFolders
from diffground.papers.png.experiment import (
    evaluate_variant,
    kept_evaluation,
    read_validation,
    train_variant,
)
from diffground.papers.png.figures import draw_comparison
from diffground.papers.png.keys import Variant
from diffground.papers.png.model import PngModel
from diffground.papers.png.tables_config import PngRow, PngTablesConfig
from diffground.papers.png.trained import load_variant
from diffground.provenance import Made
from diffground.reporting.curves import recall_curves


@dataclass(frozen=True)
class PngAblations:
    """The rows that are asked for, see :class:`~diffground.experiments.runner.Experiment`."""

    base: PngConfig
    asked: PngTablesConfig
    folders: PngFolders
    backbone: FrozenDiffusion
    broken: frozenset[str] = frozenset()  # ids of training samples to leave out

    @property
    def heading(self) -> Heading:
        """The measuring rule stands over every table."""
        rule = self.base.eval
        return Heading(
            published=self.asked.published,
            name="png",
            metric=f"Average Recall (%), protocol {rule.protocol}, plural rule {rule.plural_rule}",
            scale=self.base.scale,
            settings={
                "protocol": rule.protocol,
                "plural_rule": rule.plural_rule,
                "ablation": self.asked.model_dump(mode="json"),
                "png": self.base.model_dump(mode="json"),
            },
        )

    def tables(self) -> Iterator[tuple[str, PublishedTable[PngRow]]]:
        """Those asked for, by name, each followed by itself with nouns held out.

        Raises:
            InputError: a noun is no category of the data, which is said before the first training.
        """
        asked, own = self.asked, self.base.splits.held_out
        if asked.held_out:
            read = read_validation(self.base, self.folders.coco)
            for nouns in asked.held_out:
                read.ids_of(nouns, "png_tables.held_out")
        for name, table in asked.each():
            yield name, with_held_out(table, own) if own else table
            for nouns in asked.held_out if name in asked.held_out_tables else ():
                yield f"{name} without {', '.join(nouns)}", with_held_out(table, nouns)

    def config(self, row: PngRow, seed: int | None) -> PngConfig:
        """The settings of one row and seed.

        Raises:
            InputError: ``png_tables.max_steps`` does not go with ``png.train``.
        """
        pretrained = self.base.model.pretrained and row.change["model"]["decode"]
        model = {"head": "auto", "fusion": "learned", "pretrained": pretrained}
        steps = {"max_steps": self.asked.max_steps} if self.asked.max_steps else {}
        train = {"seed": seed, "restart": False, **steps}
        return changed(self.base, "png_tables", row.change, {"model": model, "train": train})

    def run(self, row: PngRow, config: PngConfig, log: RowLog) -> Outcome:
        """Trains and evaluates; logged is what a run of ``png_train`` logs.

        Pictures of predictions only if the row was not measured before.
        """
        variant = self._variant(config)
        training = train_variant(variant, broken=self.broken, on_log=log.metrics)
        metrics = kept_evaluation(variant.measured("evaluation"))
        predictions = []
        if metrics is None:
            result, metrics = evaluate_variant(variant, load_variant(variant))
            predictions = result.predictions
        log.report("png_training", training)
        log.report("png_metrics", metrics)
        log.tracker.log_dict(metrics, "reporting/png_metrics.json")
        name = f"{metrics['insertion']}, {metrics['head']} head"
        log.picture(
            "png_recall_curve", lambda: recall_curves({name: self.recall(config)}, config.scale)
        )
        if predictions:
            log.picture("png_overlays", lambda: draw_comparison(predictions, config))
        seconds = {training["variant"]: training["seconds"]}
        return Outcome(metrics["ar"], seconds, [Made.of(training), Made.of(metrics)])

    def recall(self, config: PngConfig) -> AverageRecall:
        """Of the phrases behind a row's Average Recall."""
        rows = json.loads(self._variant(config).measured("phrases").read_text("utf-8"))
        return AverageRecall.from_rows(rows, config.eval.protocol, config.eval.plural_rule)

    def recalls(self) -> dict[str, AverageRecall]:
        """The phrases of a table's measured rows, by row, first seed: what Figure 4 is drawn from.

        The paper draws Table 2; if that was not asked for, the first table is drawn.
        """
        name = "components" if "components" in self.asked.tables else self.asked.tables[0]
        return {row: self.recall(config) for row, config in self._first(name)}

    def full_model(self) -> tuple[PngModel, PngConfig] | None:
        """The most complete model with an adapter among the rows that were run, first seed.

        It is what Figures 5 and 6 are drawn with; None if no row with an adapter was asked for.
        """
        configs = [config for name in self.asked.tables for _, config in self._first(name)]
        adapted = [config for config in configs if config.model.insertion != "none"]
        if not adapted:
            return None
        chosen = max(adapted, key=_completeness)
        return load_variant(self._variant(chosen)), chosen

    def _variant(self, config: PngConfig) -> Variant:
        return Variant.of(config, self.folders, self.backbone)

    def _first(self, name: str) -> Iterator[tuple[str, PngConfig]]:
        """A table's rows with the first seed."""
        for row in self.asked.table(name).rows:
            yield row.name, self.config(row, self.asked.seeds[0])


def with_held_out(table: PublishedTable[PngRow], nouns: Nouns) -> PublishedTable[PngRow]:
    """The table with nouns held out of its trainings: what it claims overall, it claims of them."""
    change = {"splits": {"held_out": nouns}}
    seen, held_out = NOUN_GROUPS
    note = "Training narratives that ground a held-out noun are left out; the validation split is "
    note += "the same. The paper holds none out: its figures are of the closed vocabulary."
    claims = [(*rows, part) for part in ("overall", held_out) for *rows, _ in table.claims]
    return table.of(
        [row.model_copy(update={"change": row.change | change}) for row in table.rows],
        table=f"{table.table}, {held_out}: {', '.join(nouns)}",
        note=f"{note} {table.note}",
        columns=("overall", seen, held_out),
        claims=tuple(claims),
    )


def _completeness(config: PngConfig) -> tuple[bool, bool, int]:
    mlma = config.model.mlma
    parts = (mlma.bi_attention, mlma.deformable, mlma.self_attention)
    return config.model.insertion == "both", config.model.decode, sum(parts)
