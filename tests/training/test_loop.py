"""The training loop on problems whose answers are known."""

from __future__ import annotations

import csv
import itertools
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vlood.errors import UsageError, VloodError
from vlood.training.checkpoints import LOG_FILE, STATE_FILE, RunFolder, without_times
from vlood.training.costs import CostProbe
from vlood.training.draws import ShuffledRows, generator, held_out
from vlood.training.loop import Loss, StepInputs, StepReport, Trained, train
from vlood.training.schedules import Schedule
from vlood.training.settings import LoopSettings
from vlood.training.workers import Workers

X = torch.from_numpy(np.random.default_rng(0).normal(size=(24, 3))).float()
Y = X @ torch.tensor([1.0, -2.0, 0.5])
PLAIN = Schedule(shape="constant")


def problem(start: float = 0.0) -> tuple[dict[str, torch.Tensor], Callable[[StepInputs], Loss]]:
    """Least squares with a little noise drawn in the loss, so that its chance is tested too."""
    weight = torch.full((3,), start, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)

    def loss(inputs: StepInputs) -> Loss:
        noise = torch.from_numpy(inputs.random.normal(size=len(inputs.rows))).float() * 1e-3
        error = X[inputs.rows] @ weight + bias - Y[inputs.rows] + noise
        fit = error.square().mean()
        return Loss(fit + 0.01 * weight.square().sum(), {"fit": fit})

    return {"weight": weight, "bias": bias}, loss


def run(settings: LoopSettings, **options: Any) -> Trained:
    tensors, loss = problem()
    rows = options.pop("rows", ShuffledRows(len(X), 5, seed=3))
    return train(tensors, loss, rows, settings, seed=3, **options)


class KilledError(Exception):
    """The process is gone: nothing can be kept any more."""


def stop_after(
    step: int, error: type[BaseException] = KeyboardInterrupt
) -> Callable[[StepReport], None]:
    def watch(report: StepReport) -> None:
        if report.step == step:
            raise error

    return watch


def test_it_finds_the_minimum() -> None:
    settings = LoopSettings(60, 0.05, schedule=PLAIN)
    found = run(settings).tensors["weight"]
    gram = X.T @ X / len(X) + 0.01 * torch.eye(3)
    np.testing.assert_allclose(found, torch.linalg.solve(gram, X.T @ Y / len(X)), atol=0.02)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, KilledError])
@pytest.mark.parametrize("stops", [(1,), (4, 5, 11), (12, 19)])
def test_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, optimizer: str, stops: tuple[int, ...], error: type[BaseException]
) -> None:
    settings = LoopSettings(5, 0.02, optimizer, weight_decay=0.01, checkpoint_steps=2, patience=9)
    watched = {"held_out": lambda: 1.0}
    whole = run(settings, run=RunFolder(tmp_path / "whole"), **watched)
    folder = tmp_path / "stopped"
    for step in stops:
        with pytest.raises(error):
            run(
                settings,
                run=RunFolder(folder, resume=True),
                on_step=stop_after(step, error),
                **watched,
            )
        kept = safe_open(folder / STATE_FILE, framework="pt").metadata()["vlood_run"]
        # A stopped run keeps its last step; a killed one goes on from the state before.
        last = step if error is KeyboardInterrupt else (step - 1) // 2 * 2
        assert json.loads(kept)["place"]["step"] == last
    again = run(settings, run=RunFolder(folder, resume=True), **watched)
    assert again.steps == whole.steps == 20
    states = [(tmp_path / name / STATE_FILE).read_bytes() for name in ("whole", "stopped")]
    assert states[0] == states[1]
    logs = [
        without_times((tmp_path / name / LOG_FILE).read_bytes()) for name in ("whole", "stopped")
    ]
    assert logs[0] == logs[1]
    assert [row["step"] for row in csv.DictReader(logs[0].decode().splitlines())] == [
        str(step) for step in range(1, 21)
    ]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_tensor_without_a_part_in_some_steps_goes_on_the_same_after_a_stop(
    tmp_path: Path, optimizer: str
) -> None:
    def halves() -> tuple[dict[str, torch.Tensor], Callable[[StepInputs], Loss]]:
        tensors = {name: torch.full((2,), 1.0, requires_grad=True) for name in "ab"}
        # Each odd step reaches only the first.
        return tensors, lambda inputs: Loss(
            sum(tensors[name].square().sum() for name in "ab"[: 2 - inputs.step % 2])
        )

    settings = LoopSettings(
        4, 0.02, optimizer, weight_decay=0.01, checkpoint_steps=1, schedule=PLAIN
    )
    rows = ShuffledRows(len(X), 8, seed=3)
    seen: list[float] = []
    tensors, loss = halves()
    whole = train(
        tensors, loss, rows, settings, seed=3,
        on_step=lambda _: seen.append(float(tensors["b"].detach()[0])),
    )  # fmt: skip
    # Its momentum carries it on through the steps that do not reach it.
    assert all(one > two for one, two in itertools.pairwise(seen))
    for stop in (1, 2, 3):
        folder = tmp_path / f"{optimizer}{stop}"
        tensors, loss = halves()
        with pytest.raises(KilledError):
            train(tensors, loss, rows, settings, seed=3, run=RunFolder(folder, resume=True),
                  on_step=stop_after(stop, KilledError))  # fmt: skip
        tensors, loss = halves()
        again = train(tensors, loss, rows, settings, seed=3, run=RunFolder(folder, resume=True))
        for name in "ab":
            assert torch.equal(whole.tensors[name], again.tensors[name])


def test_a_run_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    settings = LoopSettings(2, 0.02)
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run(settings, run=folder, on_step=stop_after(3), about={"model": {"name": "a"}})
    with pytest.raises(UsageError, match="holds a run that was stopped; --resume"):
        folder.check()
    folder.check(overwrite=True)
    again = RunFolder(tmp_path / "run", resume=True)
    again.check()
    other = LoopSettings(2, 0.03)
    with pytest.raises(UsageError, match=r"\(loop.learning_rate, model.name differ\)"):
        run(other, run=again, about={"model": {"name": "b"}})
    (tmp_path / "run" / STATE_FILE).write_bytes(b"torn")
    with pytest.raises(UsageError, match="is damaged"):
        run(settings, run=again, about={"model": {"name": "a"}})
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(UsageError, match="is in the way"):
        folder.check()


def test_accumulated_parts_are_the_big_batch() -> None:
    def quiet(accumulate: int) -> Trained:
        weight = torch.zeros(3, requires_grad=True)

        def loss(inputs: StepInputs) -> Loss:
            return Loss((X[inputs.rows] @ weight - Y[inputs.rows]).square().mean())

        settings = LoopSettings(4, 0.05, accumulate=accumulate)
        return train({"w": weight}, loss, ShuffledRows(24, 10), settings)

    one = quiet(1).tensors["w"]
    for parts in (3, 4, 16):  # parts of different lengths, and more parts than rows
        np.testing.assert_allclose(quiet(parts).tensors["w"], one, rtol=1e-5)


def test_what_is_not_finite_stops_with_its_step() -> None:
    with pytest.raises(VloodError, match=r"loss of step \d+ of 40 .* lower --set learning_rate"):
        run(LoopSettings(10, 1e12, schedule=PLAIN))
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(VloodError, match="gradient of step 1 of 1 is not a finite number"):
        train(
            {"w": weight},
            lambda _: Loss(weight.sqrt().sum()),
            ShuffledRows(1, 1),
            LoopSettings(1, 1),
        )


def test_clipping_bounds_a_step() -> None:
    weight = torch.zeros(4, requires_grad=True)
    settings = LoopSettings(1, 1.0, momentum=0, clip=0.5, schedule=PLAIN)
    train({"w": weight}, lambda _: Loss(weight.sum() * 100), ShuffledRows(1, 1), settings)
    np.testing.assert_allclose(weight.detach().norm(), 0.5, rtol=1e-5)


def test_patience_stops_and_takes_the_best() -> None:
    weight = torch.zeros(1, requires_grad=True)
    losses = iter([3.0, 1.0, 2.0, float("nan"), 0.0])
    settings = LoopSettings(9, 1.0, momentum=0, schedule=PLAIN, patience=2)
    found = train(
        {"w": weight},
        lambda _: Loss(-weight.sum()),
        ShuffledRows(4, 2),
        settings,
        held_out=lambda: next(losses),
    )
    assert (found.steps, found.epochs, found.held_out) == (8, 4, 1.0)
    assert found.tensors["w"].item() == 4.0  # as it was after two epochs of two steps
    with pytest.raises(UsageError, match="patience needs images"):
        run(LoopSettings(1, 1.0, patience=1))


def test_rates_are_those_of_the_published_recipes() -> None:
    dassl = Schedule(warmup=1)
    rates = [dassl.rate(0.002, epoch * 15, 15, 30) for epoch in range(30)]
    np.testing.assert_allclose(rates[:4], [1e-5, 2e-3, 1.995e-3, 1.978e-3], atol=5e-7)
    np.testing.assert_allclose(rates[-1], 2.185e-5, rtol=1e-3)
    assert dassl.rate(0.002, 29, 15, 30) == rates[1]  # the same through the whole epoch
    lapt = Schedule(per="step", floor=1e-8)
    assert lapt.rate(0.01, 0, 5, 4) == 0.01
    np.testing.assert_allclose(lapt.rate(0.01, 10, 5, 4), 0.01 * (1e-8 + (1 - 1e-8) / 2))
    cma = Schedule(per="step", warmup=500, warmup_shape="linear", warmup_rate=0, over="rest")
    assert [cma.rate(1e-5, step, 100, 10) for step in (0, 250, 500)] == [0, 5e-6, 1e-5]
    np.testing.assert_allclose(cma.rate(1e-5, 750, 100, 10), 5e-6)
    assert cma.rate(1e-5, 1000, 100, 10) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_single_precision_tensors(tmp_path: Path, precision: str) -> None:
    settings = LoopSettings(3, 0.05, precision=precision, checkpoint_steps=1)
    first = run(settings, run=RunFolder(tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        run(settings, run=RunFolder(tmp_path / "b"), on_step=stop_after(7))
    again = run(settings, run=RunFolder(tmp_path / "b", resume=True))
    assert first.tensors["weight"].dtype == torch.float32
    assert torch.equal(first.tensors["weight"], again.tensors["weight"])
    assert not torch.equal(first.tensors["weight"], torch.zeros(3))


def test_a_gradient_beyond_half_precision_skips_its_step() -> None:
    weight = torch.ones(1, requires_grad=True)
    # The first scales are too large for this loss; they fall until a step is made.
    settings = LoopSettings(12, 1e-6, momentum=0, schedule=PLAIN, precision="fp16")
    found = train(
        {"w": weight}, lambda _: Loss((weight.half() * 100).sum()), ShuffledRows(1, 1), settings
    )
    made = (1 - found.tensors["w"].item()) / 1e-4
    assert 1 <= round(made) < 12


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a finite number, more than zero"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"epochs": 0}, "epochs is 0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov needs"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of sgd, adam, adamw"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_wrong_settings_are_one_sentence(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        LoopSettings(**{"epochs": 1, "learning_rate": 1.0, **wrong})


def test_rows_are_a_function_of_seed_epoch_and_step() -> None:
    rows = ShuffledRows(10, 4, seed=1)
    assert rows.per_epoch == 2
    assert ShuffledRows(10, 4, drop_last=False).per_epoch == 3
    assert ShuffledRows(3, 4).per_epoch == 1
    later = rows.batch(7, 1)
    assert later.tolist() == rows.batch(7, 1).tolist()
    assert later.tolist() != rows.batch(8, 1).tolist()
    assert later.tolist() != ShuffledRows(10, 4, seed=2).batch(7, 1).tolist()
    every = np.concatenate([rows.batch(7, step) for step in range(3)])
    assert sorted(every.tolist()) == list(range(10))
    assert generator(-1, "x").integers(1 << 40) == generator(-1, "x").integers(1 << 40)
    with pytest.raises(UsageError, match="nothing to learn from"):
        ShuffledRows(0, 4)


def test_images_kept_aside_are_of_every_class() -> None:
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    train_rows, aside = held_out(labels, 0.4, seed=0)
    assert sorted([*train_rows, *aside]) == list(range(8))
    assert np.bincount(labels[aside], minlength=3).tolist() == [2, 1, 0]
    with pytest.raises(UsageError, match="every class has a single one"):
        held_out(np.arange(3), 0.5, seed=0)


def test_a_probe_measures_and_makes_no_run(tmp_path: Path) -> None:
    probe = CostProbe()
    run(LoopSettings(5, 0.02, "adamw"), probe=probe, run=RunFolder(tmp_path / "run"))
    assert probe.cost is not None
    assert (probe.cost.trainable, probe.cost.steps, probe.cost.state_bytes) == (4, 20, 48)
    assert probe.cost.step_seconds > 0
    assert not (tmp_path / "run").exists()


def test_processes_together_make_the_steps_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads stand in for two processes; what they exchange is what `Workers` would."""
    barrier = threading.Barrier(2)
    shared: dict[int, Any] = {}

    class Pair(Workers):
        def gather(self, one: dict[str, float]) -> list[dict[str, float]]:
            shared[self.rank] = one
            barrier.wait()
            found = [shared[0], shared[1]]
            barrier.wait()
            return found

        def sum_(self, tensors: list[torch.Tensor]) -> None:
            both = self.gather([tensor.clone() for tensor in tensors])  # type: ignore[arg-type]
            for tensor, one, other in zip(tensors, *both, strict=True):
                tensor.copy_(one + other)  # type: ignore[operator]

    def least_squares() -> tuple[dict[str, torch.Tensor], list[float]]:
        weight, losses = torch.zeros(3, requires_grad=True), []

        def loss(inputs: StepInputs) -> Loss:
            return Loss((X[inputs.rows] @ weight - Y[inputs.rows]).square().mean())

        settings = LoopSettings(3, 0.05, accumulate=2)
        found = train(
            {"w": weight},
            loss,
            ShuffledRows(24, 7, drop_last=False),  # the last step has fewer rows than parts
            settings,
            on_step=lambda report: losses.append(report.loss),
        )
        return dict(found.tensors), losses

    alone, losses = least_squares()
    ranks = threading.local()
    monkeypatch.setattr("vlood.training.loop.workers", lambda: Pair(ranks.number, 2))

    def work(rank: int) -> tuple[dict[str, torch.Tensor], list[float]]:
        ranks.number = rank
        return least_squares()

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(work, (0, 1)))
    for tensors, told in both:
        np.testing.assert_allclose(tensors["w"], alone["w"], rtol=1e-5)
        np.testing.assert_allclose(told, losses, rtol=1e-5)
