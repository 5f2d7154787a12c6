"""The negative side of a detector: a unit vector a negative label, and the order of its groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.features.unit_rows import named_unit_rows


@dataclass(frozen=True)
class NegativeRow:
    """What is known of one negative label: where it is from, how close, in which words."""

    term: str
    part_of_speech: str = ""
    lex_file: str = ""
    closeness: float | None = None
    template: str = ""
    source: str = ""

    @classmethod
    def stored(cls, row: Mapping[str, Any]) -> NegativeRow:
        """Make a row of what a table holds.

        Raises:
            ValueError: a cell is of another kind.
        """
        closeness = row["closeness"]
        texts = {name: row[name] for name in row if name != "closeness"}
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("a cell that should be text is none")
        if closeness is not None and not isinstance(closeness, float):
            raise ValueError("closeness is no number")
        return cls(closeness=closeness, **texts)


@dataclass(frozen=True, eq=False)
class NegativeFeatures:
    """What stands for everything that is not one of the classes.

    Attributes:
        names: M negative labels.
        features: float32 [M, D], every row of length 1, in the order of mining.
        permutation: int64 [M], the order in which grouped scores take the rows. It is drawn once
            and stored, so that a detector's groups are the same everywhere.
        rows: what else is known of each, or nothing.
    """

    names: tuple[str, ...]
    features: NDArray[np.float32]
    permutation: NDArray[np.int64]
    rows: tuple[NegativeRow, ...] = ()

    def rows_of(self, names: Sequence[str]) -> tuple[NegativeRow, ...]:
        """Return what is known of some of them, in the order of their names."""
        known = {row.term: row for row in self.rows}
        return tuple(known.get(name) or NegativeRow(name) for name in names)

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
    """Say whether an array [n] holds each of the numbers below ``count`` once."""
    return order.shape == (count,) and bool(np.array_equal(np.sort(order), np.arange(count)))
