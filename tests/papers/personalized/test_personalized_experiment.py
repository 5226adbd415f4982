"""Items are learned, answers made, kept and judged; what is broken is named and left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes import recipe
from tiny_personalized import config, frozen, photographed, scenes, world

from diffground.backbone.personal import PersonalToken
from diffground.errors import InputError
from diffground.io.images import read_image
from diffground.metrics.assignment import answers, match_centres
from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.experiment import (
    Answer,
    answer,
    judge,
    measure,
    open_bench,
    query_key,
)
from diffground.papers.personalized.figures import figure5, overlay_sheet
from diffground.papers.personalized.item_tokens import learn_items, read_tokens, tokens_folder
from diffground.papers.personalized.queries import Query
from diffground.papers.personalized.rows import METHODS, Kind


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokens and answers of the tiny experiment."""
    folder = tmp_path_factory.mktemp("personalized")
    learn_items(scenes(), frozen(), config(), folder / "tokens")
    for method in ("ours", "chance"):
        ask(folder, method=method)
    return folder


def ask(folder: Path, **changes):
    bench = open_bench(config(**changes), frozen(), folder / "tokens")
    return answer(scenes(), bench, folder / "tokens", folder / "answers")


def folder_of(root: Path, **changes) -> Path:
    return root / "answers" / ask(root, **changes)["folder"]


def test_items_are_learned_once_and_by_seed(root: Path) -> None:
    summary = learn_items(scenes(), frozen(), config(), root / "tokens")
    assert summary["made"] == 0 and summary["kept"] == len(scenes().items)
    assert summary["complete"] and summary["seconds"] > 0, "of the run that learned them"
    place = tokens_folder(root / "tokens", frozen().fingerprint, config())
    tokens = {name: PersonalToken.load(place / name) for name in scenes().items}
    first, second = list(tokens.values())[:2]
    assert (first.token, first.word) == ("<new1>", "mug") and first.deltas
    assert not (first.embeddings[0] == second.embeddings[0]).all()
    assert tokens_folder(root / "tokens", frozen().fingerprint, config(seed=1)) != place
    assert tokens_folder(root / "tokens", frozen().fingerprint, config(method="subject")) == place
    assert not list(place.parent.glob(".training*/*/*.pt")), "no checkpoints are left"


def test_a_token_of_another_name_is_not_taken(root: Path) -> None:
    place = tokens_folder(root / "tokens", frozen().fingerprint, config())
    name = next(iter(scenes().items))
    read = read_tokens(place)
    assert read(Query(name, "<new1>", "mug", "a mug")).word == "mug"
    with pytest.raises(InputError, match="<cup> mug is asked for"):
        read(Query(name, "<cup>", "mug", "a mug"))


def test_answers_are_kept_and_shared_by_what_they_depend_on(root: Path) -> None:
    again = ask(root, method="ours")
    assert again["made"] == 0 and again["kept"] == 2 and again["seconds"] > 0
    ours, chance = folder_of(root, method="ours"), folder_of(root, method="chance")
    for view in scenes().views:
        first, second = Answer.read(ours, view), Answer.read(chance, view)
        assert first.segments.shape[1:] == read_image(view.image).shape[:2]
        assert (first.segments == second.segments).all(), "chance has the segments of ours"
        assert first.relevance.shape == (len(scenes().asked(view)), len(first.segments))
        assert (first.relevance != second.relevance).all()
    recipe = json.loads((ours / "recipe.json").read_text("utf-8"))
    assert "tokens" in recipe and {"localiser", "spectral", "aggregate"} <= recipe["code"].keys()
    recipe = json.loads((chance / "recipe.json").read_text("utf-8"))
    assert "tokens" not in recipe, "it reads none"


def test_a_damaged_answer_is_made_again_the_same(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    place = copy / folder_of(root, method="ours").relative_to(root)
    (file, *_) = sorted(place.glob("scene*.json"))
    before = file.read_bytes()
    file.write_text("{}", encoding="utf-8")
    assert ask(copy, method="ours")["made"] == 1
    assert file.read_bytes() == before


def test_scores_are_those_of_the_answers(root: Path) -> None:
    """Recomputed triplet by triplet, for the split All."""
    known, settings = scenes(), config()
    folder = folder_of(root, method="ours")
    found = measure(known, folder, settings)
    ious, bf, af = [], 0, 0
    for view in known.views:
        said = Answer.read(folder, view)
        instances = view.load_instances()
        truth = match_centres(instances, said.segments, "distance")
        for triplet in view.triplets:
            if "all" not in triplet.splits:
                continue
            rows = [said.queries.index(query_key(q)) for q in known.together(view, triplet)]
            alone = answers(said.relevance[rows[:1]], said.segments, together=False)[0]
            shared = answers(said.relevance[rows], said.segments, together=True)[0]
            own = truth[view.places()[triplet.id]]
            bf += alone == own >= 0
            af += shared == own >= 0
            mask = said.segments[shared] & (shared >= 0)
            target = triplet.load_target()
            ious.append((mask & target).sum() / (mask | target).sum())
    scores = found["splits"]["all"]
    assert scores["triplets"] == len(ious) > 4
    assert scores["mIoU"] == pytest.approx(100 * np.mean(ious))
    assert scores["bf_acc"] == pytest.approx(100 * bf / len(ious))
    assert scores["af_acc"] == pytest.approx(100 * af / len(ious))
    assert found["splits"]["variant"]["triplets"] == 2 and found["complete"]
    assert sum(found["segments"].values()) == 2


def test_a_perfect_answer_has_a_perfect_score(root: Path) -> None:
    known = scenes()
    (view, *_) = known.views
    instances, asked = view.load_instances(), known.asked(view)
    places = view.places()
    relevance = np.zeros((len(asked), len(instances)))
    for triplet in view.triplets:
        relevance[asked.index(known.query(triplet)), places[triplet.id]] = 1
    perfect = Answer(instances, tuple(query_key(query) for query in asked), relevance)
    for each in judge(known, view, perfect, config()).triplets.values():
        assert each["bf"] == each["af"] == each["truth"]


class Blind:
    """A method that finds nothing in any picture."""

    def segments(self, image: Any, queries: Any, **_: Any) -> Any:
        return np.zeros((0, *image.shape[:2]), bool)

    def relevance(self, image: Any, segments: Any, queries: Any, **_: Any) -> Any:
        return np.zeros((len(queries), 0))


def test_a_picture_in_which_nothing_is_found_counts_as_missed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "chance", Kind(lambda _: Blind()))
    asked = config(method="chance")
    bench = open_bench(asked, frozen(), root / "tokens")
    summary = answer(scenes(), bench, root / "tokens", tmp_path)
    found = measure(scenes(), tmp_path / summary["folder"], asked)
    assert found["complete"] and found["skipped"]["skipped"] == 0
    scores = found["splits"]["all"]
    assert scores["triplets"] and scores["mIoU"] == scores["af_acc"] == scores["bound"] == 0
    assert overlay_sheet(scenes(), tmp_path / summary["folder"], asked).height > 2 * 160


def test_what_is_broken_is_named_and_the_rest_goes_on(root: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(world(), tmp_path / "mug19"))
    known = scenes(data)
    (first, second) = known.views
    first.image.write_bytes(b"no picture")
    bench = open_bench(config(method="context"), frozen(), root / "tokens")
    summary = answer(known, bench, root / "tokens", tmp_path / "answers")
    assert summary["made"] == 1 and summary["complete"]
    (problem,) = summary["skipped"]["problems"]
    assert problem["item"] == first.id and problem["file"] == str(first.image)
    second.mask.unlink()
    found = measure(known, tmp_path / "answers" / summary["folder"], config(method="context"))
    assert found["splits"]["all"]["mIoU"] is None
    assert [row["item"] for row in found["skipped"]["problems"]] == [first.id, second.id]


def test_an_item_without_a_readable_picture_is_named(tmp_path: Path) -> None:
    data = Path(shutil.copytree(world(), tmp_path / "mug19"))
    known = scenes(data, limit=1)
    name = next(iter(known.items))
    for path in known.items[name].pictures:
        path.write_bytes(b"no picture")
    summary = learn_items(known, frozen(), config(), tmp_path / "tokens")
    assert summary["made"] == len(known.items) - 1
    assert [row["item"] for row in summary["skipped"]["problems"]] == [name]
    bench = open_bench(config(), frozen(), tmp_path / "tokens")
    asked = answer(known, bench, tmp_path / "tokens", tmp_path / "answers")
    (problem,) = asked["skipped"]["problems"]
    assert "there is no personal token here" in problem["reason"]


def test_figures_show_scenes_and_triplets(root: Path) -> None:
    folder = folder_of(root, method="ours")
    page = overlay_sheet(scenes(), folder, config())
    assert page.width == 5 * 320 + 6 * 12 and page.height > 2 * 160
    rows = {"Ours": folder, "Chance": folder_of(root, method="chance")}
    figure = figure5(scenes(), rows, config(), 2)
    assert figure.width == 4 * 208 + 5 * 12
    assert figure5(scenes(), rows, config(), 1).height < figure.height
    assert overlay_sheet(scenes(), folder, config(figures=0)).height < 40


def test_the_paper_s_settings_at_the_paper_s_sizes(tmp_path: Path) -> None:
    """``--env paper`` but for the model: scenes of 1137 x 640, photos of 640 x 640."""
    known = scenes(photographed(tmp_path / "mug19"), limit=1)
    (view,) = known.views
    learning = {"start": "word", "prior": None, "train": {"max_steps": 1, "batch_size": 1}}
    small = recipe(PersonalizedConfig, precision="float32", device="cpu", learning=learning)
    learn_items(known, frozen(), small, tmp_path / "tokens")
    bench = open_bench(small, frozen(), tmp_path / "tokens")
    summary = answer(known, bench, tmp_path / "tokens", tmp_path / "answers")
    assert summary["complete"] and summary["made"] == 1 and not summary["skipped"]["skipped"]
    said = Answer.read(tmp_path / "answers" / summary["folder"], view)
    assert said.segments.shape[1:] == (640, 1137) and len(said.segments) >= 1
    found = measure(known, tmp_path / "answers" / summary["folder"], small)
    assert found["splits"]["all"]["triplets"] == len(view.objects) and found["scale"] == "paper"
