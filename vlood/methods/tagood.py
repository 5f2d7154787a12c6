"""TagOOD-like class centres: a projection in which images gather round a learned centre a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_positive,
    check_unit_rows,
    check_whole,
    setting,
)
from vlood.methods.logits import with_labels
from vlood.methods.rows import class_means, scored_rows
from vlood.methods.trained_head import TrainedHeadSettings, head_training_rows
from vlood.prompts.templates import ClassFeatures
from vlood.training.heads import arrays_of, fixed, leaf, train_head
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="tagood",
    title="TagOOD-like class centres",
    paper=(
        "TagOOD: A Novel Approach to Out-of-Distribution Detection via Vision-Language "
        "Representations and Class Center Learning"
    ),
    year=2024,
    venue="ACM MM",
    url="https://arxiv.org/abs/2408.15566",
    summary="cosine with the nearest learned class centre in a learned projection",
    score_note=(
        "max cos(P f, c_k); kept: a light projection and a learned centre a class, cosine to it; "
        "not kept: the tagging model that picks features of the object, its losses as printed"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)


@dataclass(frozen=True)
class TagoodSettings(TrainedHeadSettings):
    """Settings of the class centres."""

    method: ClassVar[str] = "tagood"

    width: int = setting(
        128, help="numbers of the projection", unit="numbers", source="chosen here"
    )
    temperature: float = setting(
        0.1, help="divides the cosines in training", unit="cosine", source="chosen here"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("tagood", "width", self.width, 2)
        check_positive("tagood", "temperature", self.temperature)


def fit(
    classes: ClassFeatures,
    settings: TagoodSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the projection and the centres: cross-entropy of the cosines, and 1 - cos to the own.

    Raises:
        UsageError: fewer than two classes, or a class without images.
    """
    import torch
    import torch.nn.functional as F

    rows, settings = head_training_rows(settings, classes.names, images)
    mean, projection = start_projection(rows, settings.width, seed)
    weight = leaf(projection, device)
    start = class_means((rows - mean) @ projection.T, images.labels, len(classes.names))
    centres = leaf(unit(start.astype(np.float32)), device)
    features, target = fixed(rows - mean, device), fixed(images.labels, device)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        projected = F.normalize(features[batch] @ weight.T, dim=1)
        cosines = projected @ F.normalize(centres, dim=1).T
        own = cosines.gather(1, target[batch, None])[:, 0]
        pulled: torch.Tensor = F.cross_entropy(cosines / settings.temperature, target[batch])
        return pulled + (1 - own).mean()

    train_head(RECORD.name, (weight, centres), loss, len(rows), settings.schedule(), seed=seed)
    learned = arrays_of({"projection": weight, "centres": centres})
    tensors = {
        "mean": mean,
        "projection": learned["projection"],
        "centres": unit(learned["centres"]),
    }
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def start_projection(
    rows: NDArray[np.float32], width: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean [D] of rows, and directions [W, D] to begin with: the principal ones.

    W is at most what rows have of them; scaled so that projections have about length 1.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    kept = min(width, rows.shape[1])
    order = np.argsort(-values, kind="stable")[:kept]
    length = np.sqrt(max(float(values[order].sum()), 1e-12))
    return mean.astype(np.float32), (vectors[:, order].T / length).astype(np.float32)


def projected(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the projections of N images, of length 1, [N, W]."""
    own = detector.tensors
    rows = scored_rows(detector.settings, images, own["projection"].shape[1]).astype(np.float64)
    made = (rows - own["mean"]) @ own["projection"].T.astype(np.float64)
    return np.asarray(made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the largest cosine with a centre, in [-1, 1]."""
    cosines = projected(detector, images) @ detector.tensors["centres"].T.astype(np.float64)
    return with_labels(cosines.max(axis=1), cosines, 1 / detector.settings.temperature)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the cosines with the centres over the temperature, [N, K]."""
    cosines = projected(detector, images) @ detector.tensors["centres"].T.astype(np.float64)
    return np.asarray(cosines / detector.settings.temperature)


def check(detector: Detector) -> None:
    """Refuse centres that are not of length 1.

    Raises:
        UsageError: they are not.
    """
    check_unit_rows(detector, "centres")


METHOD = Method(
    RECORD,
    TagoodSettings,
    fit,
    score,
    arrays={"mean": "D", "projection": "W D", "centres": "K W"},
    check=check,
    logits=logits,
)
