"""MCM: the largest softmax probability of plain cosines, the zero-shot baseline."""

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
from vlood.methods.regional import CONCEPT_MATCH
from vlood.prompts.templates import ClassFeatures

RECORD = MethodRecord(
    name="mcm",
    title="MCM",
    paper="Delving into Out-of-Distribution Detection with Vision-Language Representations",
    year=2022,
    venue="NeurIPS",
    url="https://arxiv.org/abs/2211.13445",
    summary="largest softmax probability over the classes, temperature 1 on cosines",
    score_note="max softmax(cos / T), T = 1 on cosines: the logit scale has no part in it",
    licence="none stated",
)


@dataclass(frozen=True)
class MCMSettings:
    """Settings of MCM."""

    temperature: float = setting(
        1.0,
        help="divides the cosines",
        unit="cosine",
        source="the paper; its code, --T 1",
    )

    def __post_init__(self) -> None:
        check_positive("mcm", "temperature", self.temperature)


def fit(classes: ClassFeatures, settings: MCMSettings, logit_scale: float) -> Detector:
    """Build the detector; one class alone is refused, for its probability is always 1."""
    return class_detector(RECORD, classes, settings, logit_scale, least_classes=2)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: max over classes of softmax(cos / T), in (1/K, 1]."""
    cosines = class_cosines(detector, images)
    concept_match = max_probability(cosines / detector.settings.temperature)
    return with_labels(concept_match, cosines, detector.logit_scale)


METHOD = Method(RECORD, MCMSettings, fit, score, regional=CONCEPT_MATCH)
