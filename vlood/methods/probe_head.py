"""The linear probe that the detectors built for a classifier's logits look at.

Energy, GEN, KL-matching, ViM, ReAct and ASH were proposed for the last layer of a closed-world
network. Here the network is the frozen image tower, and its last layer a linear probe, trained as
``linear-probe`` trains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import Detector, check_positive, setting
from vlood.methods.rows import RowSettings, scored_rows, training_rows
from vlood.training.gaussians import turns
from vlood.training.labelled import LabelledFeatures
from vlood.training.probe import FOLDS, choose_c, fit_logistic

HEAD = {"weight": "K D", "bias": "K"}
"""The arrays of a probe."""


@dataclass(frozen=True)
class HeadSettings(RowSettings):
    """The settings of the probe below a detector."""

    embeddings: str = setting(
        "raw",
        help="raw: embeddings as the tower gives them; unit: of length 1, in training and scoring",
        unit="-",
        source="as linear-probe",
    )
    c: float = setting(
        0.0,
        help="inverse strength of the probe's L2 penalty; 0: chosen by cross-validation, as "
        "linear-probe does",
        unit="-",
        source="as linear-probe",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.method, "c", self.c, or_zero=True)


@dataclass(frozen=True, eq=False)
class Head:
    """A trained probe and what it was trained on.

    Attributes:
        rows: the training rows, float32 [N, D].
        weight: float32 [K, D].
        bias: float32 [K].
        settings: with the strength and the kind of rows that were chosen.
    """

    rows: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    settings: Any

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the probe."""
        return {"weight": self.weight, "bias": self.bias}

    def logits(self) -> NDArray[np.float64]:
        """Return the logits of the training rows, [N, K]."""
        return linear(self.rows, self.tensors())


def fit_head(settings: Any, names: Sequence[str], images: LabelledFeatures, *, seed: int) -> Head:
    """Train the probe by logistic regression.

    Raises:
        UsageError: fewer than two classes, a class without images, or embeddings all the same.
    """
    if len(names) < 2:
        raise UsageError(
            f"{settings.method}: looks at a probe that tells classes apart and needs at least 2 of "
            "them; add classes, or use --method knn"
        )
    rows, settings = training_rows(images, settings, names)
    if settings.c == 0:
        settings = replace(settings, c=choose_c(rows, images.labels, len(names), seed=seed))
    weight, bias = fit_logistic(rows, images.labels, len(names), settings.c)
    return Head(rows, weight, bias, settings)


def unseen_logits(head: Head, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return logits [N, K] of each fold of the training rows by a probe trained on the others.

    Below five images of some class there is no such probe: the logits are the probe's own.
    """
    classes = len(head.weight)
    if np.bincount(labels, minlength=classes).min() < FOLDS:
        return head.logits()
    fold = turns(labels, classes) % FOLDS
    found = np.empty((len(labels), classes))
    for number in range(FOLDS):
        out = fold == number
        weight, bias = fit_logistic(head.rows[~out], labels[~out], classes, head.settings.c)
        found[out] = linear(head.rows[out], {"weight": weight, "bias": bias})
    return found


def head_rows(detector: Detector, images: ImageFeatures) -> NDArray[np.float32]:
    """Return the rows [N, D] that a detector's probe sees.

    Raises:
        UsageError: they do not fit those of training.
    """
    return scored_rows(detector.settings, images, detector.tensors["weight"].shape[1])


def head_logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the probe's logits, [N, K]."""
    return linear(head_rows(detector, images), detector.tensors)


def linear(rows: NDArray[np.floating], tensors: Any) -> NDArray[np.float64]:
    """Return W f + b in double precision, [N, K]."""
    weight = tensors["weight"].astype(np.float64)
    return np.asarray(rows.astype(np.float64) @ weight.T + tensors["bias"])
