"""A calibration as JSON and arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.detector.calibration import KEPT_SCORES, Calibration, by_class
from vlood.detector.calibration_fields import (
    checked_data,
    finite,
    refused,
    stored_array,
    stored_count,
    stored_field,
    stored_number,
    stored_share,
)

SCORES, LABELS = "calibration.scores", "calibration.labels"


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Return everything but the arrays as JSON holds it; class numbers become text."""
    return {
        "threshold": calibration.threshold,
        "target_tpr": calibration.target_tpr,
        "tpr": calibration.tpr,
        "tpr_low": calibration.tpr_low,
        "tpr_high": calibration.tpr_high,
        "n": calibration.n,
        "label_conditional": calibration.labels is not None,
        "per_class": {str(each): calibration.per_class[each] for each in calibration.per_class},
        "data": dict(calibration.data),
    }


def arrays(calibration: Calibration) -> dict[str, NDArray[Any]]:
    """Return the arrays by the names they are stored under."""
    found: dict[str, NDArray[Any]] = {SCORES: calibration.scores}
    if calibration.labels is not None:
        found[LABELS] = calibration.labels
    return found


def from_stored(
    described: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    *,
    classes: int | None = None,
) -> Calibration:
    """Rebuild a calibration from :func:`to_json` and :func:`arrays`, trusting neither.

    Args:
        described: parsed JSON; fields it does not know are left alone.
        arrays: by name; arrays it does not know are left alone.
        classes: how many the detector has; class numbers at or above it are refused.

    Raises:
        UsageError: naming the first field that is missing or cannot be right.
    """
    if not isinstance(described, Mapping):
        raise refused("its description", described, "an object")
    if not isinstance(arrays, Mapping):
        raise refused("its arrays", arrays, "arrays by name")
    n = stored_count(described, "n", least=1)
    threshold = stored_number(described, "threshold")
    target, share = (stored_share(described, name) for name in ("target_tpr", "tpr"))
    low, high = (stored_share(described, name, zero=True) for name in ("tpr_low", "tpr_high"))
    if low > high:
        raise refused("tpr_low", low, f"at most tpr_high, which is {high}")
    conditional = stored_field(described, "label_conditional")
    if not isinstance(conditional, bool):
        raise refused("label_conditional", conditional, "true or false")
    scores = _stored_scores(arrays, n if conditional else min(n, KEPT_SCORES))
    labels = _stored_labels(arrays, conditional, n, classes)
    _check_threshold(scores, n, threshold, target, share)
    return Calibration(
        threshold=threshold,
        target_tpr=target,
        tpr=share,
        tpr_low=low,
        tpr_high=high,
        n=n,
        scores=scores,
        labels=labels,
        per_class=_stored_thresholds(stored_field(described, "per_class"), scores, labels),
        data=checked_data(stored_field(described, "data")),
    )


def _stored_scores(arrays: Mapping[str, Any], size: int) -> NDArray[np.float64]:
    scores = stored_array(arrays, SCORES, np.float64, size)
    if not np.isfinite(scores).all() or (scores[1:] < scores[:-1]).any():
        raise refused(SCORES, scores, "finite scores in ascending order")
    return scores


def _stored_labels(
    arrays: Mapping[str, Any], conditional: bool, n: int, classes: int | None
) -> NDArray[np.int64] | None:
    if not conditional:
        if LABELS in arrays:
            raise refused("label_conditional", False, f"true, as there is {LABELS}")
        return None
    labels = stored_array(arrays, LABELS, np.int64, n)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or (classes is not None and highest >= classes):
        wrong = lowest if lowest < 0 else highest
        last = "" if classes is None else f" to {classes - 1}"
        raise refused(f"a class number in {LABELS}", wrong, f"a class from 0{last}")
    return labels


def _check_threshold(
    scores: NDArray[np.float64], n: int, threshold: float, target: float, share: float
) -> None:
    # A grid knows the share that reaches the threshold to one step; all n scores know it exactly.
    step = 0.0 if scores.size == n else 2 / scores.size
    reached = float((scores >= threshold).mean())
    if abs(reached - share) > step + 1e-9:
        raise refused("tpr", share, f"{reached:.6g}, the share of its scores at the threshold")
    if share < target - 1e-6:
        raise refused("tpr", share, f"at least target_tpr, which is {target}")


def _stored_thresholds(
    stored: Any, scores: NDArray[np.float64], labels: NDArray[np.int64] | None
) -> dict[int, float]:
    if not isinstance(stored, Mapping):
        raise refused("per_class", stored, "an object of thresholds by class number")
    if stored and labels is None:
        raise refused("per_class", stored, "an empty object, as it is not label-conditional")
    ranges = {} if labels is None else dict(by_class(scores, labels))
    found = {}
    for name, value in stored.items():
        # The length is checked first: Python refuses to read very long whole numbers.
        usable = isinstance(name, str) and len(name) < 19 and name.isascii() and name.isdigit()
        number = int(name) if usable else -1
        if number not in ranges or name != str(number):
            raise refused("a class of per_class", name, f"a class number that is in {LABELS}")
        threshold = finite(value)
        if threshold is None or not ranges[number][0] <= threshold <= ranges[number][-1]:
            raise refused(
                f"per_class {number}", value, "a finite number within the scores of the class"
            )
        found[number] = threshold
    return found
