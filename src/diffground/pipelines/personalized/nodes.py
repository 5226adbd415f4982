"""Thin nodes: scenes, the items' tokens, answers, their scores, overlays; and the tables."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.tables_config import PersonalizedTablesConfig
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)


def read_scenes(mug19: Path, personalized: PersonalizedConfig) -> tuple[Any, dict[str, Any], str]:
    """The pictures that are looked at; the doctor's findings as JSON and as Markdown."""
    from diffground.data.mug19 import Mug19
    from diffground.data.mug19_doctor import examine, render
    from diffground.papers.personalized.scenes import Scenes

    data = Mug19.read(mug19)
    found = examine(data, deep=personalized.deep_check)
    return Scenes.of(data, personalized.limit), found, render(found)


def learn_tokens(
    scenes: Any, diffusion: Path, folder: Path, personalized: PersonalizedConfig
) -> tuple[Path, dict[str, Any]]:
    """Learns the items' tokens that are missing, or goes on within one."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.personalized.item_tokens import learn_items, tokens_folder

    frozen = Frozen(diffusion, personalized)
    summary = learn_items(scenes, frozen, personalized, folder)
    log.info(
        "%s: %d tokens learned, %d kept, %d items skipped",
        summary["folder"], summary["made"], summary["kept"], summary["skipped"]["skipped"],
    )  # fmt: skip
    return tokens_folder(folder, frozen.fingerprint, personalized), dict(summary)


def find_objects(
    scenes: Any,
    tokens: Path,
    diffusion: Path,
    folder: Path,
    clip: Path,
    segmenter: Path,
    vit: Path,
    personalized: PersonalizedConfig,
) -> tuple[Path, dict[str, Any]]:
    """Asks the method about every picture, or finds its answers made."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.personalized.experiment import answer, open_bench

    models = {"clip": clip, "segmenter": segmenter, "vit": vit}
    bench = open_bench(personalized, Frozen(diffusion, personalized), tokens.parent, models)
    summary = answer(scenes, bench, tokens.parent, folder)
    log.info(
        "%s: %d answers made, %d kept, %d pictures skipped",
        summary["folder"], summary["made"], summary["kept"], summary["skipped"]["skipped"],
    )  # fmt: skip
    return folder / summary["folder"], dict(summary)


def evaluate(scenes: Any, answers: Path, personalized: PersonalizedConfig) -> dict[str, Any]:
    """mIoU, bf_acc and af_acc of every split."""
    from diffground.papers.personalized.experiment import figures_of, measure

    found = measure(scenes, answers, personalized)
    for split, scores in found["splits"].items():
        if scores["triplets"]:
            log.info(
                "%s, %s: mIoU %.1f, bf_acc %.1f, af_acc %.1f",
                found["method"], split, scores["mIoU"], scores["bf_acc"], scores["af_acc"],
            )  # fmt: skip
    get_tracker().log_metrics(figures_of(found))
    return found


def draw_overlays(scenes: Any, answers: Path, personalized: PersonalizedConfig) -> Any:
    """Pictures with true objects, segments and answers, of PIL."""
    from diffground.papers.personalized.figures import overlay_sheet

    return overlay_sheet(scenes, answers, personalized)


def run_personalized_tables(
    *,
    scenes: Any,
    tokens: Path,
    answers: Path,
    diffusion: Path,
    clip: Path,
    segmenter: Path,
    vit: Path,
    personalized: PersonalizedConfig,
    tables: PersonalizedTablesConfig,
) -> tuple[Path, list[dict[str, Any]], str, Any]:
    """The rows' answers, the tables as data and as text, and Figure 5, of PIL; finished
    rows are not run again."""
    from diffground.backbone.on_demand import Frozen
    from diffground.experiments.runner import as_json_and_text, run_tables
    from diffground.papers.personalized.tables import PersonalizedTables

    frozen = Frozen(diffusion, personalized)
    models = {"clip": clip, "segmenter": segmenter, "vit": vit}
    asked = PersonalizedTables(personalized, tables, scenes, frozen, tokens, answers, models)
    found = run_tables(asked, tables.seeds)
    answers.mkdir(parents=True, exist_ok=True)  # there may be no row
    return answers, *as_json_and_text(found), asked.figure5()
