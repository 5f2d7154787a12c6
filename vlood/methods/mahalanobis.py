"""Mahalanobis: how far an image lies from the nearest class mean, by the spread of the classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_choice,
    check_share,
    setting,
)
from vlood.methods.logits import with_labels
from vlood.methods.rows import RowSettings, scored_rows, training_rows
from vlood.prompts.templates import ClassFeatures
from vlood.training.gaussians import (
    Moments,
    moments,
    shrunk_covariance,
    whitening,
)
from vlood.training.labelled import LabelledFeatures
from vlood.training.shrinkage import choose_shrinkage

RECORD = MethodRecord(
    name="mahalanobis",
    title="Mahalanobis",
    paper=(
        "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial "
        "Attacks"
    ),
    year=2018,
    venue="NeurIPS",
    url="https://arxiv.org/abs/1807.03888",
    summary="minus the squared Mahalanobis distance to the nearest class mean",
    score_note=(
        "-min (f - m)' S^-1 (f - m), one S for all classes, shrunk; of the paper's framework the "
        "last embedding alone: no other layers, no input noise"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)

COVARIANCES = ("shrunk", "empirical")


@dataclass(frozen=True)
class MahalanobisSettings(RowSettings):
    """Settings of the Mahalanobis distances."""

    method: ClassVar[str] = "mahalanobis"

    covariance: str = setting(
        "shrunk",
        help="shrunk: (1 - g) S + g tr(S)/D I, which can always be inverted; empirical: S alone",
        unit="-",
        source="empirical: the paper, eq. 1; shrunk: Ledoit and Wolf 2004, eq. 14",
    )
    shrinkage: float = setting(
        0.0,
        help="shrunk: g; 0: that which best tells training images of classes left out from those "
        "of the others; with two classes, by the likelihood of images left out",
        unit="-",
        source="measured",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.method, "covariance", self.covariance, COVARIANCES)
        check_share(self.method, "shrinkage", self.shrinkage)


def fit(
    classes: ClassFeatures,
    settings: MahalanobisSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Estimate the class means and the covariance about them; nothing random is in it.

    The covariance is the scatter over N - K, so that many classes with few images each do not make
    it look small.

    Raises:
        UsageError: a class without images, one image a class, or embeddings that are all the same.
    """
    settings, sums, origin = class_moments(settings, classes, images)
    shared = covariance(settings, sums.scatter() / freedom(sums))
    tensors = {
        "origin": origin.astype(np.float32),
        "means": sums.means().astype(np.float32),
        "whitening": whitening(shared).astype(np.float32),
    }
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def class_moments(
    settings: Any, classes: ClassFeatures, images: LabelledFeatures
) -> tuple[Any, Moments, NDArray[np.float64]]:
    """Return the settings with the shrinkage chosen, the moments, and the origin they are about.

    Raises:
        UsageError: a class without images, one image a class, or embeddings that are all the same.
    """
    rows, settings = training_rows(images, settings, classes.names)
    if len(rows) <= len(classes.names):
        raise UsageError(
            f"{settings.method}: has one image a class, and a covariance needs at least two images "
            "of some class; give more images, or use --method knn"
        )
    # Of what is kept, so that means about it are the same when they are read again.
    origin = rows.mean(axis=0, dtype=np.float64).astype(np.float32).astype(np.float64)
    sums = moments(rows, images.labels, len(classes.names), origin)
    if settings.covariance == "shrunk" and settings.shrinkage == 0:
        chosen = choose_shrinkage(rows, images.labels, len(classes.names))
        settings = replace(settings, shrinkage=chosen)
    if not np.trace(sums.scatter()) > 1e-10 * max(1.0, np.trace(sums.second)):
        raise UsageError(
            f"{settings.method}: the images of each class all have the same embedding, so there is "
            "no spread to measure by; give different images, or use --method knn"
        )
    return settings, sums, origin


def freedom(sums: Moments) -> float:
    """Return the degrees of freedom of the scatter about class means."""
    return float(sums.counts.sum() - (sums.counts > 0).sum())


def covariance(settings: Any, measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the covariance [D, D] that the settings make of a measured one."""
    if settings.covariance == "empirical":
        return measured
    return shrunk_covariance(measured, settings.shrinkage)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: minus the least squared distance."""
    distances = class_distances(detector, images)
    return with_labels(-distances.min(axis=1), -distances / 2, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the log-densities of the classes up to a constant, [N, K]: equal priors (eq. 1)."""
    return np.asarray(-class_distances(detector, images) / 2)


def class_distances(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the squared Mahalanobis distance of every image to every class mean, [N, K]."""
    own = detector.tensors
    white = own["whitening"].astype(np.float64)
    rows = scored_rows(detector.settings, images, len(white)) - own["origin"].astype(np.float64)
    return squared_distances(rows @ white, own["means"].astype(np.float64) @ white)


def squared_distances(
    rows: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the squared distances [N, K] of rows [N, D] to centres [K, D]."""
    crossed = rows @ centres.T
    lengths = (rows**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.asarray(np.maximum(lengths - 2 * crossed, 0))


METHOD = Method(
    RECORD,
    MahalanobisSettings,
    fit,
    score,
    arrays={"origin": "D", "means": "K D", "whitening": "D D"},
    logits=logits,
)
