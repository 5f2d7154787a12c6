"""GL-MCM: MCM of the whole image plus the best MCM of any of its regions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_positive,
    class_detector,
    setting,
)
from vlood.methods.logits import class_cosines, max_probability, regional_cosines, with_labels
from vlood.methods.regional import CONCEPT_MATCH
from vlood.prompts.templates import ClassFeatures

RECORD = MethodRecord(
    name="gl-mcm",
    title="GL-MCM",
    paper=(
        "GL-MCM: Global and Local Maximum Concept Matching for Zero-Shot "
        "Out-of-Distribution Detection"
    ),
    year=2025,
    venue="IJCV",
    url="https://arxiv.org/abs/2304.04521",
    summary="MCM plus the largest region-wise softmax probability",
    score_note="MCM + lambda max over regions and classes of softmax(cos / T), T = 1 on cosines",
    needs=("classes", "local"),
    licence="MIT",
)

# Images are taken a few at a time: with 1,000 classes and 196 regions a whole batch of regional
# cosines would be a fifth of a gigabyte.
_COSINES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class GLMCMSettings:
    """Settings of GL-MCM."""

    temperature: float = setting(
        1.0, help="divides the cosines, global and local", unit="cosine", source="its code, --T 1"
    )
    lambda_local: float = setting(
        1.0,
        help="weight of the local term",
        unit="1",
        source="its code's default, and LoCoOp; its ImageNet script uses 0.5",
    )

    def __post_init__(self) -> None:
        check_positive("gl-mcm", "temperature", self.temperature)
        check_positive("gl-mcm", "lambda_local", self.lambda_local, or_zero=True)


def fit(classes: ClassFeatures, settings: GLMCMSettings, logit_scale: float) -> Detector:
    """Build the detector; one class alone is refused, for its probability is always 1."""
    return class_detector(RECORD, classes, settings, logit_scale, least_classes=2)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: MCM + lambda L-MCM, in (0, 1 + lambda].

    Raises:
        UsageError: the images come without local features.
    """
    if images.local is None:
        raise UsageError(
            "gl-mcm needs local (patch) embeddings and these images have none; use a CLIP ViT or "
            "ResNet with --model, embeddings made with 'vlood embed --local', or --method mcm"
        )
    settings: GLMCMSettings = detector.settings
    cosines = class_cosines(detector, images)
    total = max_probability(cosines / settings.temperature)
    classes = detector.tensors["class_features"]
    local_match = local_concept_match(images.local, classes, settings.temperature)
    total = total + settings.lambda_local * local_match
    return with_labels(total, cosines, detector.logit_scale)


def local_concept_match(
    local: NDArray[np.float32], classes: NDArray[np.float32], temperature: float
) -> NDArray[np.float64]:
    """Return L-MCM [N]: the largest softmax(cos / T) over all regions and classes.

    Args:
        local: raw local features [N, R, D].
        classes: unit class features [K, D].
        temperature: on cosines.
    """
    count, regions, _ = local.shape
    at_once = max(1, _COSINES_AT_ONCE // max(1, regions * len(classes)))
    best = np.empty(count)
    for start in range(0, count, at_once):
        cosines = regional_cosines(local[start : start + at_once], classes)
        best[start : start + at_once] = best_region(cosines / np.float32(temperature))
    return best


def best_region(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the largest softmax probability over regions and classes of logits [N, R, K]."""
    return np.asarray(max_probability(logits).max(axis=1))


METHOD = Method(RECORD, GLMCMSettings, fit, score, regional=CONCEPT_MATCH)
