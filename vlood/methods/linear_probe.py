"""Linear probe: a linear classifier on image embeddings as the tower gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Regional,
    Scores,
    check_choice,
    refuse_to_fit,
    setting,
)
from vlood.methods.logits import check_width, entropy, max_probability, with_labels
from vlood.methods.regional import SURE

RECORD = MethodRecord(
    name="linear-probe",
    title="Linear probe",
    paper="COOkeD: Ensemble-based OOD detection in the era of zero-shot CLIP",
    year=2025,
    venue="ICCV Workshops",
    url="https://arxiv.org/abs/2507.22576",
    summary="largest softmax probability of a linear classifier on raw image embeddings",
    score_note="max softmax(W f + b), f not normalised, temperature 1; or minus its entropy",
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
)

SCORES = ("msp", "entropy")


@dataclass(frozen=True)
class LinearProbeSettings:
    """Settings of the linear probe."""

    score: str = setting(
        "msp",
        help="msp: the largest probability; entropy: minus the entropy of the probabilities",
        unit="-",
        source="COOkeD's code reports both for each member of its ensemble",
    )

    def __post_init__(self) -> None:
        check_choice("linear-probe", "score", self.score, SCORES)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the largest probability, in [1/K, 1], or minus the entropy (nats)."""
    own = logits(detector, images)
    by_entropy = detector.settings.score == "entropy"
    return with_labels(-entropy(own) if by_entropy else max_probability(own), own, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return W f + b, [N, K]; the length of f counts, for the probe was trained with it.

    Raises:
        UsageError: the images' features have another width than the probe.
    """
    weight, bias = detector.tensors["weight"], detector.tensors["bias"]
    check_width(images.raw, weight)
    return np.asarray(images.raw @ weight.T + bias, dtype=np.float64)


def ensemble(probabilities: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Return the mean of several classifiers' probabilities, each [N, K] (COOkeD)."""
    return np.asarray(np.mean(probabilities, axis=0, dtype=np.float64))


def check(detector: Detector) -> None:
    """Refuse a probe with numbers that are not finite.

    Raises:
        UsageError: naming the tensor.
    """
    for name in ("weight", "bias"):
        if not np.isfinite(detector.tensors[name]).all():
            raise UsageError(f"{name} must have finite numbers only")


def regional(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    """Return the largest probability of each of n regions, [n]."""
    return max_probability(logits(detector, regions))


def regional_ends(detector: Detector) -> tuple[float, float]:
    """Return chance, and the probability of a sure answer."""
    # A probe's logits have no bound that cosines have, so neither has their lead.
    classes = len(detector.class_names)
    return 1 / classes, SURE if classes > 1 else 1.0


METHOD = Method(
    RECORD,
    LinearProbeSettings,
    refuse_to_fit("linear-probe", "its linear classifier", "msp"),
    score,
    arrays={"weight": "K D", "bias": "K"},
    check=check,
    logits=logits,
    regional=Regional(regional, regional_ends, "probability of a region's best class"),
)
