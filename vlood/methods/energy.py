"""Energy: the log of the total evidence for all classes."""

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
from vlood.methods.logits import class_cosines, free_energy, with_labels
from vlood.prompts.templates import ClassFeatures

RECORD = MethodRecord(
    name="energy",
    title="Energy",
    paper="Energy-based Out-of-distribution Detection",
    year=2020,
    venue="NeurIPS",
    url="https://arxiv.org/abs/2010.03759",
    summary="negative free energy of the logits: T log-sum-exp",
    score_note="T log-sum-exp(s cos / T), T = 1 on logits; T = s is the cosine form times s",
    licence="MIT (OpenOOD)",
)


@dataclass(frozen=True)
class EnergySettings:
    """Settings of the energy score."""

    temperature: float = setting(
        1.0, help="divides the scaled logits", unit="logit", source="the paper, section 3: T = 1"
    )

    def __post_init__(self) -> None:
        check_positive("energy", "temperature", self.temperature)


def fit(classes: ClassFeatures, settings: EnergySettings, logit_scale: float) -> Detector:
    """Build the detector; with one class the score is the scaled cosine with that class."""
    return class_detector(RECORD, classes, settings, logit_scale)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: T log-sum-exp(s cos / T), between the largest logit and that + T log K."""
    cosines = class_cosines(detector, images)
    energy = free_energy(cosines * detector.logit_scale, detector.settings.temperature)
    return with_labels(energy, cosines, detector.logit_scale)


METHOD = Method(RECORD, EnergySettings, fit, score)
