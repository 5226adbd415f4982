"""A trained module's folder: what is kept, what is refused, and how it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_grounded
import tiny_png
import torch

from diffground.errors import InputError
from diffground.papers.grounded.samples import Sample, SyntheticSet
from diffground.papers.grounded.trained import (
    load_module,
    new_module,
    save_module,
)
from diffground.training.checkpoint import trainable_state


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    root = tmp_path_factory.mktemp("samples")
    made = SyntheticSet.open(root / tiny_grounded.made(root)["folder"])
    return list(made.chosen(tiny_grounded.config().choice)[0])[:2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of an untrained module, whose best weights are others than its last."""
    model, card = tiny_png.backbone(), tiny_grounded.card()
    best = trainable_state(new_module(model, card.module, seed=1))
    save_module(tmp_path / "module", card, new_module(model, card.module, seed=0), best)
    return tmp_path / "module"


def test_what_is_loaded_is_what_was_saved(folder: Path, samples: list[Sample]) -> None:
    model, card = tiny_png.backbone(), tiny_grounded.card()
    for weights, seed in (("best", 1), ("last", 0)):
        trained = load_module(folder, model, weights=weights)
        assert trained.card == card
        expected = trainable_state(new_module(model, card.module, seed))
        found = trainable_state(trained.module)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {"encoder.mix.0.norm1.running_mean"} <= found.keys()


def test_masks_of_names(folder: Path, samples: list[Sample]) -> None:
    trained = load_module(folder, tiny_png.backbone())
    both = trained.scores(samples)
    for sample, found in zip(samples, both, strict=True):
        assert found.shape == sample.masks.shape
        assert 0 <= found.min() < found.max() <= 1
        (alone,) = trained.scores([sample])
        assert abs(alone - found).max() < 1e-5  # batches change nothing


def test_dropout_is_off_whatever_the_mode(folder: Path, samples: list[Sample]) -> None:
    trained = load_module(folder, tiny_png.backbone())
    assert trained.card.module.dropout > 0
    before = trained.scores(samples[:1])[0]
    trained.module.train()
    assert (trained.scores(samples[:1])[0] == before).all()
    assert trained.module.training  # as it was found


def test_a_module_of_another_backbone_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tiny_png.backbone(1)
    with pytest.raises(InputError, match=r"module\.json: fingerprint: .*trained on") as error:
        load_module(folder, other)
    assert "other_model=True" in error.value.reason
    assert load_module(folder, other, other_model=True).model is other  # 003, Table 6
    xl = tiny_grounded.turbo().model
    with pytest.raises(InputError, match=r"module\.json: maps: "):
        load_module(folder, xl, other_model=True)


def test_what_is_no_trained_module_is_refused(folder: Path, tmp_path: Path) -> None:
    model = tiny_png.backbone()
    with pytest.raises(InputError, match=r"module\.json: file: it is missing"):
        load_module(tmp_path, model)
    weights = folder / "module.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
    with pytest.raises(InputError, match=r"module\.safetensors"):
        load_module(folder, model)
    (folder / "module.json").write_text("{}")
    with pytest.raises(InputError, match=r"module\.json"):
        load_module(folder, model)


def test_a_seed_decides_the_weights() -> None:
    model, card = tiny_png.backbone(), tiny_grounded.card()
    state = torch.get_rng_state()
    one, same, other = (
        new_module(model, card.module, seed).fusion.leave[0].weight for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
