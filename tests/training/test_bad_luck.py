"""What training does when something goes wrong: numbers, files, disks, a second run."""

from __future__ import annotations

import errno
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from several import run_together
from test_loop import CONFIG, Line, evaluate, loss_fn, net, run, same
from torch import Tensor, nn

from diffground.errors import InputError
from diffground.io.files import is_sound, seal_of
from diffground.training.batches import Batches
from diffground.training.checkpoint import BEFORE, BEST, LAST, load_weights
from diffground.training.loop import train

STEPWISE = CONFIG.model_copy(update={"checkpoint_every": 1})


class Known(Line):
    """Samples with names."""

    def name(self, index: int) -> str:
        return f"sample-{index:02d}"


class Poison(torch.autograd.Function):
    """The identity, whose gradient is not a number."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


def poisoned(kind: str, at: Tensor) -> object:
    """A loss that goes wrong on the batch that holds the sample whose x is ``at``."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        value = (model(batch[0]) - batch[1]).square().mean()
        if bool((batch[0] == at).any()):
            value = value * float("nan") if kind == "loss" else Poison.apply(value)
        return {"loss": value}

    return loss


def culprits(config: object, index: int, first: int) -> tuple[int, list[str]]:
    """The first step from ``first`` on that sees a sample, and the samples in its round."""
    batches = Batches(Known(), config, None, 0)
    for step in range(first, config.max_steps):
        for names in batches.names(step):
            if f"sample-{index:02d}" in names:
                return step, names
    raise AssertionError


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_number_that_is_none_stops_before_the_step(
    tmp_path: Path, kind: str, rounds: int, clip: float
) -> None:
    config = STEPWISE.model_copy(update={"accumulation": rounds, "grad_clip": clip})
    good = config.model_copy(update={"max_steps": 30})

    def go(loss: object) -> nn.Module:
        train(model=(model := net()), loss_fn=loss, dataset=Known(), config=good, folder=tmp_path)
        return model

    batches = Batches(Known(), good, None, 0)
    early = [name for step in (0, 1) for names in batches.names(step) for name in names]
    late = next(i for i in range(20) if f"sample-{i:02d}" not in early)
    step, names = culprits(good, late, 2)
    at = Known()[late][0]
    with pytest.raises(InputError) as error:
        go(poisoned(kind, at))
    message = str(error.value)
    assert f"{kind} of step {step}: not finite" in message
    assert f"process 0: {', '.join(names)}" in message
    assert str(tmp_path / LAST) in message
    content = torch.load(tmp_path / LAST, weights_only=True)
    assert content["record"]["step"] == step
    assert all(bool(torch.isfinite(tensor).all()) for tensor in content["model"].values())
    assert is_sound(tmp_path / LAST)
    healed = go(lambda m, b: {"loss": (m(b[0]) - b[1]).square().mean()})
    assert all(bool(torch.isfinite(p).all()) for p in healed.parameters())


def pair(rank: int, out: Path) -> None:
    """One of two processes; the second's gradient goes wrong at a checkpoint's step."""
    calls = 0

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        value = (model(batch[0]) - batch[1]).square().mean()
        return {"loss": Poison.apply(value) if rank == 1 and calls > 2 else value}

    said = "nothing"
    try:
        train(model=net(), loss_fn=loss, dataset=Known(), config=STEPWISE, folder=out / "run")
    except InputError as error:
        said = str(error)
    (out / f"{rank}.json").write_text(
        json.dumps([said, Batches(Known(), STEPWISE, None, 0).names(2)])
    )


def test_all_processes_stop_together_and_name_the_sample_of_one(tmp_path: Path) -> None:
    run_together(pair, tmp_path)
    (said, _), (too, names) = (json.loads((tmp_path / f"{r}.json").read_text()) for r in (0, 1))
    assert said == too
    assert "gradient of step 2: not finite" in said
    assert f"process 1: {', '.join(names[0])}." in said and "process 0" not in said
    content = torch.load(tmp_path / "run" / LAST, weights_only=True)
    assert content["record"]["step"] == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in content["model"].values())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


class Killed(RuntimeError):
    """Stands for the end of the process."""


def half(folder: Path) -> None:
    """A training that ended after its second checkpoint, at step 14 of 30."""
    calls = 0

    def dying(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls > 16:
            raise Killed
        return loss_fn(model, batch)

    with pytest.raises(Killed):
        train(
            model=net(), loss_fn=dying, dataset=Line(), config=CONFIG, folder=folder,
            evaluate=evaluate, monitor="score",
        )  # fmt: skip
    steps = [
        torch.load(folder / name, weights_only=True)["record"]["step"] for name in (LAST, BEFORE)
    ]
    assert steps == [14, 7] and not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("damage", "sealed"),  # nothing but its seal tells a flipped bit
    [(cut, True), (flip, True), (empty, True), (cut, False), (empty, False)],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, damage: object, sealed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    half(tmp_path / "cut")
    damage(tmp_path / "cut" / LAST)
    if not sealed:
        seal_of(tmp_path / "cut" / LAST).unlink()
    with caplog.at_level(logging.INFO, "diffground.training"):
        assert same(run(tmp_path / "cut"), run(tmp_path / "whole"))
    assert f"{tmp_path / 'cut' / LAST} is damaged and not used" in caplog.text
    assert f"{tmp_path / 'cut' / BEFORE}: continuing at step 7" in caplog.text
    for name in (LAST, BEFORE, BEST):  # the damaged one did not become the one before
        assert is_sound(tmp_path / "cut" / name)


def test_without_a_whole_checkpoint_the_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    half(tmp_path)
    cut(tmp_path / LAST)
    cut(tmp_path / BEFORE)
    with pytest.raises(InputError, match=r"before\.pt: file: damaged.*delete it"):
        run(tmp_path)


def test_killed_while_a_checkpoint_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace
    for nth in range(1, 9):  # every rename of the second and third checkpoints
        folder, count = tmp_path / f"{nth}", 0

        def killed(self: Path, target: Path, nth: int = nth) -> Path:
            nonlocal count
            count += (Path(target).parent / LAST).exists()
            if count == nth:
                raise Killed
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(Killed):
                train(model=net(), loss_fn=loss_fn, dataset=Line(), config=CONFIG, folder=folder)
        assert same(run(folder), run(tmp_path / "whole"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    ],
)
def test_a_full_disk_at_a_checkpoint_is_named_and_the_last_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save, calls = torch.save, 0

    def full(content: object, part: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            part.write_bytes(b"half of it")
            raise error
        save(content, part)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"last\.pt: file: cannot be written .*free some space"):
        run(tmp_path / "cut")
    assert not list((tmp_path / "cut").glob(".*"))
    assert torch.load(tmp_path / "cut" / LAST, weights_only=True)["record"]["step"] == 7
    assert same(run(tmp_path / "cut"), run(tmp_path / "whole"))


def test_damaged_weights_are_named_with_the_remedy(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / BEST
    load_weights(path, "train anew")
    flip(path)
    with pytest.raises(InputError, match=r"best\.safetensors: sha256: .*damaged.*; train anew"):
        load_weights(path, "train anew")
    seal_of(path).unlink()
    cut(path)
    with pytest.raises(InputError, match=r"best\.safetensors: file: .*; train anew"):
        load_weights(path, "train anew")
    path.unlink()
    with pytest.raises(InputError, match=r"best\.safetensors: file: it is missing; train anew"):
        load_weights(path, "train anew")


TRAIN = """
import sys, time, logging; sys.path.insert(0, sys.argv[1]); import test_loop as t
logging.basicConfig(level=logging.INFO)
from pathlib import Path
from diffground.training.processes import only_training
folder = Path(sys.argv[2])
slow = lambda m, b: (time.sleep(0.03), t.loss_fn(m, b))[1]
with only_training(folder):
    found = t.train(model=t.net(), loss_fn=slow, dataset=t.Line(), config=t.CONFIG, folder=folder,
                    evaluate=t.evaluate, monitor="score")
print(found.resumed_at)
"""


def test_of_two_runs_at_once_the_second_waits_and_finds_it_done(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAIN, str(Path(__file__).parent), str(tmp_path / "both")]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in runs]
    assert [process.returncode for process in runs] == [0, 0], said
    assert sorted(out.strip() for out, _ in said) == ["0", str(CONFIG.max_steps)]
    late = next(err for out, err in said if out.strip() != "0")
    first = next(p.pid for p, (out, _) in zip(runs, said, strict=True) if out.strip() == "0")
    assert f"both is being trained by process {first} on " in late and "waiting" in late
    content = torch.load(tmp_path / "both" / LAST, weights_only=True)["model"]
    run(tmp_path / "whole")
    whole = torch.load(tmp_path / "whole" / LAST, weights_only=True)["model"]
    assert all(torch.equal(content[name], whole[name]) for name in whole)
