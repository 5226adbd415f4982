"""What the tables of both papers are made of: ``params:grounded_tables``, ``params:iosd_tables``.

What a row is, and what the papers report for it, stands in ``paper_tables.json`` (003) and
``iosd_paper_tables.json`` (004): a change of a :class:`GroundedExperiment`.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from diffground.config import Config
from diffground.experiments.published import PublishedPaper, PublishedRow, TablesConfig
from diffground.papers.grounded.classes import SplitName
from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.learning_config import LearningConfig, ModuleName
from diffground.papers.grounded.templates import TemplateName

#: Frozen models, by what they are in the papers; which folder each is, is said by who runs them.
ModelName = Literal["standard", "fine_tuned", "version2", "turbo"]
#: What finds the masks. exchanged: a module, asked for the other class of a picture. quality:
#: nothing does, the training set's pictures are judged (Table 7).
Method = Literal["module", "exchanged", "daam", "chance", "quality"]
ModuleKind = Literal["gd", "improved", "iosd"]
Size = Literal["1k", "10k", "40k"]  # of the third paper's training sets
Length = Literal["1", "10"]  # epochs of its trainings
Dataset = Literal["PASCAL", "COCO"]
Switch = Literal["D", "S", "F", "P"]  # of 004's Table 2
TableName = Literal[
    "results", "prompts", "losses", "versions", "checkpoints", "quality", "dropout", "filter"
]


class GroundedExperiment(Config):
    """One cell: samples to learn from, what learns, and samples that it is tested on."""

    method: Method
    model: ModelName  # that made the samples to learn from
    tested: tuple[ModelName, ...]  # that made the samples to be tested on; none: ``model``
    training: bool  # whether it is tested on the training samples too
    samples: PositiveInt | None  # of the training set, the first ones; None: all
    data: GroundingDataConfig  # of the sets to learn from: train and val
    test: GroundingDataConfig  # of the others
    learning: LearningConfig

    @property
    def learns(self) -> bool:
        """Whether a module finds the masks."""
        return self.method in ("module", "exchanged")


def plain_experiment(
    data: GroundingDataConfig, test: GroundingDataConfig, learning: LearningConfig
) -> GroundedExperiment:
    """A module on all samples of the standard model, tested on the same model's."""
    return GroundedExperiment(
        method="module",
        model="standard",
        tested=(),
        training=False,
        samples=None,
        data=data,
        test=test,
        learning=learning,
    )


class GroundedRow(PublishedRow):
    """A row of the third paper."""

    module: ModuleKind | None = None
    samples: Size | None = None
    epochs: Length | None = None
    own: bool = False  # ours


class IosdRow(PublishedRow):
    """A row of the fourth paper."""

    splits: tuple[Literal[1, 2, 3], ...]  # several: the mean over them
    switches: tuple[Switch, ...] = ()
    as_trained: bool = False  # tested with the prompts that it was trained with
    own: bool = False  # ours

    @property
    def part(self) -> str:
        """On which splits it is measured."""
        return str(self.splits)


class GroundedTablesConfig(TablesConfig):
    """The third paper's tables: ``params:grounded_tables``."""

    published: ClassVar = PublishedPaper[GroundedRow].read(
        Path(__file__).with_name("paper_tables.json")
    )

    tables: tuple[TableName, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)  # of trainings; the paper names none
    attempts: dict[str, PositiveInt]  # of sets; of those not named as grounding_data says
    samples: dict[Size, PositiveInt]  # how many there are of what the paper calls so
    epochs: dict[Length, PositiveInt]  # how many there are of what it calls so
    modules: dict[ModuleKind, ModuleName]


class IosdTablesConfig(TablesConfig):
    """The fourth paper's tables: ``params:iosd_tables``."""

    published: ClassVar = PublishedPaper[IosdRow].read(
        Path(__file__).with_name("iosd_paper_tables.json")
    )

    tables: tuple[Literal["splits", "switches"], ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    # The first, second and third split of a dataset; null leaves it out
    splits: dict[Dataset, tuple[SplitName, SplitName, SplitName] | None]
    modules: dict[Literal["gd", "iosd"], ModuleName]  # without S, and with it
    templates: TemplateName | tuple[str, ...]  # of P: prompts with two classes
    attempts: dict[str, PositiveInt]  # of sets; of those not named as iosd_data says
    evaluations: PositiveInt  # of a training, which tell when it has converged

    @property
    def datasets(self) -> dict[Dataset, tuple[SplitName, SplitName, SplitName]]:
        """The splits of those that are not left out."""
        return {name: splits for name, splits in self.splits.items() if splits is not None}

    @model_validator(mode="after")
    def _has_a_dataset(self) -> IosdTablesConfig:
        if not self.datasets:
            raise self.refusal("splits", "no dataset has any: one at least is needed")
        return self
