"""Tip-Adapter: zero-shot logits helped by a cache of few training images; nothing is optimised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_choice,
    check_positive,
    check_unit_rows,
    setting,
)
from vlood.methods.logits import class_cosines, entropy, free_energy, max_probability, with_labels
from vlood.prompts.templates import ClassFeatures
from vlood.training.gaussians import turns
from vlood.training.labelled import LabelledFeatures, check_every_class, class_counts

RECORD = MethodRecord(
    name="tip-adapter",
    title="Tip-Adapter",
    paper="Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification",
    year=2022,
    venue="ECCV",
    url="https://arxiv.org/abs/2207.09519",
    summary="largest probability of zero-shot logits plus those of a cache of training images",
    score_note=(
        "max softmax(s cos + alpha sum of exp(-beta (1 - cos with an image)) by class), T = 1 on "
        "logits; training-free, the keys are not fine-tuned (no Tip-Adapter-F); the OOD score is "
        "vlood's use of it"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="MIT (the authors' code)",
)

SCORES = ("msp", "entropy", "energy")
_ALPHAS = (0.0, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0)
_BETAS = (1.0, 2.0, 5.5, 10.0, 20.0)
_FOLDS = 4


@dataclass(frozen=True)
class TipAdapterSettings:
    """Settings of Tip-Adapter."""

    score: str = setting(
        "msp",
        help="msp: the largest probability; entropy: minus the entropy; energy: log-sum-exp",
        unit="-",
        source="vlood",
    )
    alpha: float = setting(
        -1.0,
        help="weight of the cache; -1: alpha and beta by the accuracy on training images left out, "
        "1 and 5.5 with one image a class",
        unit="-",
        source="the paper, section 3.2 and its code: alpha 1, beta 5.5 for ImageNet, then searched",
    )
    beta: float = setting(
        5.5, help="how sharply near images count", unit="-", source="the paper's code"
    )

    def __post_init__(self) -> None:
        check_choice("tip-adapter", "score", self.score, SCORES)
        if self.alpha != -1:
            check_positive("tip-adapter", "alpha", self.alpha, or_zero=True)
        check_positive("tip-adapter", "beta", self.beta)


def fit(
    classes: ClassFeatures,
    settings: TipAdapterSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Keep the training images as keys and their classes as values.

    The paper adds up the images of a class, all classes having as many; here they are averaged and
    times the number of the smallest class, so that a class with many images is not favoured.

    Raises:
        UsageError: a class has no image.
    """
    check_positive(RECORD.name, "logit_scale", logit_scale)
    check_every_class(images.labels, classes.names)
    keys, labels = unit(images.raw), images.labels
    if settings.alpha == -1:
        alpha, beta = _searched(keys, labels, classes.features, logit_scale, settings.beta)
        settings = replace(settings, alpha=alpha, beta=beta)
    tensors: dict[str, NDArray[Any]] = {
        "class_features": classes.features,
        "keys": keys,
        "key_labels": labels,
    }
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images by the logits of text and cache together."""
    own = logits(detector, images)
    how = detector.settings.score
    if how == "entropy":
        return with_labels(-entropy(own), own, 1.0)
    return with_labels(max_probability(own) if how == "msp" else free_energy(own), own, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the logits [N, K] of text and cache together (eq. 4 and 5 of the paper)."""
    settings, own = detector.settings, detector.tensors
    text = class_cosines(detector, images) * detector.logit_scale
    values = _values(own["key_labels"], len(detector.class_names))
    near = images.unit @ own["keys"].T
    return np.asarray(text + settings.alpha * _cache(near, values, settings.beta))


def check(detector: Detector) -> None:
    """Refuse a stored cache whose labels or rows do not fit.

    Raises:
        UsageError: naming the array.
    """
    check_unit_rows(detector, "class_features", "keys")
    labels = detector.tensors["key_labels"]
    if labels.min() < 0 or labels.max() >= len(detector.class_names):
        raise UsageError("key_labels must be indices of the classes")


def _values(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    counts = class_counts(labels, classes)
    values = np.zeros((len(labels), classes))
    values[np.arange(len(labels)), labels] = counts[counts > 0].min() / counts[labels]
    return values


def _cache(
    near: NDArray[np.floating], values: NDArray[np.float64], beta: float
) -> NDArray[np.float64]:
    return np.asarray(np.exp(-beta * (1 - near.astype(np.float64))) @ values)


def _searched(
    keys: NDArray[np.float32],
    labels: NDArray[np.int64],
    text: NDArray[np.float32],
    scale: float,
    beta: float,
) -> tuple[float, float]:
    """Choose alpha and beta by the accuracy on folds left out; the least alpha of equal ones."""
    classes = len(text)
    if class_counts(labels, classes).min() < 2:
        return 1.0, beta
    folds = turns(labels, classes) % min(_FOLDS, int(class_counts(labels, classes).min()))
    zero_shot = (keys @ text.T).astype(np.float64) * scale
    right = np.zeros((len(_ALPHAS), len(_BETAS)))
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        near = keys[out] @ keys[~out].T
        values = _values(labels[~out], classes)
        for column, each in enumerate(_BETAS):
            cached = _cache(near, values, each)
            for row, alpha in enumerate(_ALPHAS):
                guess = (zero_shot[out] + alpha * cached).argmax(axis=1)
                right[row, column] += (guess == labels[out]).sum()
    best = int(right.argmax())
    return _ALPHAS[best // len(_BETAS)], _BETAS[best % len(_BETAS)]


METHOD = Method(
    RECORD,
    TipAdapterSettings,
    fit,
    score,
    arrays={"class_features": "K D", "keys": "N D", "key_labels": "N int"},
    check=check,
    logits=logits,
)
