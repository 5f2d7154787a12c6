"""Take class names away from a text tower: the zero-shot shift, made to measure.

COOkeD (Galesso et al. 2025) evaluates on sets whose class names CLIP handles badly. Here any
class list becomes one: the prompt names of a share of its classes are replaced by numbers, that say
nothing of what is seen. Images, labels and the names in data stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlood.errors import UsageError
from vlood.prompts.classes import ClassName


def check_name_shift(share: float, option: str = "--name-shift") -> None:
    """Refuse a share that is not in [0, 1].

    Raises:
        UsageError: naming the option and the value.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"{option} {share:g}: expected a share from 0 to 1, such as 0.5")


def without_names(
    classes: Sequence[ClassName], share: float, *, seed: int
) -> tuple[ClassName, ...]:
    """Return classes with the prompt names of a share of them replaced by numbers.

    Args:
        classes: K of them.
        share: from 0 to 1; at least one class loses its name if it is above 0.
        seed: which classes; those of a smaller share are among those of a larger one.

    Raises:
        UsageError: a share out of range.
    """
    check_name_shift(share)
    order = np.random.default_rng(seed).permutation(len(classes))
    gone = set(order[: math.ceil(round(share * len(classes), 9))].tolist())
    return tuple(
        replace(one, prompt=f"category {row + 1}") if row in gone else one
        for row, one in enumerate(classes)
    )
