"""The public face: photos in, masks of one's own things out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_png
import yaml
from numpy.typing import NDArray
from PIL import Image
from tiny_personalized import LEARNING, LOCALISER, token

from diffground import PersonalLocaliser
from diffground.errors import InputError
from diffground.papers.personalized.config import RECIPE_FILE, PersonalLocaliserConfig

CONFIG = PersonalLocaliserConfig.model_validate({"learning": LEARNING, "localiser": LOCALISER})


@pytest.fixture
def localiser() -> PersonalLocaliser:
    return PersonalLocaliser(tiny_png.backbone(), CONFIG)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (71, 127, 3), dtype=np.uint8)


def photos(count: int = 2) -> list[NDArray[np.uint8]]:
    """Of different sizes and orientations."""
    rng = np.random.default_rng(1)
    shapes = [(64, 64, 3), (40, 90, 3), (120, 50, 3)]
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes[:count]]


def test_from_photos_to_masks(localiser, image, tmp_path: Path) -> None:
    found = localiser.learn(photos(3), "mug", folder=tmp_path / "work")
    assert found is localiser and repr(localiser).endswith(": <new1> mug>")
    localiser.learn(photos(1), "mug", token="<new2>")
    queries = ["<new1> filled with cola", "my <new2> mug on a book"]
    result = localiser(image, queries)
    assert result.phrases == tuple(queries) and result.masks.shape == (2, 71, 127)
    assert result.relevance.shape == (2, len(result.segments))
    for mask, score in zip(result.masks, result.scores, strict=True):
        assert mask.any() == (score is not None)
        assert not mask.any() or any((mask == segment).all() for segment in result.segments)
    assert not (result.masks[0] & result.masks[1]).any(), "together no two get the same"
    result.save(tmp_path / "result")
    rows = json.loads((tmp_path / "result/masks.json").read_text("utf-8"))["phrases"]
    assert [row["text"] for row in rows] == queries
    again = localiser(Image.fromarray(image), queries)
    assert (again.masks == result.masks).all()


def test_alone_each_takes_its_best(localiser, image) -> None:
    localiser.tokens["<new1>"] = token(localiser.model)
    queries = ["<new1>", "a <new1> mug", "<new1> filled with cola", "<new1> on a book"]
    alone = localiser(image, queries, together=False)
    assert (alone.masks[0] == alone.masks[1]).all(), "the same query in other words"
    best = alone.relevance.argmax(axis=1)
    for row, mask in zip(best, alone.masks, strict=True):
        assert (mask == alone.segments[row]).all()


def test_things_of_two_classes_have_areas_of_their_own(localiser, image) -> None:
    first = token(localiser.model)
    other = token(localiser.model, 1, "<dog1>")
    localiser.tokens = {"<new1>": first, "<dog1>": type(other)(
        "<dog1>", "dog", other.embeddings, {}, other.model)}  # fmt: skip
    result = localiser(image, ["<new1>", "<dog1> on grass"])
    known = ~np.isnan(result.relevance)
    assert (known.sum(axis=0) == 1).all(), "a segment is of one class"
    alone = localiser(image, ["<dog1> on grass"])
    assert (alone.masks[0] == result.masks[1]).all()


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("<new1>", "a mug"),
        ("<new1> filled with cola", "a mug filled with cola"),
        ("<new1> mug filled with cola", "a mug filled with cola"),
        ("a red <new1> mug", "a red mug"),
        ("the <new1>, on a book", "the mug, on a book"),
    ],
)
def test_what_a_query_says(localiser, text: str, context: str) -> None:
    localiser.tokens["<new1>"] = token(localiser.model)
    query = localiser.query(text)
    assert query.context == context and query.description == context.replace("mug", "<new1> mug")


def test_queries_without_one_token_are_refused(localiser, image) -> None:
    with pytest.raises(InputError, match="nothing was learned yet"):
        localiser(image, ["<new1> filled with cola"])
    localiser.tokens |= {n: token(localiser.model, name=n) for n in ("<new1>", "<new2>")}
    for text in ("a mug filled with cola", "<new1> beside <new2>", "<new1> and <new1>"):
        with pytest.raises(InputError, match="of the learned tokens"):
            localiser(image, [text])
    for queries in ([], "<new1>"):
        with pytest.raises(InputError, match="a list of queries is needed"):
            localiser(image, queries)


def test_bad_photos_and_taken_names_are_named(localiser, tmp_path: Path, caplog) -> None:
    with pytest.raises(InputError, match="at least one photo"):
        localiser.learn([], "mug")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken.jpg: photos: none of 1 can be read"):
        localiser.learn([broken], "mug")
    localiser.learn([broken, *photos(1)], "mug")
    assert "broken.jpg is skipped" in caplog.text and "<new1>" in localiser.tokens
    with pytest.raises(InputError, match="<new1> is a mug already"):
        localiser.learn(photos(1), "mug")
    with pytest.raises(InputError, match="knows already"):
        localiser.learn(photos(1), "mug", token="a")


def test_learned_things_are_kept_and_worn_again(localiser, image, tmp_path: Path) -> None:
    localiser.learn(photos(1), "mug")
    localiser.tokens["<new1>"].save(tmp_path / "my-mug")
    other = PersonalLocaliser(tiny_png.backbone(), CONFIG).wear(tmp_path / "my-mug")
    query = ["<new1> filled with cola"]
    assert (other(image, query).masks == localiser(image, query).masks).all()
    with pytest.raises(InputError, match="already"):
        other.wear(tmp_path / "my-mug")
    with pytest.raises(InputError, match="was learned by the model"):
        PersonalLocaliser(tiny_png.backbone(1), CONFIG).wear(tmp_path / "my-mug")


def test_a_model_folder_says_what_suits_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert PersonalLocaliserConfig.of(folder) == PersonalLocaliserConfig()
    (folder / RECIPE_FILE).write_text(CONFIG.model_dump_json())
    assert PersonalLocaliserConfig.of(folder) == CONFIG
    (folder / RECIPE_FILE).write_text('{"localiser": {"layer": 3}}')
    with pytest.raises(InputError, match=rf"{RECIPE_FILE}: settings\.localiser\.layer: "):
        PersonalLocaliserConfig.of(folder)


def test_the_mini_model_s_settings_are_those_of_its_environment(root: Path) -> None:
    """Who uses the model without Kedro has the same as the tables."""
    text = (root / "conf/mini/parameters_personalized.yml").read_text("utf-8")
    said = yaml.safe_load(text)["personalized"]
    said = {name: said[name] for name in ("learning", "localiser")}
    found = PersonalLocaliserConfig.of(root / "data/06_models/mini-sd")
    assert found == PersonalLocaliserConfig.model_validate(said) != PersonalLocaliserConfig()
