"""Tables 1 to 6 and B.8 of From Text to Mask (002), and the numbers of Figure B.8.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``: a change of the
experiment (:mod:`diffground.papers.text2mask.experiment`), and the split that it is measured on.
Rows share maps and masks wherever these do not differ, and what is finished is not made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from diffground.backbone.on_demand import Frozen
from diffground.errors import InputError
from diffground.experiments.published import PublishedTable, changed
from diffground.experiments.result_tables import Figures
from diffground.experiments.runner import Heading, Outcome, RowLog
from diffground.papers.text2mask.config import AnySource, Text2MaskConfig
from diffground.papers.text2mask.experiment import aggregate, label, mask_figures, measure
from diffground.papers.text2mask.figures import mask_sheet
from diffground.papers.text2mask.keys import Split
from diffground.papers.text2mask.segmenter_training import (
    evaluate_segmenter,
    segmenter_figures,
    train_segmenter,
    trained_backbone,
)
from diffground.papers.text2mask.tables_config import (
    ONE_NOISE,
    CocoConfig,
    Text2MaskRow,
    Text2MaskTablesConfig,
)
from diffground.provenance import Made

RECIPE = Text2MaskRow(name="recipe", change=ONE_NOISE)
COCO_S_TRUTH = Text2MaskRow(name="truth", split="coco", change={"supervision": "truth"})


@dataclass(frozen=True)
class Text2MaskTables:
    """The rows that are asked for, see :class:`~diffground.experiments.runner.Experiment`."""

    base: Text2MaskConfig
    asked: Text2MaskTablesConfig
    frozen: Frozen
    data: Mapping[str, Path]  # the folder of each dataset, as `Split.read` wants them
    maps: Path
    masks: Path
    models: Path  # trained segmenters

    @property
    def heading(self) -> Heading:
        """The reading of the paper stands over every table."""
        return Heading(
            published=self.asked.published,
            name="text2mask",
            metric="mIoU (%), background included",
            scale=self.base.scale,
            settings={
                "compat": self.base.attention.compat,
                "text2mask_tables": self.asked.model_dump(mode="json"),
                "text2mask": self.base.model_dump(mode="json"),
            },
        )

    def tables(self) -> Iterator[tuple[str, PublishedTable[Text2MaskRow]]]:
        """Those asked for, by name; our own rows only where they are not the recipe itself."""
        recipe = self.config(RECIPE)
        for name, table in self.asked.each():
            yield name, table.of(r for r in table.rows if not (r.own and self.config(r) == recipe))

    def config(self, row: Text2MaskRow, seed: int | None = None) -> Text2MaskConfig:
        """The settings of a row; those of Table B.8 say their seeds themselves."""
        assert seed is None
        there = self._coco.changes() if row.on_coco else ()
        return changed(self.base, "text2mask_tables", *there, row.change)

    def recipe(self) -> Split:
        """The tables' split under the recipe itself, with one noise, made and measured."""
        split = self._split(self.config(RECIPE), self.asked.train)
        self._masks(split, RowLog())
        return split

    def run(self, row: Text2MaskRow, config: Text2MaskConfig, log: RowLog) -> Outcome:
        """Measures masks; or, in Tables 3 and 4, a segmenter that learnt from them.

        Logged is what runs of ``pseudo_labels`` and ``segmenter_train`` log.
        """
        source = self.asked.train if row.split == "train" else config.source
        if row.split.endswith("val"):
            if config.val is None:
                raise InputError("text2mask", "val", "is null: Tables 3 and 4 are measured on it")
            source = config.val
        if not row.segmenter:
            return self._masks(self._split(config, source), log)
        trainings: list[dict[str, Any]] = []
        if row.start == "coco":
            config, trainings = self._started_on_coco(config)
        learnt, val = self._split(config, config.source), self._split(config, source)
        pseudo = config.supervision == "pseudo"
        masks = self._masks(learnt, log) if pseudo else Outcome({}, {}, [])
        trainings.append(train_segmenter(learnt, self.models, val=val, on_log=log.metrics))
        found = evaluate_segmenter(val, self.models / trainings[-1]["folder"])
        log.report("text2mask_segmenter_metrics", found)
        log.metrics(segmenter_figures(found))
        return Outcome(
            figures={"mIoU": found["scores"]["miou"] if found["scores"] else None},
            seconds=masks.seconds | {done["folder"]: done["seconds"] for done in trainings},
            made=[*masks.made, *map(Made.of, trainings)],
        )

    def _masks(self, split: Split, log: RowLog) -> Outcome:
        """Makes what is missing of a split's maps and masks; mIoU, and images per second."""
        maps = aggregate(split, self.frozen)
        label(split)
        found = measure(split)
        log.metrics(mask_figures(found))
        number = split.config.figures
        log.picture("text2mask_figure4", lambda: Image.fromarray(mask_sheet(split, number)))
        before, after = found["initial"], found["dcrf"]
        figures: Figures = {
            **after["iou"],
            "initial": before["miou"],
            "dCRF": after["miou"],
            "mIoU": after["miou"],
            "images/s": maps["images"] / maps["seconds"] if maps["seconds"] else None,
        }
        return Outcome(figures, {split.maps.name: maps["seconds"]}, split.made())

    def _started_on_coco(
        self, config: Text2MaskConfig
    ) -> tuple[Text2MaskConfig, list[dict[str, Any]]]:
        """``config`` with a ResNet that has learnt from COCO's true masks, and its training."""
        if config.segmenter is None:
            raise InputError("text2mask", "segmenter", "is null: nothing can be trained")
        weights, trainings = self._coco.pretrained, []
        if weights is None:
            fully = self.config(COCO_S_TRUTH)
            split = self._split(fully, fully.source)
            val = self._split(fully, fully.val) if fully.val else None
            trainings = [train_segmenter(split, self.models, val=val)]
            weights = trained_backbone(self.models / trainings[0]["folder"])
        network = {"init": "weights", "weights": weights, "shape": None}
        return changed(config, "text2mask_tables", {"segmenter": {"network": network}}), trainings

    @property
    def _coco(self) -> CocoConfig:
        """Of rows that are left out without it."""
        assert self.asked.coco is not None
        return self.asked.coco

    def _split(self, config: Text2MaskConfig, source: AnySource) -> Split:
        split = Split.read(config, self.data, source)
        return split.mapped(self.frozen.fingerprint, self.maps).masked(self.masks)
