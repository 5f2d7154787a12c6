"""Settings of the training loop, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from vlood.errors import UsageError
from vlood.training.schedules import Schedule

OPTIMIZERS = ("sgd", "adam", "adamw")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class LoopSettings:
    """How a run is optimised.

    Attributes:
        epochs: passes over the rows.
        learning_rate: at the schedule's height.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        momentum: of ``sgd``.
        nesterov: whether that momentum is Nesterov's.
        weight_decay: L2 penalty of ``sgd`` and ``adam``; decoupled in ``adamw``.
        decay_dims: fewest dimensions a tensor has that decays: 2 leaves biases and norms alone.
        betas: of ``adam`` and ``adamw``.
        eps: of both; the default of torch, 1e-8, is too small in half precision.
        schedule: how the rate moves.
        accumulate: parts that a step's rows go through the model in, one after another: the same
            step with less memory.
        precision: of the loss's computation: ``fp32``, ``bf16``, ``fp16`` (with loss scaling), or
            ``auto``, that of the model. The trained tensors are in single precision always.
        clip: longest gradient, over all tensors together; 0 for any length.
        patience: epochs without a better held-out loss before the run stops, and the best tensors
            are taken; 0: all epochs, and the last tensors.
        checkpoint_seconds: time between two states that are kept.
        checkpoint_steps: keep a state every so many steps too; 0: by time alone.
    """

    epochs: int
    learning_rate: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_dims: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    schedule: Schedule = field(default_factory=Schedule)
    accumulate: int = 1
    precision: str = "auto"
    clip: float = 0.0
    patience: int = 0
    checkpoint_seconds: float = 10.0
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UsageError(
                f"training: learning_rate is {self.learning_rate}; expected a finite number, more "
                "than zero, such as 0.002"
            )
        for name, least in (
            ("epochs", 1),
            ("accumulate", 1),
            ("patience", 0),
            ("checkpoint_steps", 0),
            ("decay_dims", 0),
        ):
            if getattr(self, name) < least:
                raise UsageError(
                    f"training: {name} is {getattr(self, name)}; expected a whole number, {least} "
                    "or more"
                )
        for name in ("weight_decay", "clip", "checkpoint_seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(
                    f"training: {name} is {getattr(self, name)}; expected a finite number, zero or "
                    "more"
                )
        if not 0 <= self.momentum < 1:
            raise UsageError(
                f"training: momentum is {self.momentum}; expected a number from 0 to below 1"
            )
        if self.nesterov and self.momentum == 0:
            raise UsageError("training: nesterov needs a momentum above 0")
        if not self.eps > 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(
                f"training: eps is {self.eps} and betas are {self.betas}; expected eps above zero "
                "and betas from 0 to below 1"
            )
        for name, allowed in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"training: {name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(allowed)}"
                )
