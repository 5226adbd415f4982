"""The training loop: it learns, resumes to the same numbers, and refuses what does not fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, Dataset

from diffground.errors import InputError
from diffground.training import batches
from diffground.training.batches import stream
from diffground.training.checkpoint import (
    BEST,
    LAST,
    load_weights,
    put_weights,
    save_weights,
    trainable_state,
)
from diffground.training.config import TrainConfig
from diffground.training.loop import LossFn, TrainResult, train

CONFIG = TrainConfig(
    max_steps=30, batch_size=6, learning_rate=0.02, log_every=5, checkpoint_every=7
)


class Line(Dataset[tuple[Tensor, Tensor]]):
    """y = 3x - 1."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.tensor([index / 10.0])
        return x, 3 * x - 1


class Net(nn.Module):
    """A trained part with a batch norm, on a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(1, 4).requires_grad_(False)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.frozen(x))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    x, y = batch
    x = x + 0.01 * torch.randn_like(x)  # randomness that a resumed run has to repeat
    return {"loss": (model(x) - y).square().mean()}


def evaluate(model: nn.Module) -> dict[str, float]:
    assert not model.training
    data = Line()
    x, y = (torch.stack(part) for part in zip(*(data[i] for i in range(len(data))), strict=True))
    return {"score": -float((model(x) - y).square().mean().detach())}


def run(folder: Path, config: TrainConfig = CONFIG, model: Net | None = None, key: str = "") -> Net:
    model = model or net()
    train(
        model=model, loss_fn=loss_fn, dataset=Line(), config=config, folder=folder,
        evaluate=evaluate, monitor="score", key=key,
    )  # fmt: skip
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_learns_and_leaves_the_frozen_part_alone(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"max_steps": 150})
    model = run(tmp_path, config)
    assert evaluate(model)["score"] > 0.1 * evaluate(net().eval())["score"]
    assert torch.equal(model.frozen.weight, net().frozen.weight)


class Killed(RuntimeError):
    """Stands for the end of the process."""


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("at", [3, 16])
def test_interrupted_run_ends_with_the_same_weights(tmp_path: Path, at: int, decay: float) -> None:
    config = CONFIG.model_copy(update={"ema_decay": decay, "evaluate_every": 10})
    whole = run(tmp_path / "whole", config)
    calls = 0

    def dying(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls > at:
            raise Killed
        return loss_fn(model, batch)

    with pytest.raises(Killed):
        train(
            model=net(), loss_fn=dying, dataset=Line(), config=config, folder=tmp_path / "cut",
            evaluate=evaluate, monitor="score",
        )  # fmt: skip
    assert same(run(tmp_path / "cut", config), whole)
    bests = [(tmp_path / name / BEST).read_bytes() for name in ("whole", "cut")]
    assert bests[0] == bests[1]


def test_kill_9_in_the_middle(tmp_path: Path) -> None:
    """A real process, really killed while it trains; a checkpoint is whole or not there."""
    script = (
        "import sys; import test_loop as t\n"
        "from doomed import stops_after\n"
        "from pathlib import Path\n"
        "doomed = stops_after(20, t.loss_fn)\n"
        "t.train(model=t.net(), loss_fn=doomed, dataset=t.Line(), config=t.CONFIG,"
        " folder=Path(sys.argv[1]), evaluate=t.evaluate, monitor='score')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "cut")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (tmp_path / "cut" / LAST).exists():
        assert process.poll() is None, "the process ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (
        torch.load(tmp_path / "cut" / LAST, weights_only=True)["record"]["step"] < CONFIG.max_steps
    )
    assert same(run(tmp_path / "cut"), run(tmp_path / "whole"))


def test_parts_learn_at_their_own_rate(tmp_path: Path) -> None:
    config = CONFIG.model_copy(
        update={"max_steps": 1, "weight_decay": 0.0, "rate_factors": {"body.": 0.5, "body.3.": 2.0}}
    )
    before, after = net(), run(tmp_path, config)
    moved = {
        name: (p - dict(before.named_parameters())[name]).abs().max().item()
        for name, p in after.named_parameters()
    }
    # Adam's first step is the learning rate, whatever the gradient.
    assert moved["body.3.weight"] == pytest.approx(0.04, rel=1e-3)
    assert moved["body.0.weight"] == pytest.approx(0.01, rel=1e-3)
    assert moved["frozen.weight"] == 0
    with pytest.raises(InputError, match="'tail'"):
        run(tmp_path / "other", config.model_copy(update={"rate_factors": {"tail": 2.0}}))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_parts_decay_by_their_own_factor(tmp_path: Path, optimizer: str) -> None:
    """Without a gradient, a step changes a weight by its decay alone."""
    options = {"optimizer": "sgd", "momentum": 0.0} if optimizer == "sgd" else {}
    config = TrainConfig(
        max_steps=1, batch_size=20, learning_rate=0.1, schedule="constant", weight_decay=0.5,
        rate_factors={"body.3.": 2.0}, decay_factors={"body.": 0.5, "body.3.bias": 0}, **options,
    )  # fmt: skip
    model = net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def still(model: nn.Module, batch: object) -> dict[str, Tensor]:
        return {"loss": 0.0 * sum(p.sum() for p in model.parameters())}

    train(model=model, loss_fn=still, dataset=Line(), config=config, folder=tmp_path)
    for name, p in model.named_parameters():
        rate = 0.0 if name.startswith("frozen") else 0.1
        factor = {"body.3.weight": 2 * 0.5, "body.3.bias": 0.0}.get(name, 0.5)
        torch.testing.assert_close(p, before[name] * (1 - rate * 0.5 * factor), msg=name)
    wrong = config.model_copy(update={"decay_factors": {"tail": 0.0}})
    with pytest.raises(InputError, match="decay_factors.*'tail'"):
        run(tmp_path / "other", wrong)
    with pytest.raises(ValueError, match="decay_factors"):
        TrainConfig(max_steps=1, batch_size=1, learning_rate=0.1, decay_factors={"body.": -1})


def test_sgd_is_the_textbook_step_and_resumes(tmp_path: Path) -> None:
    """v = m v + (g + wd p), p -= lr f v; an interrupted run keeps its velocities."""
    options = {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.1, "grad_clip": 0.0}
    config = TrainConfig(
        max_steps=3, batch_size=20, optimizer="sgd", schedule="constant", checkpoint_every=1,
        rate_factors={"body.3.bias": 2.0}, **options,
    )  # fmt: skip
    x, y = (torch.stack(part) for part in zip(*(Line()[i] for i in range(20)), strict=True))

    def plain(model: nn.Module, batch: object) -> dict[str, Tensor]:
        return {"loss": (model(x) - y).square().mean()}

    def learn(folder: Path, loss: LossFn = plain) -> Net:
        model = net()
        train(model=model, loss_fn=loss, dataset=Line(), config=config, folder=folder)
        return model

    want = net().train()
    velocity = {name: torch.zeros_like(p) for name, p in want.named_parameters()}
    for _ in range(3):
        want.zero_grad()
        plain(want, None)["loss"].backward()
        with torch.no_grad():
            for name, p in want.body.named_parameters(prefix="body"):
                velocity[name] = 0.9 * velocity[name] + p.grad + 0.1 * p
                p.sub_(0.02 * (2 if name == "body.3.bias" else 1) * velocity[name])
    got = learn(tmp_path / "whole")
    for name, p in got.named_parameters():
        torch.testing.assert_close(p, dict(want.named_parameters())[name])
    calls = iter(range(3))

    def dying(model: nn.Module, batch: object) -> dict[str, Tensor]:
        if next(calls) == 2:
            raise Killed
        return plain(model, batch)

    with pytest.raises(Killed):
        learn(tmp_path / "cut", dying)
    assert same(learn(tmp_path / "cut"), got)


def test_options_of_the_other_optimizer_are_refused() -> None:
    for options in ({"momentum": 0.9}, {"optimizer": "sgd"}):
        with pytest.raises(ValueError, match="momentum"):
            TrainConfig(max_steps=1, batch_size=1, learning_rate=0.1, **options)


def test_who_took_the_steps_is_kept(tmp_path: Path, made_by: Callable[[str], str]) -> None:
    def trained(loss: LossFn = loss_fn) -> str:
        result = train(model=net(), loss_fn=loss, dataset=Line(), config=CONFIG, folder=tmp_path)
        return result.commit

    def dying(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        if (tmp_path / LAST).exists():
            raise Killed
        return loss_fn(model, batch)

    first = made_by("a")
    with pytest.raises(Killed):
        trained(dying)
    second = made_by("b")
    assert trained() == f"{first}, {second}"
    made_by("c")
    assert trained() == f"{first}, {second}"  # nothing was left to do


def test_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path)
    result = train(
        model=(again := net()), loss_fn=loss_fn, dataset=Line(), config=CONFIG, folder=tmp_path
    )
    assert result.resumed_at == result.steps == CONFIG.max_steps
    assert same(first, again)


def test_accumulation_is_the_same_step(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.line(x)

    def still(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": (model(batch[0]) - batch[1]).square().mean()}

    ends = []
    for rounds in (1, 3):
        torch.manual_seed(0)
        model = Plain()
        config = CONFIG.model_copy(update={"accumulation": rounds})
        train(
            model=model, loss_fn=still, dataset=Line(), config=config, folder=tmp_path / str(rounds)
        )
        ends.append(model.line.weight.detach().clone())
    assert torch.allclose(ends[0], ends[1], atol=1e-5)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match="another configuration"):
        run(tmp_path, CONFIG.model_copy(update={"learning_rate": 0.1}))
    with pytest.raises(InputError, match="another configuration"):
        run(tmp_path, key="another dataset")


def test_what_changes_no_weight_does_not_refuse_a_checkpoint(tmp_path: Path) -> None:
    run(tmp_path)
    for change in (
        {"log_every": 1},
        {"evaluate_every": 10},
        {"accumulation": 3},
        {"mixed_precision": "bf16"},
    ):
        result = train(
            model=net(), loss_fn=loss_fn, dataset=Line(), config=CONFIG.model_copy(update=change),
            folder=tmp_path, evaluate=evaluate, monitor="score",
        )  # fmt: skip
        assert result.resumed_at == CONFIG.max_steps, change


def test_batches_cover_every_epoch_once_and_are_shared_out() -> None:
    config = CONFIG.model_copy(update={"batch_size": 4})
    single = stream(10, config, 0, 1, 0)
    order = [index for _ in range(5) for index in next(single)]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    pair = [stream(10, config, rank, 2, 0) for rank in (0, 1)]
    shared = [
        index
        for _ in range(5)
        for a, b in zip(next(pair[0]), next(pair[1]), strict=True)
        for index in (a, b)
    ]
    assert shared == order
    later = stream(10, config, 0, 1, 3)
    assert list(next(later)) == order[12:16]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_batches_for_a_gpu_come_from_pinned_memory(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = []
    device = SimpleNamespace(device=torch.device(kind), num_processes=1, process_index=0)
    monkeypatch.setattr(batches, "processes", lambda: device)
    monkeypatch.setattr(
        batches, "DataLoader", lambda *args, **more: loaders.append(DataLoader(*args, **more)) or ()
    )
    batches.Batches(Line(), CONFIG, None, 0)
    assert [loader.pin_memory for loader in loaders] == [kind == "cuda"]


def test_trainable_state_round_trip(tmp_path: Path) -> None:
    model = run(tmp_path)
    state = trainable_state(model)
    assert not any(name.startswith("frozen") for name in state)
    assert "body.1.running_mean" in state
    path = save_weights(state, tmp_path / "weights.safetensors")
    other = net()
    put_weights(other, load_weights(path, "make it again"), path)
    assert same(model, other)
    with pytest.raises(InputError, match="names differ"):
        put_weights(nn.Linear(1, 1), state, path)


def test_statistics_of_norms_without_parameters_are_kept() -> None:
    """And the vectors of spectral norms; those in a frozen part are not."""
    frozen = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, affine=False))
    frozen.requires_grad_(False)
    trained = nn.Sequential(spectral_norm(nn.Conv2d(2, 2, 1)), nn.BatchNorm2d(2, affine=False))
    state = trainable_state(nn.ModuleDict({"frozen": frozen, "trained": trained}))
    assert {name.partition(".")[0] for name in state} == {"trained"}
    assert set(state) == {f"trained.{name}" for name in trained.state_dict()}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "poly"])
def test_schedules_start_at_one_and_fall(schedule: str) -> None:
    config = CONFIG.model_copy(update={"schedule": schedule, "warmup_steps": 5})
    factors = [config.lr_factor(step) for step in range(config.max_steps)]
    assert factors[0] == pytest.approx(0.2) and factors[4] == factors[5] == 1.0
    assert all(a >= b for a, b in zip(factors[5:], factors[6:], strict=False))
    assert factors[-1] == 1.0 if schedule == "constant" else factors[-1] < 0.12


def test_a_rate_that_is_halved() -> None:
    config = CONFIG.model_copy(update={"schedule": "halved", "max_steps": 13_000})
    assert [config.lr_factor(step) for step in (0, 5999, 6000, 11_999, 12_000)] == [
        1.0, 1.0, 0.5, 0.5, 0.25,
    ]  # fmt: skip


def test_all_evaluations_are_kept_with_their_steps(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"max_steps": 20, "evaluate_every": 10})

    def trained(folder: Path, config: TrainConfig) -> TrainResult:
        return train(
            model=net(), loss_fn=loss_fn, dataset=Line(), config=config, folder=folder,
            evaluate=evaluate, monitor="score",
        )  # fmt: skip

    found = trained(tmp_path, config)
    assert [row["step"] for row in found.evaluations] == [10.0, 20.0]
    assert found.evaluations[-1].items() >= found.metrics.items()
    assert trained(tmp_path, config).evaluations == found.evaluations  # read from the checkpoint


@pytest.mark.parametrize(("rule", "rate"), [("linear", 0.08), ("sqrt", 0.04)])
def test_a_rate_that_was_found_at_another_batch(rule: str, rate: float) -> None:
    """Keys know the number: the same however it was said."""
    given = {"max_steps": 30, "batch_size": 24}
    scaled = {"rate": 0.02, "batch": 6, "rule": rule}
    config = TrainConfig.model_validate({**given, "learning_rate": scaled})
    assert config.learning_rate == pytest.approx(rate)
    same = TrainConfig(**given, learning_rate=config.learning_rate)
    assert config.key_content() == same.key_content()
    for wrong in ({"rate": 0.02, "batch": 6}, {**scaled, "rule": "cubic"}, {**scaled, "rate": 0}):
        with pytest.raises(ValidationError, match="learning_rate"):
            TrainConfig.model_validate({**given, "learning_rate": wrong})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", float("inf")),
        ("learning_rate", float("nan")),
        ("grad_clip", float("inf")),
        ("weight_decay", float("inf")),
        ("rate_factors", {"body.": float("nan")}),
        ("batch_size", 1_000_000),
        ("batch_size", True),
        ("seed", True),
        ("max_steps", True),
        ("log_every", False),
        ("warmup_steps", 30),
        ("warmup_steps", 31),
    ],
)
def test_values_that_no_training_can_mean(field: str, value: object) -> None:
    given = {"max_steps": 30, "batch_size": 6, "learning_rate": 0.02}
    TrainConfig(**given)
    with pytest.raises(ValidationError) as error:
        TrainConfig(**{**given, field: value})
    assert {entry["loc"][0] for entry in error.value.errors()} == {field}


def test_a_batch_larger_than_the_data_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size: 21 is more than the 20 samples"):
        run(tmp_path, CONFIG.model_copy(update={"batch_size": 21}))
