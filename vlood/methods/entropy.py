"""Entropy: how undecided the softmax over the classes is, negated."""

from __future__ import annotations

from dataclasses import dataclass

from vlood.backbone.image_features import ImageFeatures
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_positive,
    class_detector,
    setting,
)
from vlood.methods.logits import class_cosines, with_labels
from vlood.methods.logits import entropy as softmax_entropy
from vlood.prompts.templates import ClassFeatures

RECORD = MethodRecord(
    name="entropy",
    title="Entropy",
    paper=(
        "Entropy Maximization and Meta Classification for Out-of-Distribution Detection "
        "in Semantic Segmentation"
    ),
    year=2021,
    venue="ICCV",
    url="https://arxiv.org/abs/2012.06575",
    summary="negative Shannon entropy of the softmax over the classes",
    score_note="-H(softmax(s cos / T)) in nats, T = 1 on logits; T = s gives plain cosines",
    licence="Apache-2.0 (pytorch-ood)",
)


@dataclass(frozen=True)
class EntropySettings:
    """Settings of the entropy score."""

    temperature: float = setting(
        1.0, help="divides the scaled logits", unit="logit", source="pytorch-ood: no temperature"
    )

    def __post_init__(self) -> None:
        check_positive("entropy", "temperature", self.temperature)


def fit(classes: ClassFeatures, settings: EntropySettings, logit_scale: float) -> Detector:
    """Build the detector; one class alone is refused, for its entropy is always 0."""
    return class_detector(RECORD, classes, settings, logit_scale, least_classes=2)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: -H(softmax(s cos / T)), in [-log K, 0]."""
    cosines = class_cosines(detector, images)
    scale = detector.logit_scale / detector.settings.temperature
    return with_labels(-softmax_entropy(cosines * scale), cosines, detector.logit_scale)


METHOD = Method(RECORD, EntropySettings, fit, score)
