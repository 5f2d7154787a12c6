"""MSP: the largest softmax probability at the model's own logit scale."""

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
from vlood.methods.logits import class_cosines, max_probability, with_labels
from vlood.prompts.templates import ClassFeatures

RECORD = MethodRecord(
    name="msp",
    title="MSP",
    paper=(
        "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks"
    ),
    year=2017,
    venue="ICLR",
    url="https://arxiv.org/abs/1610.02136",
    summary="largest softmax probability over the classes, at the logit scale",
    score_note=(
        "max softmax(s cos / T), T = 1 on logits, that is about 0.01 on cosines; "
        "OpenOOD-VLM calls this MCM"
    ),
    licence="MIT (OpenOOD)",
)


@dataclass(frozen=True)
class MSPSettings:
    """Settings of MSP."""

    temperature: float = setting(
        1.0, help="divides the scaled logits", unit="logit", source="the paper: plain softmax"
    )

    def __post_init__(self) -> None:
        check_positive("msp", "temperature", self.temperature)


def fit(classes: ClassFeatures, settings: MSPSettings, logit_scale: float) -> Detector:
    """Build the detector; one class alone is refused, for its probability is always 1."""
    return class_detector(RECORD, classes, settings, logit_scale, least_classes=2)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: max over classes of softmax(s cos / T), in (1/K, 1].

    At T = 1 the score equals the confidence.
    """
    cosines = class_cosines(detector, images)
    scale = detector.logit_scale / detector.settings.temperature
    return with_labels(max_probability(cosines * scale), cosines, detector.logit_scale)


METHOD = Method(RECORD, MSPSettings, fit, score)
