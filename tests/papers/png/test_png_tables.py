"""What the paper reports stands beside the run that it is of."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_png
from recipes import recipe

from diffground.errors import InputError
from diffground.experiments.result_tables import measured_row, render
from diffground.papers.png.config import PngConfig, PngFolders
from diffground.papers.png.tables import PngAblations
from diffground.papers.png.tables_config import PngRow, PngTablesConfig


def ablations(png: PngConfig, tmp_path: Path, **asked) -> PngAblations:
    folders = PngFolders(*[tmp_path] * 4)
    return PngAblations(png, recipe(PngTablesConfig, **asked), folders, tiny_png.backbone())


def row(table: str, name: str) -> PngRow:
    (found,) = [r for r in PngTablesConfig.published.tables[table].rows if r.name == name]
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
    tmp_path, scale, pretrained, full, mlma, baseline
):
    asked = ablations(tiny_png.config(scale=scale, model={"pretrained": pretrained}), tmp_path)

    def beside(table: str, name: str) -> float | None:
        found = row(table, name)
        return found.beside(asked.config(found, 0)).get("overall")

    assert beside("components", "+ EIPA + MLMA") == beside("mlma", "+ Text-Attn") == full
    assert beside("components", "+ MLMA") == mlma
    assert beside("components", "Baseline") == baseline


def test_too_few_steps_for_the_slow_start_are_named(tmp_path):
    png = tiny_png.config()
    train = png.train.model_copy(update={"max_steps": 40, "warmup_steps": 30})
    png = png.model_copy(update={"train": train})
    ablations(png, tmp_path, max_steps=31).config(row("components", "Baseline"), 0)
    with pytest.raises(InputError, match=r"png_tables: train\.warmup_steps: must be less"):
        ablations(png, tmp_path, max_steps=30).config(row("components", "Baseline"), 0)


def test_rows_differ_in_what_the_paper_changes_and_the_seed_only(tmp_path):
    png = tiny_png.config()
    asked = ablations(png, tmp_path, max_steps=3)
    changed = asked.config(row("insertion", "Decoder"), 7)
    assert changed.model.insertion == "decoder"
    assert (changed.train.seed, changed.train.max_steps) == (7, 3)
    assert not changed.model.mlma.bi_attention and changed.model.mlma.deformable
    assert changed.model.mlma.width == png.model.mlma.width
    assert changed.model.eipa == png.model.eipa and changed.data == png.data
    for table in PngTablesConfig.published.tables.values():
        for found in table.rows:
            assert asked.config(found, 0).model.learns


def test_what_is_ours_is_printed_with_every_table(tmp_path):
    asked = ablations(tiny_png.config(scale="paper"), tmp_path)
    for name, entry in PngTablesConfig.published.tables.items():
        rows = [measured_row(r.name, [{"overall": 50.0}]) for r in entry.rows]
        table = asked.heading.table(entry, rows)
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
        assert len(table.orderings) == len(entry.claims)
        for claim in table.orderings:  # of the printed rows, whatever stands beside
            assert (claim.paper_gap is None) == ("UNet blind" in claim.claim)
