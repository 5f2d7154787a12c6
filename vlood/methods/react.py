"""ReAct: the probe's energy after cutting off unusually large activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.methods.contract import Detector, Method, MethodRecord, Scores, check_share, setting
from vlood.methods.logits import free_energy, with_labels
from vlood.methods.probe_head import HEAD, HeadSettings, fit_head, head_rows, linear
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="react",
    title="ReAct",
    paper="ReAct: Out-of-distribution Detection With Rectified Activations",
    year=2021,
    venue="NeurIPS",
    url="https://arxiv.org/abs/2111.12797",
    summary="energy of a probe's logits, with activations cut off at a percentile",
    score_note=(
        "LSE(W min(|f|, c) sign(f) + b), T = 1; the paper cuts off a ReLU's output, which has one "
        "side, and a CLIP embedding has two"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)


@dataclass(frozen=True)
class ReactSettings(HeadSettings):
    """Settings of ReAct."""

    method: ClassVar[str] = "react"

    percentile: float = setting(
        0.9,
        help="share of the training activations, by size, that stay as they are",
        unit="-",
        source="the paper, section 4: p = 90",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("react", "percentile", self.percentile)


def fit(
    classes: ClassFeatures,
    settings: ReactSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the probe, and find where to cut off.

    Raises:
        UsageError: fewer than two classes, or a class without images.
    """
    head = fit_head(settings, classes.names, images, seed=seed)
    cut = np.quantile(np.abs(head.rows), settings.percentile)
    tensors = {**head.tensors(), "cut": np.array([cut], np.float32)}
    return Detector(RECORD.name, head.settings, classes.names, tensors, float(logit_scale))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the free energy of the logits of what is left (eq. 1 and 5 of the paper)."""
    own = logits(detector, images)
    return with_labels(free_energy(own), own, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the logits of embeddings whose numbers lie between -c and c, [N, K]."""
    cut = float(detector.tensors["cut"][0])
    return linear(np.clip(head_rows(detector, images), -cut, cut), detector.tensors)


METHOD = Method(RECORD, ReactSettings, fit, score, arrays={**HEAD, "cut": "A"}, logits=logits)
