"""KL-matching: how far a probe's answer is from the typical answer for any class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import Detector, Method, MethodRecord, Scores
from vlood.methods.logits import softmax, with_labels
from vlood.methods.probe_head import HEAD, HeadSettings, fit_head, head_logits, unseen_logits
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="kl-matching",
    title="KL-matching",
    paper="Scaling Out-of-Distribution Detection for Real-World Settings",
    year=2022,
    venue="ICML",
    url="https://arxiv.org/abs/1911.11132",
    summary="minus the least divergence of a probe's answer from a typical one",
    score_note=(
        "-min_k KL(softmax(W f + b) || d_k), T = 1; d_k the mean answer for training images "
        "predicted as k, by probes that have not seen them"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="MIT (the authors' code)",
    names_only=True,
)

_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class KlMatchingSettings(HeadSettings):
    """Settings of KL-matching."""

    method: ClassVar[str] = "kl-matching"


def fit(
    classes: ClassFeatures,
    settings: KlMatchingSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the probe, and gather its typical answers.

    The paper takes them from a validation set. Here each fold of the training images is answered
    by a probe trained on the others; below 5 images a class, by the probe itself.

    Raises:
        UsageError: fewer than two classes, or a class without images.
    """
    head = fit_head(settings, classes.names, images, seed=seed)
    answers = softmax(unseen_logits(head, images.labels))
    tensors = {**head.tensors(), "typical": typical_answers(answers)}
    return Detector(RECORD.name, head.settings, classes.names, tensors, float(logit_scale))


def typical_answers(probabilities: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the mean answer of the images predicted as each class, [P, K]; P are predicted."""
    predicted = probabilities.argmax(axis=1)
    means = [probabilities[predicted == label].mean(axis=0) for label in np.unique(predicted)]
    return np.stack(means).astype(np.float32)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: minus the least Kullback-Leibler divergence, at most 0."""
    own = head_logits(detector, images)
    return with_labels(-least_divergence(softmax(own), detector.tensors["typical"]), own, 1.0)


def least_divergence(
    probabilities: NDArray[np.float64], typical: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return min_k KL(p || d_k) for answers [N, K] and typical answers [P, K]."""
    logs = np.log(np.maximum(typical.astype(np.float64), _TINY))
    own = (probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1)
    return np.asarray((own[:, None] - probabilities @ logs.T).min(axis=1))


def check(detector: Detector) -> None:
    """Refuse typical answers that are no probabilities.

    Raises:
        UsageError: they are not.
    """
    typical = detector.tensors["typical"]
    if typical.min() < 0 or not (abs(typical.sum(axis=1) - 1) < 1e-3).all():
        raise UsageError("typical must have rows of probabilities")


METHOD = Method(
    RECORD,
    KlMatchingSettings,
    fit,
    score,
    arrays={**HEAD, "typical": "P K"},
    check=check,
    logits=head_logits,
)
