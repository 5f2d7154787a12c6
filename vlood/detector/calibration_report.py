"""Say in plain sentences what a calibration found, and what makes it doubtful."""

from __future__ import annotations

import math

import numpy as np

from vlood.detector.calibration import (
    SIGNIFICANT_DIGITS,
    Calibration,
    least_images,
    p_value_levels,
)

_FEW_IMAGES = 100


def describe(calibration: Calibration) -> str:
    """Say in a few plain sentences what was calibrated and how far to trust it."""
    told = [
        f"Images that score below {calibration.threshold:.{SIGNIFICANT_DIGITS}g} are called OOD.",
        f"Of {_count(calibration.n, 'known image')} {_percent(calibration.tpr)} "
        f"{'reaches' if calibration.n == 1 else 'reach'} it; on new ones of the same kind expect "
        f"{_interval(calibration)} (95 % interval).",
    ]
    if calibration.labels is None:
        smallest = float(p_value_levels(calibration.scores.size, calibration.n)[0])
        told.append(f"The smallest p-value is {smallest:.2g}.")
    else:
        seen = int(np.unique(calibration.labels).size)
        own = len(calibration.per_class)
        told.append(
            f"{own:,} of {_count(seen, 'predicted class', 'predicted classes')} "
            f"{'has its' if own == 1 else 'have their'} own threshold, and p-values compare "
            "images of the same predicted class."
        )
    return " ".join(told)


def warnings_of(
    calibration: Calibration,
    training_digest: str | None = None,
    *,
    shared_images: int = 0,
    classes: int | None = None,
) -> list[str]:
    """Return sentences on what makes a calibration doubtful; none if nothing does.

    Args:
        calibration: what to judge.
        training_digest: :func:`set_digest` of the images the detector was trained on.
        shared_images: the :func:`overlap` with them.
        classes: how many the detector has; with a single one it can predict no other.
    """
    told = []
    n, target = calibration.n, calibration.target_tpr
    if n < _FEW_IMAGES:
        told.append(
            f"{_count(n, 'calibration image')} set the threshold, so its true rate is uncertain "
            f"({_interval(calibration)}); use {_FEW_IMAGES} or more."
        )
    least = least_images(target)
    if n < least:
        more = f"; use {int(least):,} or more" if math.isfinite(least) else ""
        told.append(
            f"A target of {_percent(target, 4)} puts the threshold at the lowest score of "
            f"{_count(n, 'image')}, which one odd image can move{more}."
        )
    digest = calibration.data.get("digest")
    if training_digest is not None and digest == training_digest:
        told.append(
            "The calibration images are the training images, on which scores run high; "
            "calibrate with images the detector has not seen."
        )
    elif shared_images > 0:
        told.append(
            f"{_count(shared_images, 'calibration image')} of {n:,} also trained the detector, and "
            "scores run high on those; leave them out."
        )
    if classes != 1 and n > 1:
        for name, what in (("predicted_classes", "are predicted as"), ("labels", "are of")):
            if calibration.data.get(name) == 1:
                told.append(
                    f"All calibration images {what} one class, so nothing is known of how the "
                    "others score; add images of every class."
                )
                break
    if calibration.labels is not None:
        alone = int((np.unique(calibration.labels, return_counts=True)[1] == 1).sum())
        if alone > 0.01 * (n + 1):
            told.append(
                f"{_count(alone, 'calibration image')} of {n:,} had a predicted class of their "
                "own, so classes without any are to be expected, whose p-values compare with all "
                "images; add images of the rare classes."
            )
    return told


def _interval(calibration: Calibration) -> str:
    return f"{100 * calibration.tpr_low:.1f} to {_percent(calibration.tpr_high)}"


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}g} %" if digits else f"{100 * share:.1f} %"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
