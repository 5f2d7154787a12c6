"""Which rows a method of feature space looks at: embeddings of length 1, or as the tower gives.

Kept with the detector and held against what it scores, since normalising embeddings that were not
normalised in training changes every score without a sign of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods.contract import check_choice, check_positive, setting
from vlood.training.labelled import LabelledFeatures, check_every_class
from vlood.training.probe import mean_length

EMBEDDINGS = ("unit", "raw")
# Lengths of stored unit rows are off by up to 5e-4.
_UNIT_WITHIN = 2e-3
_EXACTLY = 1e-6
# Below this share of their length embeddings do not differ from each other.
_SAME_WITHIN = 1e-6


@dataclass(frozen=True)
class RowSettings:
    """The settings that every method of feature space has."""

    method: ClassVar[str] = ""

    embeddings: str = setting(
        "unit",
        help="unit: embeddings of length 1, in training and scoring; raw: as the tower gives them",
        unit="-",
        source="k-NN (Sun et al. 2022): the length of contrastive features carries no class",
    )
    length: float = setting(
        0.0,
        help="mean length of the embeddings it was trained on, written by training; 0: not known",
        unit="-",
        source="tells raw embeddings from normalised ones",
    )

    def __post_init__(self) -> None:
        check_choice(self.method, "embeddings", self.embeddings, EMBEDDINGS)
        check_positive(self.method, "length", self.length, or_zero=True)


def training_rows(
    images: LabelledFeatures, settings: Any, names: Sequence[str]
) -> tuple[NDArray[np.float32], Any]:
    """Return the rows [N, D] to train on, and the settings with what is known of them.

    Embeddings that all have length 1 already make a detector of unit embeddings, whatever was
    asked for: it is the same in training, and raw embeddings must not reach it unscaled.

    Raises:
        UsageError: a class has no image, or all embeddings are the same.
    """
    check_every_class(images.labels, names)
    if has_length_one(images.raw):
        settings = replace(settings, embeddings="unit")
    rows = images.raw
    # What has length 1 to the last digit is not copied: a bank may take gigabytes.
    if settings.embeddings == "unit" and (np.abs(row_lengths(rows) - 1) > _EXACTLY).any():
        rows = unit(rows)
    rows = np.ascontiguousarray(rows, np.float32)
    length = mean_length(rows)
    if len(rows) > 1 and not (np.ptp(rows, axis=0) > _SAME_WITHIN * length).any():
        raise UsageError(
            f"{settings.method}: all {len(rows)} training embeddings are the same; they come from "
            "a broken model or a constant input, so embed the images again"
        )
    return rows, replace(settings, length=length)


def scored_rows(settings: Any, images: ImageFeatures, width: int) -> NDArray[np.float32]:
    """Return the rows [N, D] that a detector scores.

    Raises:
        UsageError: they have another width than in training, or are of length 1 where the detector
            was trained on raw ones, whose length counts.
    """
    if images.raw.shape[1] != width:
        raise UsageError(
            f"the image embeddings are {images.raw.shape[1]} wide and {settings.method} was "
            f"trained on {width}; both must come from one model"
        )
    if settings.embeddings == "unit":
        return images.unit
    refuse_normalised(settings.method, settings.length, images.raw)
    return images.raw


def refuse_normalised(method: str, length: float, rows: NDArray[np.float32]) -> None:
    """Refuse rows [N, D] of length 1 where those of training had another length.

    Raises:
        UsageError: they are.
    """
    if not near_one(length) and has_length_one(rows):
        raise UsageError(
            f"{method}: was trained on embeddings as the tower gives them, and these are "
            "normalised to length 1; score raw ones, or train with --set embeddings=unit"
        )


def near_one(length: float) -> bool:
    """Say whether a tower's raw embeddings may have length 1 by chance."""
    return 0.5 < length < 2


def has_length_one(rows: NDArray[np.float32]) -> bool:
    """Say whether every embedding [N, D] was normalised."""
    if len(rows) == 0:
        return False
    return bool((np.abs(row_lengths(rows) - 1) < _UNIT_WITHIN).all())


def row_lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the length of each row of [N, D], without a copy of them."""
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", rows, rows)))


def class_means(
    rows: NDArray[np.float32], labels: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """Return the mean of each class's rows, float64 [K, D]."""
    total = np.zeros((classes, rows.shape[1]))
    for label in range(classes):
        total[label] = rows[labels == label].mean(axis=0, dtype=np.float64)
    return total
