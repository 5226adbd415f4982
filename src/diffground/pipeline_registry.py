"""The named pipelines, each a sum of packages under :mod:`diffground.pipelines`.

A name stands for all that its command needs on a fresh clone: ``png_train`` begins with the mini
world, which is not made again where it is already there and valid
(:mod:`diffground.store.manifest`). The list is explicit, because Kedro's own discovery imports only
the package with the requested name and so cannot see a sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module

from kedro.pipeline import Pipeline

# Name -> the packages it is the sum of; what stands behind a colon are parts of the package:
# "world:coco" makes coco alone, so that nobody needs data that the pipeline does not read. To add a
# pipeline, add a line.
PIPELINES: dict[str, tuple[str, ...]] = {
    "world": ("world",),
    "foundation": ("foundation",),
    "foundation_eval": ("foundation:quality",),
    "foundation_fine_tuning": ("foundation:fine_tuning",),
    "feature_extraction": ("world:coco", "png:features"),
    "png_train": ("world:coco", "png:train,evaluate"),
    "png_eval": ("world:coco", "png:find,evaluate"),
    "png_tables": ("world:coco", "png:features,tables"),
    "attention_aggregation": ("world:voc2012", "text2mask:maps"),
    "pseudo_labels": ("world:voc2012", "text2mask:maps,masks"),
    "segmenter_train": ("world:voc2012", "text2mask:maps,masks,segmenter"),
    "text2mask": ("world:voc2012", "text2mask:maps,masks,segmenter"),
    "text2mask_tables": ("world:voc2012,coco2014", "text2mask:tables"),
    "personalized": ("world:mug19", "personalized:scenes,method"),
    "personalized_checks": ("world:mug19,voc2012", "personalized:scenes,checks"),
    "personalized_tables": ("world:mug19", "personalized:scenes,tables"),
    "grounding_data": ("grounded:data",),
    "grounding_train": ("grounded:data,train",),
    "grounding_eval": ("grounded:data,find,evaluate",),
    "grounded": ("grounded:data,train,evaluate,figure",),
    "iosd": ("grounded:iosd_data,iosd_train,iosd_evaluate,iosd_figure",),
    "grounded_tables": ("grounded:tables",),
    "iosd_tables": ("grounded:iosd_tables",),
    "grounding_export": ("grounded:data,export",),
    "grounding_figure": ("grounded:data,train,figure",),
    "grounding_teaching": ("world:voc2012", "grounded:data,export,teaching"),
    "report": ("report",),
    "ground": ("world:coco", "ground"),
    "__default__": ("world:coco", "png:train,evaluate"),
}


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines of the project, for Kedro."""
    return compose(PIPELINES, "diffground.pipelines")


def compose(recipes: Mapping[str, Sequence[str]], package: str) -> dict[str, Pipeline]:
    """Sums ``create_pipeline()`` of the modules ``package.<part>`` for every recipe.

    What follows a colon, separated by commas, goes to ``create_pipeline`` as a list. A part that
    cannot be imported is an error, never a missing pipeline.
    """
    parts: dict[str, Pipeline] = {}
    for part in dict.fromkeys(part for recipe in recipes.values() for part in recipe):
        module, _, choice = part.partition(":")
        create = import_module(f"{package}.{module}").create_pipeline
        parts[part] = create(choice.split(",")) if choice else create()
    return {name: sum((parts[p] for p in recipe), Pipeline([])) for name, recipe in recipes.items()}
