"""What goes into a step of the training loop and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class StepInputs:
    """What a loss is given.

    Attributes:
        rows: int64 [B], the rows of this part of the step.
        epoch: from 0.
        step: from 0, over the whole run.
        random: a generator of this part's own, for whatever the loss draws.
    """

    rows: NDArray[np.int64]
    epoch: int
    step: int
    random: np.random.Generator


class Loss(NamedTuple):
    """A loss, a mean over the rows: the scalar that is minimised, and scalars that are logged."""

    total: torch.Tensor
    parts: Mapping[str, torch.Tensor] = {}


class Rows(Protocol):
    """Where a step's rows come from, such as :class:`~vlood.training.draws.ShuffledRows`."""

    @property
    def per_epoch(self) -> int:
        """Return the steps of an epoch."""
        ...

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the rows [B] of a step of an epoch; the same whenever it is asked."""
        ...


@dataclass(frozen=True)
class StepReport:
    """What a watcher is told after a step: ``step`` of ``steps`` is done."""

    step: int
    steps: int
    epoch: int
    rate: float
    loss: float
    parts: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a run.

    Attributes:
        tensors: by name, on the CPU; the best ones where ``patience`` watched.
        steps: how many were made.
        epochs: how many were begun.
        held_out: the lowest held-out loss, or None where nothing was held out.
    """

    tensors: Mapping[str, torch.Tensor]
    steps: int
    epochs: int
    held_out: float | None
