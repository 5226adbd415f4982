"""The rows of Tables 3 and 4 of From Text to Mask (002): segmenters, and how they begin."""

from __future__ import annotations

from diffground.errors import InputError
from diffground.experiments.result_tables import Figures
from diffground.papers.text2mask.config import AnySource, Text2MaskConfig
from diffground.papers.text2mask.segmenter_training import (
    evaluate_segmenter,
    train_segmenter,
    trained_backbone,
)
from diffground.papers.text2mask.table_rows import Bench, RowLog, coco_config, row_config
from diffground.provenance import Made


def segmenter_row(
    bench: Bench,
    config: Text2MaskConfig,
    source: AnySource,
    start: str | None,
    row: RowLog | None,
) -> tuple[Figures, dict[str, float], list[Made]]:
    """The segmenter that learns from ``config.source``, judged on ``source``.

    Beside its figures stand the seconds that each folder took, and who made masks and segmenter.
    ``start`` is "coco" for a network whose ResNet has learnt from COCO's true masks before.
    """
    spent: dict[str, float] = {}
    made: list[Made] = []
    if start == "coco":
        config, spent, made = _started_on_coco(bench, config)
    learnt = bench.split(config, config.source)
    if config.supervision == "pseudo":
        masks = bench.masks(learnt, row)
        spent |= masks["seconds"]
        made += masks["made"]
    val = bench.split(config, source)
    on_log = row.log_metrics if row else None
    training = train_segmenter(learnt, bench.folders, val=val, on_log=on_log)
    found = evaluate_segmenter(val, learnt, bench.folders)
    if row:
        row.log_segmenter(val, found)
    scores = found["scores"]
    values: Figures = {"mIoU": scores["miou"] if scores else None}
    made.append(Made.of(training))
    return values, spent | {training["folder"]: training["seconds"]}, made


def _started_on_coco(
    bench: Bench, config: Text2MaskConfig
) -> tuple[Text2MaskConfig, dict[str, float], list[Made]]:
    """``config`` with a ResNet that has learnt from COCO's true masks; its seconds and makers."""
    assert bench.tables.coco is not None
    if config.segmenter is None:
        raise InputError("text2mask", "segmenter", "its settings are null: nothing can be trained")
    weights, spent, made = bench.tables.coco.pretrained, {}, list[Made]()
    if weights is None:
        fully = coco_config(bench, {"supervision": "truth"})
        split = bench.split(fully, fully.source)
        val = bench.split(fully, fully.val) if fully.val else None
        training = train_segmenter(split, bench.folders, val=val)
        weights = trained_backbone(split, bench.folders)
        spent, made = {training["folder"]: training["seconds"]}, [Made.of(training)]
    started = {"init": "weights", "weights": weights, "shape": None}
    network = {**config.segmenter.network.model_dump(), **started}
    return row_config(config, {"segmenter": {"network": network}}), spent, made
