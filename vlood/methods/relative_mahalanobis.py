"""Relative Mahalanobis: the distance to a class less the distance to all images together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.methods.contract import Detector, Method, MethodRecord, Scores
from vlood.methods.logits import with_labels
from vlood.methods.mahalanobis import (
    MahalanobisSettings,
    class_distances,
    class_moments,
    covariance,
    freedom,
    logits,
)
from vlood.methods.rows import scored_rows
from vlood.prompts.templates import ClassFeatures
from vlood.training.gaussians import whitening
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="relative-mahalanobis",
    title="Relative Mahalanobis",
    paper="A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
    year=2021,
    venue="arXiv",
    url="https://arxiv.org/abs/2106.09022",
    summary="Mahalanobis distance to the nearest class, less that to all training images as one",
    score_note="-(min d_k(f) - d_0(f)), squared distances, both covariances shrunk alike",
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)


@dataclass(frozen=True)
class RelativeMahalanobisSettings(MahalanobisSettings):
    """Settings of the relative Mahalanobis distance."""

    method: ClassVar[str] = "relative-mahalanobis"


def fit(
    classes: ClassFeatures,
    settings: RelativeMahalanobisSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Estimate class means, the covariance about them, and that about the mean of all images.

    Raises:
        UsageError: a class without images, one image a class, or embeddings that are all the same.
    """
    settings, sums, origin = class_moments(settings, classes, images)
    shared = covariance(settings, sums.scatter() / freedom(sums))
    background = covariance(settings, sums.total_scatter() / (sums.counts.sum() - 1))
    tensors = {
        "origin": origin.astype(np.float32),
        "means": sums.means().astype(np.float32),
        "whitening": whitening(shared).astype(np.float32),
        "background_mean": sums.mean().astype(np.float32),
        "background_whitening": whitening(background).astype(np.float32),
    }
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: minus the least relative distance (section 3 of the paper)."""
    distances = class_distances(detector, images)
    relative = distances - background_distance(detector, images)[:, None]
    return with_labels(-relative.min(axis=1), -distances / 2, 1.0)


def background_distance(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the squared distance of every image to the mean of all training images, [N]."""
    own = detector.tensors
    white = own["background_whitening"].astype(np.float64)
    rows = scored_rows(detector.settings, images, len(white)).astype(np.float64)
    rows = rows - own["origin"] - own["background_mean"]
    return np.asarray(((rows @ white) ** 2).sum(axis=1))


METHOD = Method(
    RECORD,
    RelativeMahalanobisSettings,
    fit,
    score,
    arrays={
        "origin": "D",
        "means": "K D",
        "whitening": "D D",
        "background_mean": "D",
        "background_whitening": "D D",
    },
    logits=logits,
)
