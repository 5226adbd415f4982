"""Training a grounding module: it learns, goes on where it was killed, and is found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import tiny_grounded
import tiny_png
import torch
from doomed import stops_after

from diffground.backbone.on_demand import Frozen
from diffground.errors import InputError
from diffground.papers.grounded import learning
from diffground.papers.grounded.features import FeatureReader
from diffground.papers.grounded.learning import Learned, collate, find_module, learn
from diffground.papers.grounded.learning_config import GroundingLoopConfig, LearningConfig
from diffground.papers.grounded.measuring import measure
from diffground.papers.grounded.samples import Sample, Samples, SyntheticSet
from diffground.papers.grounded.trained import load_module, module_logits, new_module
from diffground.training.checkpoint import load_weights

SHORT = {"steps": 12, "evaluations": 2, "checkpoint_every": 4}


def sets(root: Path) -> tuple[Samples, Samples]:
    return (
        tiny_grounded.separable(root / "samples", "train", 24),
        tiny_grounded.separable(root / "samples", "val", 8),
    )


def run(root: Path, config: LearningConfig, frozen: Frozen | None = None) -> Learned:
    training, validation = sets(root)
    return learn(
        frozen or tiny_grounded.frozen(), training, validation, config,
        root / "models", root / "features",
    )  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learning")


@pytest.fixture(scope="module")
def learned(root: Path) -> Learned:
    return run(root, tiny_grounded.learning())


def test_it_learns(root: Path, learned: Learned) -> None:
    """Of two classes, each in a quarter of the picture: all of it as a mask has an IoU of 25."""
    done = learned.training
    assert done["trained"] and done["steps"] == 60
    assert done["history"][-1]["loss"] < 0.3 * done["history"][0]["loss"]
    assert [row["step"] for row in done["evaluations"]] == [20.0, 40.0, 60.0]
    assert done["best"] == max(done["evaluations"], key=lambda row: row["class"])
    module = load_module(learned.folder, tiny_png.backbone())
    unseen = tiny_grounded.separable(root / "samples", "test", 8)
    found = measure(module, unseen, batch=3).result()
    assert found["class"] > 65
    assert module.card.classes == ("cat", "mug")
    assert (module.card.size, module.card.timestep) == ((64, 64), 1.0)


def test_a_batch_changes_no_measure(root: Path, learned: Learned) -> None:
    module, (_, validation) = load_module(learned.folder, tiny_png.backbone()), sets(root)
    one, three = (measure(module, validation, batch=batch).result() for batch in (1, 3))
    assert one == three


def test_the_best_and_the_last_are_kept(root: Path) -> None:
    """Ten times the rate makes it worse at times, so that the best is not the last."""
    config = tiny_grounded.learning(train={"evaluations": 12, "seed": 3, "learning_rate": 0.05})
    found = run(root, config)
    rows = found.training["evaluations"]
    best = found.training["best"]
    assert best["class"] == max(row["class"] for row in rows) > rows[-1]["class"]
    _, validation = sets(root)
    for weights, row in (("best", best), ("last", rows[-1])):
        module = load_module(found.folder, tiny_png.backbone(), weights=weights)
        # Features that are kept have 16 bits, and are computed here.
        assert measure(module, validation).result()["class"] == pytest.approx(row["class"], abs=0.5)


def test_what_is_there_is_not_trained_again(
    root: Path, learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "train", None)
    again = run(root, tiny_grounded.learning())
    assert again == Learned(learned.folder, learned.training | {"trained": False})
    training, validation = sets(root)
    found = find_module(
        tiny_grounded.frozen(), training, validation, tiny_grounded.learning(), root / "models"
    )
    assert found == learned.folder
    with pytest.raises(InputError, match="no module was trained with these settings"):
        find_module(
            tiny_grounded.frozen(), training[:4], validation, tiny_grounded.learning(),
            root / "models",
        )  # fmt: skip


def test_what_changes_the_key(root: Path) -> None:
    training, validation = sets(root)
    frozen, config = tiny_grounded.frozen(), tiny_grounded.learning()

    def key(changed: LearningConfig, samples: Samples = training) -> str:
        return json.dumps(learning.learning_recipe(frozen, samples, validation, changed))

    named = tiny_grounded.learning(module="mini-improved")
    sizes = tiny_grounded.learning(module=named.sizes)
    assert key(named) == key(sizes) != key(config)
    assert (named.name, sizes.name, config.name) == ("mini-improved", "mini-improved", "own")
    assert key(tiny_grounded.learning(train={"checkpoint_every": 7})) == key(config)
    assert key(tiny_grounded.learning(train={"seed": 7})) != key(config)
    assert key(config, training[:5]) != key(config)


def contents(folder: Path) -> dict[str, Any]:
    return {
        name: load_weights(folder / name, "") for name in ("module.safetensors", "last.safetensors")
    }


def test_kill_9_ends_with_the_same_weights(root: Path, tmp_path: Path) -> None:
    """Dropout, running statistics and spectral norms go on as if nothing had been."""
    config = tiny_grounded.learning(train=SHORT)
    whole = run(root, config)
    process = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path), str(tiny_png.backbone().folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not [*tmp_path.glob("models/*/last.pt")]:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not [*tmp_path.glob("models/*/module.json")]
    resumed = run(tmp_path, config)
    assert resumed.folder.name == whole.folder.name
    assert 4 <= resumed.training["resumed_at"] < 12
    same = ("evaluations", "best", "history")
    assert [resumed.training[n] for n in same] == [whole.training[n] for n in same]
    before, after = contents(whole.folder), contents(resumed.folder)
    for file, weights in before.items():
        assert any("running_mean" in name for name in weights)
        assert all(torch.equal(after[file][name], tensor) for name, tensor in weights.items())


def test_features_are_computed_or_kept(root: Path, tmp_path: Path) -> None:
    """16 bits make a little difference; where nothing is kept, nothing is written."""
    config = tiny_grounded.learning(train=SHORT, cache=False)
    training, validation = sets(tmp_path)
    computed = learn(
        tiny_grounded.frozen(), training, validation, config, tmp_path / "models", tmp_path / "none"
    )
    assert not (tmp_path / "none").exists()
    kept = run(root, tiny_grounded.learning(train=SHORT))
    first, second = (one.training["history"][0]["loss"] for one in (computed, kept))
    assert first == pytest.approx(second, rel=0.01)


def test_absent_classes_are_learned_to_be_nowhere(tmp_path: Path) -> None:
    training = tiny_grounded.separable(tmp_path, "train", 24, alone=True)
    validation = tiny_grounded.separable(tmp_path, "val", 8, alone=True)
    found = learn(
        tiny_grounded.frozen(), training, validation, tiny_grounded.learning(),
        tmp_path / "models", tmp_path / "features",
    )  # fmt: skip
    module = load_module(found.folder, tiny_png.backbone())
    scores = measure(module, validation).result()
    assert scores["absent"]["asked"] == 8
    assert scores["absent"]["area"] < 1
    assert scores["class"] > 60


def test_a_batch_of_different_numbers_of_names(root: Path) -> None:
    """What is filled up is not valid, and changes no mask of the others."""
    training, _ = sets(root)
    frozen, config = tiny_grounded.frozen(), tiny_grounded.learning()
    lessons = learning._Lessons(FeatureReader(frozen, config.sizes.read, None), training, config)
    first, second = lessons[0], lessons[1]
    fewer = second | {"queries": second["queries"][:1], "masks": second["masks"][:1]}
    batch = collate([first, fewer])
    assert batch["valid"].tolist() == [[True, True], [True, False]]
    assert not batch["masks"][1, 1].any()
    module = new_module(frozen.model, config.sizes, seed=0)
    logits = module_logits(module, batch["features"], batch["queries"], batch["valid"])
    alone = collate([fewer])
    only = module_logits(module, alone["features"], alone["queries"], alone["valid"])
    torch.testing.assert_close(logits[1:, :1], only, rtol=1e-4, atol=1e-5)


def test_text_is_encoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = learning.embed_queries
    monkeypatch.setattr(learning, "embed_queries", lambda *a: calls.append(a) or real(*a))
    run(root, tiny_grounded.learning(train=SHORT | {"seed": 11}))
    assert len(calls) == 2  # all samples ask for the same names: once in training, once measured


def test_no_more_samples_are_in_memory_than_a_batch(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many a set has: each is read when it is asked for, and forgotten."""
    alive: set[int] = set()
    most = 0
    read = SyntheticSet._sample

    def counted(*args: Any) -> Sample:
        nonlocal most
        sample = read(*args)
        alive.add(id(sample))
        weakref.finalize(sample, alive.discard, id(sample))
        most = max(most, len(alive))
        return sample

    monkeypatch.setattr(SyntheticSet, "_sample", counted)
    run(root, tiny_grounded.learning(train=SHORT | {"seed": 12}))
    assert not alive
    # While a batch of 4 is read to be measured, the last sample of the one before is still held.
    assert 4 <= most <= 5


def test_what_cannot_be_learned_from_is_refused(root: Path, tmp_path: Path) -> None:
    training, validation = sets(root)
    frozen, config = tiny_grounded.frozen(), tiny_grounded.learning()
    folders = (tmp_path / "models", tmp_path / "features")
    with pytest.raises(InputError, match="no sample was taken"):
        learn(frozen, training[:0], validation, config, *folders)
    with pytest.raises(InputError, match="batch_size: 4 is more than the 3 samples"):
        learn(frozen, training[:3], validation, config, *folders)
    with pytest.raises(InputError, match="of another diffusion model than the samples"):
        learn(tiny_grounded.turbo(), training, validation, config, *folders)
    with pytest.raises(InputError, match="widths: 3 widths, but the UNet's maps have 4 levels"):
        sizes = tiny_grounded.module("iosd")
        learn(frozen, training, validation, tiny_grounded.learning(module=sizes), *folders)


def test_how_long_is_said_once() -> None:
    content = tiny_grounded.LEARNING["train"]
    for epochs, steps in ((None, None), (1, 1)):
        with pytest.raises(ValueError, match="either epochs or steps"):
            GroundingLoopConfig.model_validate(content | {"epochs": epochs, "steps": steps})
    by_epochs = GroundingLoopConfig.model_validate(content | {"epochs": 3, "steps": None})
    loop = by_epochs.over(10)
    assert (loop.max_steps, loop.evaluate_every) == (8, 3)  # 30 samples in batches of 4
    assert (loop.weight_decay, loop.grad_clip, loop.optimizer) == (0, 0, "adamw")  # Adam


if __name__ == "__main__":  # a training that is going to be killed
    data = tiny_grounded.config()
    learning.grounding_loss = stops_after(6, learning.grounding_loss)
    run(Path(sys.argv[1]), tiny_grounded.learning(train=SHORT), Frozen(Path(sys.argv[2]), data))
