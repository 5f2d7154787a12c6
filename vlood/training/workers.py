"""The processes of a data-parallel run, by Hugging Face Accelerate; one process needs none of it.

Started by ``accelerate launch``, every process takes its part of each step's rows, and the sum of
their gradients is what one process would have had. Only the main one writes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch


@dataclass(frozen=True)
class Workers:
    """Say which of the run's processes this one is.

    Attributes:
        rank: its number.
        count: how many there are.
        state: Accelerate's ``PartialState``, or None where there is one process.
    """

    rank: int = 0
    count: int = 1
    state: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is kept."""
        return self.rank == 0

    def sum_(self, tensors: list[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def gather(self, one: dict[str, float]) -> list[dict[str, float]]:
        """Return what every process brings, in the order of their numbers."""
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, one)
        return found

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.state is not None:
            self.state.wait_for_everyone()


@lru_cache(maxsize=1)
def workers() -> Workers:
    """Join the processes that ``accelerate launch`` started; alone, return at once."""
    if int(os.environ.get("WORLD_SIZE", "1") or 1) < 2:
        return Workers()
    from accelerate import PartialState

    state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1"))
    return Workers(state.process_index, state.num_processes, state)
