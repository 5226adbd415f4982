"""The localiser: one pass a scene, maps of queries, segments of any picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tiny_png
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from tiny_personalized import LOCALISER, token

from diffground.attention.aggregate import class_maps, layers_read, spread
from diffground.attention.queries import Phrase, Prompt
from diffground.attention.selfcross import aggregate_cross
from diffground.backbone.personal import worn
from diffground.backbone.probe import ProbeRequest
from diffground.errors import InputError
from diffground.papers.personalized.config import LocaliserConfig
from diffground.papers.personalized.localiser import Localiser, mean_inside
from diffground.papers.personalized.queries import Query
from diffground.papers.personalized.selfcross_rows import SelfCrossMethod

TEXT = "a <new1> mug filled with cola"


def localiser(**changes: Any) -> Localiser:
    content = {**LOCALISER, **changes}
    if "attention" in changes:
        content["attention"] = LOCALISER["attention"] | changes["attention"]
    return Localiser(tiny_png.backbone(), LocaliserConfig.model_validate(content))


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """Sides that no 8 divides, like the paper's 1137 x 640."""
    return np.random.default_rng(0).integers(0, 256, (71, 127, 3), dtype=np.uint8)


@contextmanager
def requests(model: Any) -> Iterator[list[ProbeRequest]]:
    """What is asked of the UNet in the block."""
    asked, probe = [], model.probe

    def noted(latents: Any, timestep: Any, context: Any, request: Any, **more: Any) -> Any:
        asked.append(request)
        return probe(latents, timestep, context, request, **more)

    model.probe = noted
    try:
        yield asked
    finally:
        del model.probe


@pytest.mark.parametrize("compat", ["paper", "official"])
@pytest.mark.parametrize("noises", [1, 2])
def test_the_object_s_map_is_that_of_from_text_to_mask(image, compat, noises) -> None:
    """The same hyper-parameters, the same map, averaged in the same way."""
    finder = localiser(attention={"compat": compat, "noises": noises})
    scene = finder.look(image, "mug", item="scene", seed=3)
    prompt = Prompt("a mug.", (Phrase("mug", ((2, 5),)),))
    settings = finder.config.attention
    maps = class_maps(finder.model, image, [prompt], settings, item="scene", seed=3)
    assert torch.allclose(scene.objects.mean(dim=0), maps.maps[0], atol=1e-6)
    assert scene.geometry == maps.geometry and scene.self_maps.shape[0] == noises
    assert scene.presence == pytest.approx(float(maps.presence[0]), rel=1e-5)


def test_a_query_s_map_is_its_cross_along_the_scene_s_self(image) -> None:
    finder = localiser()
    model, settings = finder.model, finder.config.attention
    scene = finder.look(image, "mug", item="scene", seed=3)
    prompt = finder.prompt("a mug filled with cola", "mug")
    table = layers_read(model, settings)
    encoding = model.encode_prompts([prompt.text])
    request = ProbeRequest(cross=table.cross)
    result = model.probe(scene.noisy, settings.timestep, encoding.embeddings, request)
    tokens = [t for t, (a, b) in enumerate(encoding.offsets[0]) if b > a]
    cross = aggregate_cross(result, table.cross, [tokens], scene.size)
    wanted = scene.geometry.to_image(spread(scene.self_maps[0], cross, settings), "paper")
    (found,) = finder.maps(scene, [prompt])
    assert found.shape == (71, 127)
    np.testing.assert_allclose(found, wanted[0].numpy(), atol=1e-6)


def test_one_pass_gives_the_self_attention_of_all_queries(image) -> None:
    finder = localiser()
    method = SelfCrossMethod(finder, lambda query: token(finder.model), "both")
    queries = [Query(f"mug{i}", "<new1>", "mug", c) for i, c in enumerate(["a mug", "a red mug"])]
    with requests(finder.model) as asked:
        segments = method.segments(image, queries, item="scene", seed=0)
        method.relevance(image, segments, queries, item="scene", seed=0)
    assert [bool(request.self_) for request in asked] == [True, False, False]


@pytest.mark.parametrize("compat", ["paper", "official"])
@pytest.mark.parametrize("shape", [(71, 127), (100, 40), (64, 64)])
def test_segments_part_the_image_s_own_pixels(compat, shape) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    finder = localiser(attention={"compat": compat})
    scene = finder.look(image, "mug", item="scene", seed=0)
    segments = finder.segments(scene, asked=3)
    assert segments.shape[1:] == shape and 0 < len(segments) <= 3
    assert segments.sum(axis=0).max() == 1 and segments.any(axis=(1, 2)).all()
    again = finder.segments(finder.look(image, "mug", item="scene", seed=0), asked=3)
    assert (again == segments).all()


def test_the_item_and_the_seed_decide_the_noise(image) -> None:
    finder = localiser()
    first, same, other, seed = (
        finder.look(image, "mug", item=item, seed=seed).noisy
        for item, seed in (("a", 0), ("a", 0), ("b", 0), ("a", 1))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other) and not torch.equal(first, seed)


def test_a_token_changes_the_map_and_leaves_no_trace(image) -> None:
    finder = localiser(read="subject")
    scene = finder.look(image, "mug", item="scene", seed=0)
    plain = finder.prompt("a mug filled with cola", "mug")
    before = finder.maps(scene, [plain])
    found = []
    for seed in (0, 1):
        with worn(finder.model, [token(finder.model, seed)]):
            found.append(finder.maps(scene, [finder.prompt(TEXT, "<new1> mug")]))
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert (finder.maps(scene, [plain]) == before).all()


@pytest.mark.parametrize(
    ("read", "words"),
    [
        ("phrase", ["a", "<new1>", "mug", "filled", "with", "cola"]),
        ("content", ["<new1>", "mug", "cola"]),
        ("subject", ["<new1> mug"]),
    ],
)
def test_which_words_are_read(read, words) -> None:
    (phrase,) = localiser(read=read).prompt(TEXT, "<new1> mug").phrases
    assert [TEXT[a:b] for a, b in phrase.spans] == words
    with pytest.raises(InputError, match="does not stand in it"):
        localiser().prompt("a cup", "<new1> mug")


def test_rows_differ_in_what_they_say(image) -> None:
    finder = localiser()
    calls: list[Query] = []

    def learned(query: Query):
        calls.append(query)
        return token(finder.model)

    queries = [Query("mug01", "<new1>", "mug", "a mug filled with cola")]
    found = {}
    for asks in ("both", "subject", "context"):
        method = SelfCrossMethod(finder, learned, asks)
        segments = method.segments(image, queries, item="scene", seed=0)
        found[asks] = method.relevance(image, segments, queries, item="scene", seed=0)
    assert calls == queries * 2, "Context only asks for no token"
    assert len({values.tobytes() for values in found.values()}) == 3
    other = [Query("mug01", "<new1>", "mug", "a mug on a book")]
    subject = SelfCrossMethod(finder, learned, "subject")
    again = subject.relevance(image, segments, other, item="scene", seed=0)
    assert (again == found["subject"]).all(), "Subject only knows no context"


def test_means_inside_segments() -> None:
    maps = np.arange(8.0).reshape(1, 2, 4)
    segments = np.zeros((3, 2, 4), dtype=bool)
    segments[0, 0] = segments[1, :, 0] = True
    assert mean_inside(maps, segments).tolist() == [[1.5, 2.0, 0.0]]
    assert mean_inside(maps, segments[:0]).shape == (1, 0)


def test_a_class_that_is_probably_not_there_is_said(image, caplog) -> None:
    finder = localiser(doubt_below=1e6)
    finder.look(image, "mug", item="scene", seed=0)
    assert "scene: probably no mug in the image" in caplog.text


def test_settings_that_are_not_read_are_refused() -> None:
    with pytest.raises(ValidationError, match="found by selfcross"):
        LocaliserConfig.model_validate({"attention": {"method": "cross"}})
    with pytest.raises(ValidationError, match="in one pass"):
        LocaliserConfig.model_validate({"attention": {"noise_batch": 2}})
