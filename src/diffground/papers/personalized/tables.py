"""Tables 7, B.9 and B.10 of From Text to Mask (002), and what Figure 5 shows.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``: a change of the
experiment (:mod:`diffground.papers.personalized.experiment`). An item is learned once a seed and
serves all rows; answers that are there are not made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image

from diffground.backbone.on_demand import Frozen
from diffground.data.mug19 import Split
from diffground.experiments.published import PublishedTable, changed
from diffground.experiments.result_tables import Figures
from diffground.experiments.runner import Heading, Outcome, RowLog
from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.experiment import answer, figures_of, measure, open_bench
from diffground.papers.personalized.figures import figure5
from diffground.papers.personalized.item_tokens import learn_items, tokens_folder
from diffground.papers.personalized.rows import METHODS, kind_of
from diffground.papers.personalized.scenes import Scenes
from diffground.papers.personalized.tables_config import PersonalizedRow, PersonalizedTablesConfig
from diffground.store.items import Summary
from diffground.store.manifest import read_manifest

#: A split's name -> what the columns call it.
COLUMNS: Final[dict[Split, str]] = {
    "all": "All",
    "semantic_distractor": "Semantic",
    "visual_distractor": "Visual",
    "variant": "Variant",
}


@dataclass(frozen=True)
class PersonalizedTables:
    """The rows that are asked for, see :class:`~diffground.experiments.runner.Experiment`.

    Attributes:
        tokens: has the tokens of all settings.
        answers: and this the answers.
        models: folders of other models, see :class:`~.rows.Bench`.
    """

    base: PersonalizedConfig
    asked: PersonalizedTablesConfig
    scenes: Scenes
    frozen: Frozen
    tokens: Path
    answers: Path
    models: Mapping[str, Path] = field(default_factory=dict)

    @property
    def heading(self) -> Heading:
        """The reading of the paper stands over every table."""
        return Heading(
            published=self.asked.published,
            name="personalized",
            metric="mIoU, bf_acc and af_acc (%)",
            scale=self.base.scale,
            settings={
                "compat": self.base.localiser.attention.compat,
                "personalized_tables": self.asked.model_dump(mode="json"),
                "personalized": self.base.model_dump(mode="json"),
            },
        )

    def tables(self) -> Iterator[tuple[str, PublishedTable[PersonalizedRow]]]:
        """Those asked for, by name, of methods that are built; our own rows only where they are not
        the recipe itself."""
        for name, table in self.asked.each():
            rows = [row for row in table.rows if row.change.get("method", "ours") in METHODS]
            kept = table.of(r for r in rows if not (r.own and self.config(r) == self.base))
            there = {row.name for row in kept.rows}
            claims = tuple(claim for claim in table.claims if there.issuperset(claim[:2]))
            yield name, kept.of(kept.rows, claims=claims)

    def config(self, row: PersonalizedRow, seed: int | None = None) -> PersonalizedConfig:
        """The settings of a row with a seed."""
        change = {} if seed is None else {"seed": seed}
        return changed(self.base, "personalized_tables", row.change, change)

    def run(self, row: PersonalizedRow, config: PersonalizedConfig, log: RowLog) -> Outcome:
        """Learns the items that are missing, if the row reads them; answers, and judges them.

        Logged is what a run of ``personalized`` logs.
        """
        seconds, made = {}, []
        if kind_of(config.method).learns:
            learned = learn_items(self.scenes, self.frozen, config, self.tokens)
            log.report("personalized_tokens_report", dict(learned))
            folder = tokens_folder(self.tokens, self.frozen.fingerprint, config)
            seconds[folder.name] = learned["seconds"]
            made.append(folder)
        answered = self.answer(config)
        answers = self.answers / answered["folder"]
        found = measure(self.scenes, answers, config)
        seconds[answers.name] = answered["seconds"]
        made.append(answers)
        log.metrics(figures_of(found))
        figures: Figures = {
            f"{COLUMNS[split]} {name}": value
            for split, scores in found["splits"].items()
            for name, value in scores.items()
        }
        manifests = [read_manifest(folder) for folder in made]
        return Outcome(figures, seconds, [each.made for each in manifests if each])

    def answer(self, config: PersonalizedConfig) -> Summary:
        """Makes what is missing of a row's answers."""
        bench = open_bench(config, self.frozen, self.tokens, self.models)
        return answer(self.scenes, bench, self.tokens, self.answers)

    def figure5(self) -> Image.Image:
        """Triplets under the first seed, a column for each row of Table 7 that is asked for."""
        rows = next((table.rows for name, table in self.tables() if name == "splits"), ())
        found = {
            row.name: self.answers / self.answer(self.config(row, self.asked.seeds[0]))["folder"]
            for row in rows
        }
        return figure5(self.scenes, found, self.base, self.asked.figures)
