"""The loop of every tuned method: named tensors, a loss, rows, and a run that can be stopped.

A method brings trainable tensors, a loss of some rows and a source of rows that is a pure function
of epoch and step. A run that was stopped and goes on gives the same bytes, on one CPU, as one that
never was: all chance comes from :mod:`vlood.training.draws`, and the optimiser's state is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.errors import UsageError, VloodError
from vlood.training.checkpoints import RunFolder, Saved, TrainingLog
from vlood.training.costs import CostProbe
from vlood.training.draws import generator
from vlood.training.settings import LoopSettings
from vlood.training.steps import Loss, Rows, StepInputs, StepReport, Trained
from vlood.training.workers import Workers, workers

__all__ = ["Loss", "Rows", "StepInputs", "StepReport", "Trained", "train"]

_OPTIMISER, _BEST = "optimizer.", "best."
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class _Place:
    """Where a run is; everything a state keeps that is no tensor."""

    step: int = 0
    best: float | None = None
    worse: int = 0
    stopped: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)


def train(
    tensors: Mapping[str, torch.Tensor],
    loss: Callable[[StepInputs], Loss],
    rows: Rows,
    settings: LoopSettings,
    *,
    seed: int = 0,
    held_out: Callable[[], float] | None = None,
    run: RunFolder | None = None,
    about: Mapping[str, Any] | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    probe: CostProbe | None = None,
    model_precision: str = "fp32",
    buffers: Mapping[str, torch.Tensor] | None = None,
) -> Trained:
    """Minimise a loss.

    Args:
        tensors: what is trained, by name: leaves in single precision that require gradients, all on
            one device. Their values change in place.
        loss: of the tensors and some rows; a mean over the rows, so that parts can be joined.
        rows: the rows of each step.
        settings: of the loop.
        seed: of everything that the loss draws.
        held_out: the loss of images kept aside, for ``patience``; called after every epoch.
        run: the folder that states and the log are kept in, or None to keep nothing.
        about: what else decides the run's course, JSON-able; a run goes on only with the same.
        on_step: told after every step.
        probe: measure what the run would cost, and leave after that.
        model_precision: what ``precision`` ``auto`` means.
        buffers: what the loss changes beside the tensors, such as the statistics of a batch
            normalisation, by other names; kept and returned with them.

    Raises:
        UsageError: there is nothing to train, or the folder's run is another one.
        VloodError: the loss or a gradient is not finite, or the folder cannot be written.
    """
    names = sorted(tensors)
    if not names or any(not tensors[name].requires_grad for name in names):
        raise UsageError("training: needs tensors that require gradients")
    if settings.patience and held_out is None:
        raise UsageError("training: patience needs images that are kept aside")
    kept = {**tensors, **(buffers or {})}
    made = _Run(names, kept, loss, rows, settings, seed, held_out, model_precision)
    if probe is not None:
        probe.measure(made.once, tensors, made.total, settings.optimizer)
        return made.result()
    return made.go(run, about or {}, on_step)


class _Run:
    """One run: its tensors, of which ``names`` are trained, its optimiser and its place."""

    def __init__(
        self,
        names: list[str],
        tensors: Mapping[str, torch.Tensor],
        loss: Callable[[StepInputs], Loss],
        rows: Rows,
        settings: LoopSettings,
        seed: int,
        held_out: Callable[[], float] | None,
        model_precision: str,
    ) -> None:
        self.names, self.tensors, self.loss, self.rows = names, tensors, loss, rows
        self.settings, self.seed, self.held_out = settings, seed, held_out
        self.total = settings.epochs * rows.per_epoch
        self.place = _Place()
        self.whole = True
        self.best: dict[str, torch.Tensor] = {}
        self.workers: Workers = workers()
        self.device = tensors[names[0]].device.type
        chosen = model_precision if settings.precision == "auto" else settings.precision
        self.precision = chosen
        self.optimizer = _optimizer([tensors[name] for name in names], settings)
        # Growth every 2000 steps, torch's default, would never happen in most runs here.
        self.scaler = torch.amp.GradScaler(
            self.device, enabled="fp16" in (chosen, model_precision), growth_interval=200
        )

    def go(
        self,
        run: RunFolder | None,
        about: Mapping[str, Any],
        on_step: Callable[[StepReport], None],
    ) -> Trained:
        """Make every step that is left, keeping the state every so often."""
        log = self._begin(run, about)
        started = kept = time.monotonic()
        try:
            while self.place.step < self.total and not self.place.stopped:
                report = self.once(started, 0.0 if log is None else log.seconds)
                if log is not None:
                    log.add(_row(report))
                if self.place.step % self.rows.per_epoch == 0:
                    self._watch()
                self.whole = True
                on_step(report)
                if self._is_due(kept):
                    self._keep(run, log)
                    kept = time.monotonic()
        except KeyboardInterrupt:
            # In the middle of a step the tensors are of no step: the state kept before stays.
            if self.whole:
                self._keep(run, log)
            raise
        self._keep(run, log)
        return self.result()

    def once(self, started: float = 0.0, before: float = 0.0) -> StepReport:
        """Make one step.

        Raises:
            VloodError: its loss or its gradient is not finite.
        """
        step = self.place.step
        epoch, at = divmod(step, self.rows.per_epoch)
        rate = self.settings.schedule.rate(
            self.settings.learning_rate, step, self.rows.per_epoch, self.settings.epochs
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # The gradients' memory is free while the step's activations are at their most.
        self.optimizer.zero_grad(set_to_none=True)
        told = self._backward(self.rows.batch(epoch, at), epoch, step)
        self._complete()
        if not math.isfinite(told["loss"]):
            raise self._diverged("loss", step)
        self.whole = False
        self._descend(step)
        self.place.step += 1
        seconds = before + time.monotonic() - started
        value = told.pop("loss")
        return StepReport(self.place.step, self.total, epoch, rate, value, told, seconds)

    def result(self) -> Trained:
        """Return the tensors as they are, or the best ones where a held-out loss was watched."""
        held = self.best or {name: one.detach() for name, one in self.tensors.items()}
        epochs = -(-self.place.step // self.rows.per_epoch)
        kept = {name: tensor.clone().cpu() for name, tensor in held.items()}
        return Trained(kept, self.place.step, epochs, self.place.best)

    def _backward(self, rows: NDArray[np.int64], epoch: int, step: int) -> dict[str, float]:
        """Add up the gradients of a step's parts; return the loss and its parts."""
        count = self.settings.accumulate * self.workers.count
        sums: dict[str, torch.Tensor] = {}
        for part, some in enumerate(np.array_split(rows, count)):
            if part % self.workers.count != self.workers.rank or not len(some):
                continue
            random = generator(self.seed, "loss", step, part)
            with self._autocast():
                found = self.loss(StepInputs(some, epoch, step, random))
                total = found.total * (len(some) / len(rows))
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
            for name, value in (("loss", found.total), *found.parts.items()):
                share = value.detach().double().cpu() * (len(some) / len(rows))
                sums[name] = sums[name] + share if name in sums else share
        if self.workers.count > 1:
            self._join(sums)
        return {name: float(value) for name, value in sums.items()}

    def _complete(self) -> None:
        """Give tensors that have moments and no part in this step a gradient of nothing.

        Their moments then fade as if the step had reached them, whether or not the run was
        interrupted before it.
        """
        for name in self.names:
            tensor = self.tensors[name]
            if tensor.grad is None and tensor in self.optimizer.state:
                tensor.grad = torch.zeros_like(tensor)

    def _join(self, sums: dict[str, torch.Tensor]) -> None:
        """Sum gradients and losses over the processes, all of which have some rows or none."""
        for name in self.names:
            tensor = self.tensors[name]
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        told = torch.stack([*sums.values()]) if sums else torch.zeros(0, dtype=torch.float64)
        gathered = self.workers.gather(dict(zip(sums, told.tolist(), strict=True)))
        sums.clear()
        for one in gathered:
            for name, value in one.items():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + value
        self.workers.sum_([_grad(self.tensors[name]) for name in self.names])

    def _descend(self, step: int) -> None:
        """Let the optimiser use the gradients, unless they are not finite."""
        self.scaler.unscale_(self.optimizer)
        parameters = [self.tensors[name] for name in self.names]
        length = torch.nn.utils.get_total_norm(
            [tensor.grad for tensor in parameters if tensor.grad is not None]
        )
        # With loss scaling a gradient may leave half precision's range; the scaler skips the step.
        if not self.scaler.is_enabled() and not bool(torch.isfinite(length)):
            raise self._diverged("gradient", step)
        if self.settings.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.clip, length)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _DTYPES.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device, dtype)

    def _watch(self) -> None:
        """Look at the images kept aside, and stop when they have not been better for too long."""
        if not self.settings.patience or self.held_out is None:
            return
        with torch.no_grad(), self._autocast():
            value = float(self.held_out())
        place = self.place
        if math.isfinite(value) and (place.best is None or value < place.best):
            place.best, place.worse = value, 0
            self.best = {name: one.detach().clone() for name, one in self.tensors.items()}
        else:
            place.worse += 1
        place.stopped = place.worse >= self.settings.patience

    def _is_due(self, kept: float) -> bool:
        every = self.settings.checkpoint_steps
        if every and self.place.step % every == 0:
            return True
        return time.monotonic() - kept >= self.settings.checkpoint_seconds

    def _begin(self, run: RunFolder | None, about: Mapping[str, Any]) -> TrainingLog | None:
        """Take the run up where it was left, or at its beginning."""
        if run is None:
            return None
        described = {
            **about,
            "loop": asdict(self.settings),
            "seed": self.seed,
            "steps": self.total,
            "tensors": {name: list(self.tensors[name].shape) for name in self.names},
        }
        saved = run.begin(described) if self.workers.is_main else run.saved()
        self.workers.wait()
        if saved is not None:
            self._restore(saved, run)
        if not self.workers.is_main:
            return None
        log = TrainingLog(run.log_path, self.place.step)
        if saved is None:
            self._keep(run, log)
        return log

    def _keep(self, run: RunFolder | None, log: TrainingLog | None) -> None:
        """Write the log, then the state: rows behind the state are removed when it is read."""
        if run is None or log is None:
            return
        log.flush()
        state: dict[str, torch.Tensor] = dict(self.tensors)
        state |= {_BEST + name: tensor for name, tensor in self.best.items()}
        plain: dict[str, dict[str, Any]] = {}
        for row, entries in self.optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                if isinstance(value, torch.Tensor):
                    state[f"{_OPTIMISER}{row}.{name}"] = value
                else:
                    plain.setdefault(str(row), {})[name] = value
        scaler = self.scaler.state_dict()
        run.write(state, {"place": {**asdict(self.place), "scaler": scaler}, "optimizer": plain})

    def _restore(self, saved: Saved, run: RunFolder) -> None:
        try:
            with torch.no_grad():
                for name, tensor in self.tensors.items():
                    tensor.copy_(saved.tensors[name])
            entries: dict[int, dict[str, Any]] = {
                int(row): dict(values) for row, values in saved.about["optimizer"].items()
            }
            for name, tensor in saved.tensors.items():
                if name.startswith(_OPTIMISER):
                    row, _, key = name.removeprefix(_OPTIMISER).partition(".")
                    entries.setdefault(int(row), {})[key] = tensor
                elif name.startswith(_BEST):
                    trained = self.tensors[name.removeprefix(_BEST)]
                    self.best[name.removeprefix(_BEST)] = tensor.to(trained.device)
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
            self.place = _Place(**saved.about["place"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"--resume: {run.path} is damaged; use --overwrite to start over"
            ) from error
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(self.place.scaler)

    def _diverged(self, what: str, step: int) -> VloodError:
        return VloodError(
            f"training: the {what} of step {step + 1} of {self.total} is not a finite number; try "
            "a lower --set learning_rate, --set precision=fp32 or --set clip=1"
        )


def _optimizer(parameters: list[torch.Tensor], settings: LoopSettings) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if settings.decay_dims:
        decaying = [one for one in parameters if one.ndim >= settings.decay_dims]
        others = [one for one in parameters if one.ndim < settings.decay_dims]
        groups = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
    if settings.optimizer in ("adam", "adamw"):
        kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
        return kind(
            groups,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def _grad(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _row(report: StepReport) -> dict[str, Any]:
    """Return a step's row of the log."""
    return {
        "step": report.step,
        "epoch": report.epoch + 1,
        "lr": f"{report.rate:.8g}",
        "loss": f"{report.loss:.8g}",
        **{name: f"{value:.8g}" for name, value in report.parts.items()},
        "seconds": f"{report.seconds:.3f}",
    }
