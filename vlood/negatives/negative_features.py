"""The negative side of a detector: a unit vector a negative label, and the order of its groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.features.unit_rows import named_unit_rows


@dataclass(frozen=True, eq=False)
class NegativeFeatures:
    """What stands for everything that is not one of the classes.

    Attributes:
        names: M negative labels.
        features: float32 [M, D], every row of length 1, in the order of mining.
        permutation: int64 [M], the order in which grouped scores take the rows. It is drawn once
            and stored, so that a detector's groups are the same everywhere.
    """

    names: tuple[str, ...]
    features: NDArray[np.float32]
    permutation: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        features: NDArray[np.floating],
        permutation: NDArray[np.integer] | None = None,
        *,
        seed: int = 0,
    ) -> NegativeFeatures:
        """Normalise raw features [M, D]; draw the permutation where none is given.

        Raises:
            UsageError: not 2-D, another number of rows than names, or a row that is not finite or
                is all zeros.
        """
        rows = named_unit_rows("negative", names, features)
        if permutation is None:
            permutation = np.random.default_rng(seed).permutation(len(rows))
        return cls(tuple(names), rows, np.asarray(permutation, np.int64))

    def __len__(self) -> int:
        return len(self.names)


def is_permutation(order: NDArray[np.int64], count: int) -> bool:
    """Say whether an array holds each of the numbers below ``count`` once."""
    return order.shape == (count,) and bool(np.array_equal(np.sort(order), np.arange(count)))
