"""Which candidates become negatives: the farthest of each part of speech.

Jiang et al. (ICLR 2024) keep a share of the nouns and the same share of the adjectives;
OpenOOD-VLM shares out a fixed total and puts adjectives first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError

ORDERS = ("nouns-first", "adjectives-first")
_ADJECTIVE = "adj"
_A_CLASS = 10
_AT_LEAST = 1_000
_AT_MOST = 10_000


@dataclass(frozen=True, eq=False)
class PartSelection:
    """The candidates of one part of speech, farthest from the classes first.

    Attributes:
        part: ``noun`` (with those of unknown kind), ``adj``, or "" for all together.
        ranking: int64, rows of the candidates by ascending closeness; ties as given.
        count: how many of them are chosen.
    """

    part: str
    ranking: NDArray[np.int64]
    count: int

    @property
    def chosen(self) -> NDArray[np.int64]:
        """The chosen rows, int64 [count]."""
        return self.ranking[: self.count]

    @property
    def rest(self) -> NDArray[np.int64]:
        """The rows [n] that replace chosen ones which turn out to be duplicates, nearest last."""
        return self.ranking[self.count :]


@dataclass(frozen=True, eq=False)
class Selection:
    """A choice of negatives, by part of speech: nouns, then adjectives."""

    parts: tuple[PartSelection, ...]

    def in_order(self, order: str = "nouns-first") -> tuple[PartSelection, ...]:
        """Return the parts in the order they take in a bank.

        Raises:
            UsageError: the order is neither ``nouns-first`` nor ``adjectives-first``.
        """
        if order not in ORDERS:
            raise UsageError(f"order {order}: is unknown; take {' or '.join(ORDERS)}")
        return self.parts if order == ORDERS[0] else self.parts[::-1]

    def rows(self, order: str = "nouns-first") -> NDArray[np.int64]:
        """Return all chosen rows [n], a part after the other, each by ascending closeness."""
        return np.concatenate([part.chosen for part in self.in_order(order)])


def select(
    value: NDArray[np.floating],
    parts: Sequence[str],
    *,
    keep: float | None = None,
    size: int | None = None,
    together: bool = False,
    allowed: NDArray[np.bool_] | None = None,
) -> Selection:
    """Choose the candidates with the smallest closeness.

    Args:
        value: closeness [N].
        parts: N parts of speech; all but ``adj`` count as nouns.
        keep: the share taken of each part of speech, floor(keep * n) of n (NegLabel).
        size: or the total, shared in proportion; adjectives get the floor, nouns the rest
            (OpenOOD-VLM). All candidates where there are fewer.
        together: let the parts of speech compete with each other.
        allowed: bool [N], the candidates that may be chosen; shares are of these alone.

    Raises:
        UsageError: neither or both of keep and size, a share outside (0, 1], or a size below 1.
    """
    if (keep is None) == (size is None):
        raise UsageError("how many negatives to keep: give either a share or a size")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError(f"the share {keep} of candidates: expected above 0 and at most 1")
    if size is not None and size < 1:
        raise UsageError(f"the size {size}: expected at least 1 negative")
    usable = np.ones(len(value), bool) if allowed is None else np.asarray(allowed, bool)
    ascending = np.argsort(value, kind="stable").astype(np.int64)
    ascending = ascending[usable[ascending]]
    if together:
        wanted = _share(keep, len(ascending)) if keep is not None else size
        return Selection((PartSelection("", ascending, min(wanted or 0, len(ascending))),))
    is_adjective = np.fromiter((part == _ADJECTIVE for part in parts), bool, len(value))
    adjectives = ascending[is_adjective[ascending]]
    nouns = ascending[~is_adjective[ascending]]
    if keep is not None:
        of_adjectives, of_nouns = _share(keep, len(adjectives)), _share(keep, len(nouns))
    else:
        total = min(size or 0, len(ascending))
        of_adjectives = total * len(adjectives) // max(1, len(ascending))
        of_nouns = total - of_adjectives
    return Selection(
        (
            PartSelection("noun", nouns, of_nouns),
            PartSelection(_ADJECTIVE, adjectives, of_adjectives),
        )
    )


def auto_size(classes: int, candidates: int) -> int:
    """Return how many negatives suit so many classes: 10 a class, between 1,000 and 10,000.

    Ten a class is the paper's 10,000 for the 1,000 classes of ImageNet. Never more than half of
    the candidates, so that the nearer half is always left out; at least 1.
    """
    return max(1, min(max(_A_CLASS * classes, _AT_LEAST), _AT_MOST, candidates // 2))


def _share(keep: float, count: int) -> int:
    # 0.29 * 100 is 28.999999999999996: a share of 29 is meant.
    return math.floor(round(keep * count, 9))
