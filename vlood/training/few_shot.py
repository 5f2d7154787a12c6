"""Draw K images of every class: the few-shot protocol of CoOp, LoCoOp and Local-Prompt.

Their code draws K images a class without replacement with Python's generator under the seed of the
run. So does this, with a generator of its own for each class, which gives two things theirs does
not: the images of 4 shots contain those of 2, so a learning curve is not shaken by other images at
every step, and another class in the list changes nothing for the rest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.training.labelled import check_every_class, class_counts

_SHOWN = 5


def sample_shots(
    labels: NDArray[np.int64], shots: int, seed: int, classes: Sequence[str], *, negatives: int = 0
) -> NDArray[np.int64]:
    """Draw ``shots`` rows of every class without replacement, and at most as many of a negative.

    The same labels in the same order and the same seed give the same rows, on every machine; with
    more shots, these rows and others.

    Args:
        labels: int64 [N], indices into ``classes``, and of negative labels from K on.
        shots: images a class, 1 or more.
        seed: of the draw.
        classes: K names, for what is said when there are too few.
        negatives: how many negative labels there are; those with fewer images than ``shots``, or
            none, give what they have.

    Returns:
        int64 [K * shots] without negatives, rows in ascending order.

    Raises:
        UsageError: ``shots`` is below 1, or a class has fewer images.
    """
    check_shots(shots)
    check_every_class(labels, classes, negatives=negatives)
    counts = class_counts(labels, len(classes) + negatives)[: len(classes)]
    short = [row for row, count in enumerate(counts.tolist()) if count < shots]
    if short:
        named = ", ".join(f"{classes[row]} has {counts[row]}" for row in short[:_SHOWN])
        more = f" and {len(short) - _SHOWN} more have too few" if len(short) > _SHOWN else ""
        raise UsageError(
            f"--shots {shots}: not every class has as many training images ({named}{more}); use "
            f"--shots {counts.min()} or fewer, or add images"
        )
    drawn: list[int] = []
    for row in range(len(classes) + negatives):
        own = np.flatnonzero(labels == row).tolist()
        # A seed that is text is hashed by the generator itself, the same in every process.
        random.Random(f"few-shot {seed} {row}").shuffle(own)
        drawn += own[:shots]
    return np.array(sorted(drawn), np.int64)


def check_shots(shots: int) -> None:
    """Refuse a number of shots that is none.

    Raises:
        UsageError: it is below 1.
    """
    if shots < 1:
        raise UsageError(f"--shots {shots}: expected a whole number of images a class, 1 or more")
