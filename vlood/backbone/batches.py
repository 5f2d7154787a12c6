"""Batches that shrink when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from vlood.errors import VloodError

_LOG = logging.getLogger(__name__)
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")

T = TypeVar("T")


class ShrinkingBatches:
    """Run over rows in batches, halving the batch, for good, when the device is full.

    Attributes:
        limit: most rows a batch may have; None until memory ran out for the first time.
    """

    def __init__(self, what: str, limit: int | None = None) -> None:
        self.what = what
        self.limit = limit

    def map(self, rows: int, run: Callable[[slice], T]) -> Iterator[T]:
        """Yield ``run(slice)`` for slices that cover 0..rows in order.

        Raises:
            VloodError: not even one row fits.
        """
        start = 0
        while start < rows:
            stop = rows if self.limit is None else min(rows, start + self.limit)
            result = self._attempt(run, slice(start, stop))
            if result is None:
                # Retried out here: inside an except block the failed tensors are still held.
                self._halve(stop - start)
                continue
            yield result[0]
            start = stop

    def _attempt(self, run: Callable[[slice], T], rows: slice) -> tuple[T] | None:
        try:
            return (run(rows),)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _halve(self, size: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise VloodError(
                f"memory runs out with a single {self.what} in the model; use a smaller model, "
                "--precision bf16 or --device cpu"
            )
        self.limit = size // 2
        _LOG.warning(
            "memory ran out with %d %ss at once; going on with %d", size, self.what, self.limit
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error of torch means that the device or the host is out of memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in _SIGNS)
