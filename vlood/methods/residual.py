"""Residual: how much of an image the principal directions of training images leave unexplained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlood.backbone.image_features import ImageFeatures
from vlood.methods.contract import Detector, Method, MethodRecord, Scores
from vlood.methods.logits import with_labels
from vlood.methods.probe_head import HEAD
from vlood.methods.vim import VimSettings, logits, residual_length, residual_space
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="residual",
    title="Residual",
    paper="ViM: Out-Of-Distribution with Virtual-logit Matching",
    year=2022,
    venue="CVPR",
    url="https://arxiv.org/abs/2203.10807",
    summary="minus the length of an embedding outside the principal directions",
    score_note="-|residual of f + pinv(W) b|, ViM without its logits: the paper's own baseline",
    needs=("classes", "images"),
    trains=True,
    licence="Apache-2.0 (pytorch-ood)",
    names_only=True,
)


@dataclass(frozen=True)
class ResidualSettings(VimSettings):
    """Settings of the residual; the probe gives its origin and the labels."""

    method: ClassVar[str] = "residual"


def fit(
    classes: ClassFeatures,
    settings: ResidualSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the probe and find the directions that training images have least of.

    Raises:
        UsageError: fewer than two classes, a class without images, or too many directions.
    """
    settings, tensors = residual_space(settings, classes, images, seed)
    del tensors["rows"]
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: minus the length of the residual."""
    return with_labels(-residual_length(detector, images), logits(detector, images), 1.0)


METHOD = Method(
    RECORD,
    ResidualSettings,
    fit,
    score,
    arrays={**HEAD, "origin": "D", "residual": "R D"},
    logits=logits,
)
