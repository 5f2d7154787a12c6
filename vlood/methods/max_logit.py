"""Max-logit: the largest scaled cosine, with no comparison between classes."""

from __future__ import annotations

from dataclasses import dataclass

from vlood.backbone.image_features import ImageFeatures
from vlood.methods.contract import Detector, Method, MethodRecord, Scores, class_detector
from vlood.methods.logits import class_cosines, with_labels
from vlood.prompts.templates import ClassFeatures

RECORD = MethodRecord(
    name="max-logit",
    title="MaxLogit",
    paper="Scaling Out-of-Distribution Detection for Real-World Settings",
    year=2022,
    venue="ICML",
    url="https://arxiv.org/abs/1911.11132",
    summary="largest logit over the classes",
    score_note="s times the largest cosine; no temperature: none changes the order",
    licence="MIT (OpenOOD)",
)


@dataclass(frozen=True)
class MaxLogitSettings:
    """Max-logit has no settings."""


def fit(classes: ClassFeatures, settings: MaxLogitSettings, logit_scale: float) -> Detector:
    """Build the detector; with one class the score is the scaled cosine with that class."""
    return class_detector(RECORD, classes, settings, logit_scale)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: max over classes of s cos, in [-s, s]."""
    cosines = class_cosines(detector, images)
    largest = cosines.max(axis=1) * detector.logit_scale
    return with_labels(largest, cosines, detector.logit_scale)


METHOD = Method(RECORD, MaxLogitSettings, fit, score)
