"""Train a small head on cached embeddings: seconds on a CPU, so a run is not kept or resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor"], "Tensor"]
"""Row numbers of a batch, int64 [B], to the loss to go down by."""


@dataclass(frozen=True)
class HeadSchedule:
    """How a head is trained: AdamW, its rate by a cosine from ``learning_rate`` down to zero."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float


def train_head(
    name: str,
    parameters: Sequence[Tensor],
    loss: Loss,
    rows: int,
    schedule: HeadSchedule,
    *,
    seed: int,
) -> None:
    """Train parameters in place, by batches of all rows in an order drawn anew each epoch.

    The order is drawn on the CPU whatever the device, so that every device sees the same batches.

    Args:
        name: the method's, for what is said when training fails.
        parameters: leaf tensors of any shape that require gradients.
        loss: of a batch.
        rows: N, how many there are.
        schedule: epochs, batch size, rate.
        seed: of the order.

    Raises:
        UsageError: the loss ran off to numbers that are not finite.
    """
    import torch

    optimizer = torch.optim.AdamW(
        list(parameters), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    device = parameters[0].device
    steps = schedule.epochs * math.ceil(rows / schedule.batch_size)
    step = 0
    for _ in range(schedule.epochs):
        order = torch.randperm(rows, generator=generator).to(device)
        for batch in torch.split(order, schedule.batch_size):
            rate = schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            value = loss(batch)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
    if not all(bool(torch.isfinite(each).all()) for each in parameters):
        raise UsageError(
            f"{name}: training ran off to numbers that are not finite; use a lower "
            "--set learning_rate"
        )


def leaf(array: NDArray[Any], device: str) -> Tensor:
    """Return an array as a parameter of its shape to train, float32."""
    import torch

    return torch.tensor(np.asarray(array, np.float32), device=device).requires_grad_()


def fixed(array: NDArray[Any], device: str) -> Tensor:
    """Return an array as a tensor of its shape that is not trained."""
    import torch

    kept = np.ascontiguousarray(array)
    return torch.from_numpy(kept.copy()).to(device)


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Return trained tensors as float32 arrays."""
    return {
        name: np.ascontiguousarray(each.detach().cpu().numpy(), np.float32)
        for name, each in tensors.items()
    }
