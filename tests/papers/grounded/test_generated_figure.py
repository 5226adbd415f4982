"""Figure 1: prompts, pictures, masks by class, and which classes were never learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_grounded
import tiny_png
from pydantic import ValidationError

from diffground.errors import InputError
from diffground.papers.grounded import generated_figure
from diffground.papers.grounded.figure_config import GroundingFigureConfig
from diffground.papers.grounded.generated_figure import drawn, figure1
from diffground.papers.grounded.generator import GroundedGenerator, GroundedMasks
from diffground.papers.grounded.trained import load_module, new_module, save_module
from diffground.reporting.overlays import palette

PANEL = 176


def result(*phrases: str, prompt: str, seen: tuple[bool, ...]) -> GroundedMasks:
    """A white picture; the k-th class has the k-th quarter of its rows."""
    masks = np.zeros((len(phrases), 16, 16), bool)
    for place in range(len(phrases)):
        masks[place, 4 * place : 4 * place + 4] = True
    return GroundedMasks(
        image=np.full((16, 16, 3), 255, np.uint8), phrases=phrases, masks=masks,
        scores=(0.75,) * len(phrases), score="mean probability inside the mask",
        probabilities=masks.astype(np.float32), prompt=prompt, seed=0, timestep=1.0, seen=seen,
    )  # fmt: skip


def test_a_row_is_the_picture_its_masks_and_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list = []
    plain = generated_figure.sheet
    monkeypatch.setattr(
        generated_figure,
        "sheet",
        lambda titles, r, *a, **k: rows.extend(r) or plain(titles, r, *a, **k),
    )
    # Asked for in another order than the sentence has them.
    two = result("sofa", "cat", prompt="a cat and a sofa", seen=(False, True))
    page = drawn([two, result("mug", prompt="a mug", seen=(True,))], "mini")
    assert page.width > 4 * PANEL
    assert [len(row.pictures) for row in rows] == [4, 4], "as many panels as the widest row"
    picture, masks, cat, sofa = (np.asarray(one) for one in rows[0].pictures)
    assert (picture == 255).all()
    quarter = PANEL // 4
    middle = (quarter // 2, quarter + quarter // 2)
    assert cat[middle[0]].max() < 10 and cat[middle[1]].min() > 245, "the second quarter's"
    assert sofa[middle[0]].min() > 245 and sofa[middle[1]].max() < 10
    words = {word.text: word for word in rows[0].words}
    red, blue = palette(2)
    assert words["sofa"].colour == red and words["cat"].colour == blue
    text = " ".join(word.text for word in rows[0].words)
    assert "0.75, unseen" in text and text.index("unseen") > text.index("sofa")


def test_prompts_are_generated_each_with_its_seed(tmp_path: Path) -> None:
    card = tiny_grounded.card()
    save_module(tmp_path, card, new_module(tiny_png.backbone(), card.module, seed=0))
    generator = GroundedGenerator(load_module(tmp_path, tiny_png.backbone()))
    row = {"prompt": "a photo of a red circle and a sofa", "classes": ["red circle", "sofa"]}
    config = GroundingFigureConfig.model_validate({"scale": "mini", "rows": [row, row], "seed": 1})
    page = np.asarray(figure1(generator, config))
    assert np.array_equal(page, np.asarray(figure1(generator, config)))
    other = config.model_copy(update={"seed": 2})
    assert not np.array_equal(page, np.asarray(figure1(generator, other)))
    wrong = {"scale": "mini", "rows": [row | {"classes": ["dog"]}], "seed": 1}
    with pytest.raises(InputError, match="'dog' is not in"):
        figure1(generator, GroundingFigureConfig.model_validate(wrong))
    with pytest.raises(ValidationError):
        GroundingFigureConfig.model_validate({"scale": "mini", "rows": [], "seed": 1})
