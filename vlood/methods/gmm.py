"""Gaussian mixture: the density of an image under a mixture of Gaussians for every class."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    check_positive,
    check_whole,
    setting,
)
from vlood.methods.logits import log_sum_exp, with_labels
from vlood.methods.rows import RowSettings, scored_rows, training_rows
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="gmm",
    title="Gaussian mixture per class",
    paper="Mixtures of Probabilistic Principal Component Analyzers",
    year=1999,
    venue="Neural Computation",
    url="https://doi.org/10.1162/089976699300016728",
    summary="log-density under a mixture of Gaussians per class",
    score_note=(
        "log sum_c pi_c p(f | c) in the principal directions; what lies outside them has one "
        "variance, as in probabilistic PCA; one basis for all classes, where the paper has one each"
    ),
    needs=("classes", "images"),
    trains=True,
    names_only=True,
)

COVARIANCES = ("diag", "full")
_MOST_DIRECTIONS = 64
_IMAGES_PER_COMPONENT = 20
_MOST_COMPONENTS = 3


@dataclass(frozen=True)
class GmmSettings(RowSettings):
    """Settings of the Gaussian mixtures."""

    method: ClassVar[str] = "gmm"

    components: int = setting(
        0,
        help="Gaussians a class; 0: one for 20 images of the smallest class, at most 3",
        unit="Gaussians",
        source="chosen here",
    )
    directions: int = setting(
        0,
        help="principal directions of the training images; 0: 64, at most a quarter of the images",
        unit="directions",
        source="chosen here",
    )
    covariance: str = setting(
        "diag",
        help="diag: a variance for each direction; full: a covariance matrix",
        unit="-",
        source="chosen here: full needs many images a class",
    )
    ridge: float = setting(
        0.1,
        help="added to every variance, as a share of the mean variance of the directions",
        unit="-",
        source="chosen here: keeps a Gaussian of few images from collapsing",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("gmm", "components", self.components, 0)
        check_whole("gmm", "directions", self.directions, 0)
        check_choice("gmm", "covariance", self.covariance, COVARIANCES)
        check_positive("gmm", "ridge", self.ridge)


def fit(
    classes: ClassFeatures,
    settings: GmmSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Fit a mixture to the images of each class, by expectation and maximisation (scikit-learn).

    Raises:
        UsageError: a class without images or with fewer than there are Gaussians, or too many
            directions.
    """
    rows, settings = training_rows(images, settings, classes.names)
    labels, count, width = images.labels, len(rows), images.raw.shape[1]
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / count)
    directions = settings.directions or max(1, min(_MOST_DIRECTIONS, width, count // 4))
    if directions > width:
        raise UsageError(
            f"gmm: directions is {directions} and embeddings are {width} wide; use at most that"
        )
    basis = vectors[:, ::-1][:, :directions]
    left = np.maximum(values[::-1][directions:], 0)
    ridge = settings.ridge * max(float(values[::-1][:directions].mean()), 1e-12)
    # The same is added to what lies outside, where there may be no variance at all.
    noise = float(left.mean()) + ridge if len(left) else 1.0
    tensors = {
        "mean": mean.astype(np.float32),
        "basis": np.ascontiguousarray(basis.T, np.float32),
        "noise": np.array([noise], np.float32),
        **_mixtures(centred @ basis, labels, classes.names, settings, ridge, seed),
    }
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def _mixtures(
    rows: NDArray[np.float64],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    settings: GmmSettings,
    ridge: float,
    seed: int,
) -> dict[str, NDArray[Any]]:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    fewest = int(np.bincount(labels, minlength=len(names)).min())
    components = settings.components or max(
        1, min(_MOST_COMPONENTS, fewest // _IMAGES_PER_COMPONENT)
    )
    if fewest < components:
        raise UsageError(
            f"gmm: components is {components} and some class has {fewest} training images; use at "
            "most as many Gaussians as the smallest class has images"
        )
    weights, means, factors, of_class = [], [], [], []
    for label in range(len(names)):
        own = rows[labels == label]
        if len(own) == 1:
            # One image: a Gaussian of the ridge alone, which the library refuses to fit.
            own = np.repeat(own, 2, axis=0)
        mixture = GaussianMixture(
            components,
            covariance_type=settings.covariance,
            reg_covar=ridge,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(own)
        prior = float((labels == label).mean())
        weights.append(np.log(np.maximum(mixture.weights_, 1e-300)) + math.log(prior))
        means.append(mixture.means_)
        made = mixture.precisions_cholesky_
        factors.append(made[:, :, None] if settings.covariance == "diag" else made)
        of_class += [label] * components
    return {
        "log_weights": np.concatenate(weights).astype(np.float32),
        "means": np.concatenate(means).astype(np.float32),
        "factors": np.concatenate(factors).astype(np.float32),
        "component_class": np.array(of_class, np.int64),
    }


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the log-density of the whole mixture."""
    own = logits(detector, images)
    return with_labels(log_sum_exp(own), own, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the log of each class's share of the density, [N, K]."""
    own = {name: array.astype(np.float64) for name, array in detector.tensors.items()}
    directions, width = own["basis"].shape
    rows = scored_rows(detector.settings, images, width) - own["mean"]
    inside = rows @ own["basis"].T
    outside = np.maximum((rows**2).sum(axis=1) - (inside**2).sum(axis=1), 0)
    noise = float(own["noise"][0])
    around = -0.5 * outside / noise - 0.5 * (width - directions) * math.log(2 * math.pi * noise)
    densities = np.empty((len(rows), len(own["means"])))
    for place, (mean, factor) in enumerate(zip(own["means"], own["factors"], strict=True)):
        densities[:, place] = _log_density(inside - mean, factor) + own["log_weights"][place]
    of_class = detector.tensors["component_class"]
    found = [log_sum_exp(densities[:, of_class == label]) for label in np.unique(of_class)]
    return np.asarray(np.stack(found, axis=1) + around[:, None])


def _log_density(apart: NDArray[np.float64], factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log N(x; m, S) of x - m [N, P]; S^-1 is L L' with L [P, P], or its diagonal [P, 1]."""
    if factor.shape[1] == 1 and factor.shape[0] > 1:
        white, diagonal = apart * factor[:, 0], factor[:, 0]
    else:
        white, diagonal = apart @ factor, np.diagonal(factor)
    constant = np.log(diagonal).sum() - 0.5 * apart.shape[1] * math.log(2 * math.pi)
    return np.asarray(constant - 0.5 * (white**2).sum(axis=1))


def check(detector: Detector) -> None:
    """Refuse Gaussians whose classes are not the detector's, or that have no density.

    Raises:
        UsageError: naming the array.
    """
    own = detector.tensors
    wanted = np.arange(len(detector.class_names))
    if not np.array_equal(np.unique(own["component_class"]), wanted):
        raise UsageError("component_class must name every class")
    if not own["noise"][0] > 0:
        raise UsageError("noise must be above 0")
    factors = own["factors"]
    if factors.shape[2] not in (1, factors.shape[1]):
        raise UsageError("factors must be diagonals [G, P, 1] or matrices [G, P, P]")
    diagonal = factors[:, :, 0] if factors.shape[2] == 1 else np.diagonal(factors, 0, 1, 2)
    if not (diagonal > 0).all():
        raise UsageError("factors must have positive diagonals")


METHOD = Method(
    RECORD,
    GmmSettings,
    fit,
    score,
    arrays={
        "mean": "D",
        "basis": "P D",
        "noise": "A",
        "log_weights": "G",
        "means": "G P",
        "factors": "G P Q",
        "component_class": "G int",
    },
    check=check,
    logits=logits,
)
