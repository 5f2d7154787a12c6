"""What a run would cost, measured on two of its steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

# Numbers of the optimiser's own, a trained number.
_STATES = {"sgd": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    Attributes:
        trainable: numbers that are trained.
        steps: of the run.
        step_seconds: of one step, measured.
        state_bytes: of the state that is kept.
        peak_memory_bytes: most memory so far, of the GPU where it is used, else of this process,
            with the model and the measured step; None where the system does not tell.
    """

    trainable: int
    steps: int
    step_seconds: float
    state_bytes: int
    peak_memory_bytes: int | None


class CostProbe:
    """Given to a run, it measures it instead of making it; of a run in stages, their sum."""

    def __init__(self) -> None:
        self.cost: Cost | None = None

    def measure(
        self,
        step: Callable[[], object],
        tensors: Mapping[str, torch.Tensor],
        steps: int,
        optimizer: str,
    ) -> None:
        """Make two steps and keep what the second one took."""
        device = next(iter(tensors.values())).device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        step()
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - begun
        trainable = sum(tensor.numel() for tensor in tensors.values())
        state = 4 * trainable * (1 + _STATES[optimizer])
        before = self.cost
        if before is not None:
            seconds = (before.steps * before.step_seconds + steps * seconds) / (
                before.steps + steps
            )
            trainable, steps = trainable + before.trainable, steps + before.steps
            state += before.state_bytes
        # The peak of the process covers the stages before.
        self.cost = Cost(trainable, steps, seconds, state, _peak_memory(device))


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) if sys.platform == "darwin" else int(most) * 1024
