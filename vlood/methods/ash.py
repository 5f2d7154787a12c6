"""ASH: the probe's energy after leaving out small activations and shaping the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_choice,
    setting,
)
from vlood.methods.logits import free_energy, with_labels
from vlood.methods.probe_head import HEAD, HeadSettings, fit_head, head_rows, linear
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="ash",
    title="ASH",
    paper="Extremely Simple Activation Shaping for Out-of-Distribution Detection",
    year=2023,
    venue="ICLR",
    url="https://arxiv.org/abs/2209.09858",
    summary="energy of a probe's logits, with small activations left out and the rest scaled",
    score_note=(
        "LSE(W shaped(f) + b), T = 1; activations are small or large by their size, for a CLIP "
        "embedding has no ReLU before it as the paper's networks have"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)

SHAPES = ("s", "p", "b")


@dataclass(frozen=True)
class AshSettings(HeadSettings):
    """Settings of ASH."""

    method: ClassVar[str] = "ash"

    shape: str = setting(
        "s",
        help="p: the large ones stay as they are; s: they are scaled by exp(sum before / sum "
        "after); b: each becomes the same size, the sum kept",
        unit="-",
        source="the paper, algorithms 1 to 3",
    )
    pruned: float = setting(
        0.65,
        help="share of an embedding's numbers that is left out",
        unit="-",
        source="pytorch-ood",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("ash", "shape", self.shape, SHAPES)
        if not 0 <= self.pruned < 1:
            raise UsageError(f"ash: pruned is {self.pruned}; expected a number from 0 to below 1")


def fit(
    classes: ClassFeatures,
    settings: AshSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the probe; nothing else is learned.

    Raises:
        UsageError: fewer than two classes, or a class without images.
    """
    head = fit_head(settings, classes.names, images, seed=seed)
    return Detector(RECORD.name, head.settings, classes.names, head.tensors(), float(logit_scale))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the free energy of the logits of shaped embeddings."""
    own = logits(detector, images)
    return with_labels(free_energy(own), own, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the logits of shaped embeddings, [N, K]."""
    settings = detector.settings
    rows = head_rows(detector, images).astype(np.float64)
    return linear(shaped(rows, settings.shape, settings.pruned), detector.tensors)


def shaped(rows: NDArray[np.float64], shape: str, pruned: float) -> NDArray[np.float64]:
    """Shape embeddings [N, D]; sums and sizes are of absolute values."""
    width = rows.shape[1]
    kept = max(1, width - round(width * pruned))
    size = np.abs(rows)
    large = np.argpartition(-size, kept - 1, axis=1)[:, :kept]
    mask = np.zeros(rows.shape, bool)
    np.put_along_axis(mask, large, True, axis=1)
    left = np.where(mask, rows, 0)
    before = size.sum(axis=1, keepdims=True)
    if shape == "b":
        return np.asarray(np.sign(left) * before / kept)
    if shape == "p":
        return left
    after = np.maximum(np.abs(left).sum(axis=1, keepdims=True), 1e-300)
    return np.asarray(left * np.exp(before / after))


METHOD = Method(RECORD, AshSettings, fit, score, arrays=HEAD, logits=logits)
