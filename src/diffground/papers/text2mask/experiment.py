"""The steps of a Text2Mask experiment: maps, pseudo masks, and their mIoU.

Each is a function of a split of a dataset, and can be run again at no cost::

    split = Split.read(config, {"voc2012": voc2012}, config.source)
    split = split.mapped(frozen.fingerprint, maps).masked(masks)  # below these folders
    aggregate(split, frozen)  # the frozen model's maps
    label(split)  # dense CRF, pseudo masks
    measure(split)  # against the ground truth

Where the files lie, and what they depend on, is said in :mod:`diffground.papers.text2mask.keys`.
"""

from __future__ import annotations

from typing import Any

from diffground.backbone.on_demand import Frozen
from diffground.errors import ProblemReport
from diffground.masks.mask_files import Layer, write_masks
from diffground.masks.measure import measure as score_masks
from diffground.papers.text2mask.keys import Split
from diffground.papers.text2mask.map_files import maps_path, write_maps
from diffground.papers.text2mask.text_to_mask import TextToMask
from diffground.store.items import Summary
from diffground.store.manifest import is_valid
from diffground.training.sharing import spent_together


def aggregate(split: Split, frozen: Frozen) -> dict[str, Any]:
    """Makes the maps that are missing, see :func:`~.map_files.write_maps`.

    Returns:
        What that returns, but ``"seconds"`` and ``"images"`` are of all maps that were made so far.
    """
    config = split.config
    summary = write_maps(
        lambda: TextToMask(frozen.model, split.method, split.words),
        split.samples,
        split.maps,
        split.maps_recipe,
        seed=config.seed,
        work=config.work,
    )
    total = spent_together(split.maps, summary)
    images = {"seconds": total["seconds"], "images": total["items"]}
    return {**summary, **images, "unusable": split.report.to_dict()}


def label(split: Split) -> Summary:
    """Makes the pseudo masks that are missing, see :mod:`diffground.masks.mask_files`."""
    by_id = {sample.id: sample for sample in split.samples}
    return write_masks(
        {s.id: {"maps": maps_path(split.maps, s.id), "image": s.image_path} for s in split.samples},
        lambda item: split.mask_work(by_id[item]),
        split.masks,
        split.config.masks,
        split.config.work,
        compat=split.config.compat,
        recipe=split.masks_recipe,
    )


def measure(split: Split) -> dict[str, Any]:
    """mIoU of the masks, read from the files: before the CRF and after.

    Returns:
        JSON-ready ``{"split", "masks", "complete", "scale", "crf", "initial", "dcrf", "skipped"}``:
        whether all shards of the masks are there, the CRF's backend, results of
        :meth:`~diffground.metrics.miou.Confusion.result`, and the report of samples that are not
        among them.
    """
    report = ProblemReport()
    results: dict[str, Any] = {}
    layers: dict[str, Layer] = {"initial": "initial", "dcrf": "label"}
    for name, layer in layers.items():
        confusion, report = score_masks(split.masks, split.samples, split.classes, layer=layer)
        results[name] = confusion.result()
    return {
        "split": split.name,
        "masks": split.masks.name,
        "complete": is_valid(split.masks),
        "scale": split.config.scale,
        "crf": split.config.masks.crf.backend,
        **results,
        "skipped": report.to_dict(),
    }


def mask_figures(result: dict[str, Any]) -> dict[str, float]:
    """What the run log keeps of a split's masks: mIoU before the CRF and after."""
    found = {step: result[step]["miou"] for step in ("initial", "dcrf")}
    return {f"miou/{result['split']}/{step}": v for step, v in found.items() if v is not None}
