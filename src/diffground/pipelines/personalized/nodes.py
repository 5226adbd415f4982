"""Thin nodes: scenes, the items' tokens, answers, their scores, overlays; and the tables."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.papers.personalized.checks_config import TokenChecksConfig
from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.tables_config import PersonalizedTablesConfig
from diffground.papers.text2mask.config import Text2MaskConfig
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


def check_tokens(
    *,
    scenes: Any,
    tokens: Path,
    diffusion: Path,
    voc2012: Path,
    personalized: PersonalizedConfig,
    text2mask: Text2MaskConfig,
    checks: TokenChecksConfig,
) -> tuple[dict[str, Any], Any]:
    """What learning did, to the items' photos and to other classes; pictures of tokens, of PIL."""
    from PIL import Image

    from diffground.backbone.on_demand import Frozen
    from diffground.data.image_lists import VocSource
    from diffground.data.labelled_images import read_samples
    from diffground.data.vocabulary import Vocabulary
    from diffground.errors import ProblemReport
    from diffground.papers.personalized.item_tokens import read_learned
    from diffground.papers.personalized.token_checks import PARTS, token_sheet
    from diffground.papers.personalized.token_checks import check_tokens as check

    report = ProblemReport()
    words = Vocabulary.load(text2mask.vocabulary or "voc")
    samples = list(
        read_samples(VocSource(split="val"), voc2012, words, report, limit=checks.images)
    )
    items = read_learned(scenes, tokens, checks.items)
    model = Frozen(diffusion, personalized).model
    found = check(model, items, samples, words, text2mask.attention, seed=personalized.seed)
    for part in PARTS:
        figures = {k: v for k, v in found[part].items() if k != "deviation"}
        log.info("%s: %s", part, ", ".join(f"{k} {v:.3g}" for k, v in figures.items()))
        get_tracker().log_metrics({f"{part}/{name}": value for name, value in figures.items()})
    page = token_sheet(
        model,
        [(item.token, item.photos) for item in items],
        count=checks.pictures,
        steps=checks.steps,
        guidance=checks.guidance,
        seed=personalized.seed,
    )
    about = {"scale": personalized.scale, "tokens": tokens.name, "skipped": report.to_dict()}
    return {**about, **found}, Image.fromarray(page)


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
