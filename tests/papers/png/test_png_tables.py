"""What the paper reports stands beside the run that it is of."""

from __future__ import annotations

import pytest
import tiny_png
from recipes import recipe

from diffground.errors import InputError
from diffground.experiments.result_tables import measured_row, render
from diffground.papers.png.keys import PngConfig
from diffground.papers.png.narratives import PngDataConfig
from diffground.papers.png.tables import PngTablesConfig, published, reported, row_config


def base(scale: str, *, pretrained: bool) -> PngConfig:
    return recipe(
        PngConfig,
        **{
            "scale": scale,
            "precision": "float32",
            "data": recipe(PngDataConfig, image_size=64),
            "model": {**tiny_png.MODEL, "pretrained": pretrained},
            "train": {"max_steps": 1, "batch_size": 1, "learning_rate": 1e-3},
        },
    )


def row(table: str, name: str) -> dict:
    (found,) = [row for row in published(table)["rows"] if row["name"] == name]
    return found


@pytest.mark.parametrize(
    ("scale", "pretrained", "full", "mlma", "baseline"),
    [
        ("paper", True, 67.1, 64.1, 37.8),
        ("paper", False, 64.5, None, 37.8),  # Table 1 has the full model alone
        ("mini", False, 67.1, 64.1, 37.8),  # orderings, so the table as it is printed
    ],
)
def test_a_run_without_pretraining_is_not_compared_with_pretrained_ones(
    scale, pretrained, full, mlma, baseline
):
    png = base(scale, pretrained=pretrained)
    assert reported(row("components", "+ EIPA + MLMA"), png).get("overall") == full
    assert reported(row("mlma", "+ Text-Attn"), png).get("overall") == full
    assert reported(row("components", "+ MLMA"), png).get("overall") == mlma
    assert reported(row("components", "Baseline"), png).get("overall") == baseline


def test_too_few_steps_for_the_slow_start_are_named():
    png = base("mini", pretrained=False)
    train = png.train.model_copy(update={"max_steps": 40, "warmup_steps": 30})
    png = png.model_copy(update={"train": train})
    model = row("components", "Baseline")["model"]
    row_config(png, recipe(PngTablesConfig, max_steps=31), model, 0)
    with pytest.raises(InputError, match=r"png_tables: train\.warmup_steps: must be less"):
        row_config(png, recipe(PngTablesConfig, max_steps=30), model, 0)


def test_what_is_ours_is_printed_with_every_table():
    from diffground.papers.png.tables import _table

    for name in ("components", "insertion", "mlma"):
        entry = published(name)
        rows = [measured_row(r["name"], [{"overall": 50.0}], r["paper"]) for r in entry["rows"]]
        png = base("paper", pretrained=False)
        table = _table(png, recipe(PngTablesConfig), entry, rows, 0.0)
        text = " ".join(render(table).split())
        for words in (
            "Without it, it reports the full model alone (Table 1: 64.5)",
            "The VAE decoder is frozen here",
            "weight decay of 0.01, norms and biases included",
            "mean of its tokens' embeddings",
            "All phrases of a narrative are evaluated",
        ):
            assert words in text, words
        assert ("pretrained ODISE in Table 1" in text) == (name == "insertion")
        full = entry["claims"][-1]
        (claim,) = [o for o in table.orderings if o.claim.startswith(f"{full[0]} > {full[1]} ")]
        assert claim.paper_gap is not None  # of the printed rows, whatever stands beside
