"""AbeT: a head that learns a temperature for each image, which the energy has not in front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.methods.contract import Detector, Method, MethodRecord, Scores
from vlood.methods.logits import log_sum_exp, with_labels
from vlood.methods.rows import class_means, scored_rows
from vlood.methods.trained_head import TrainedHeadSettings, head_training_rows
from vlood.prompts.templates import ClassFeatures
from vlood.training.heads import arrays_of, fixed, leaf, train_head
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="abet",
    title="AbeT head",
    paper="Out-of-Distribution Detection & Applications With Ablated Learned Temperature Energy",
    year=2024,
    venue="arXiv",
    url="https://arxiv.org/abs/2401.12129",
    summary="log-sum-exp of cosines over a learned temperature, which is left out in front",
    score_note=(
        "LSE(cos(f, w_k) / T(f)), T(f) = sigmoid(v f + b) learned; kept: the learned temperature "
        "and the ablated energy; not kept: training the network under it, batch normalisation"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)

# A temperature of 0.05 to begin with: cosines over it make probabilities that can be learned from.
_START = -3.0


@dataclass(frozen=True)
class AbetSettings(TrainedHeadSettings):
    """Settings of AbeT's head."""

    method: ClassVar[str] = "abet"


def fit(
    classes: ClassFeatures,
    settings: AbetSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train class directions and the temperature by the cross-entropy of cos / T.

    Raises:
        UsageError: fewer than two classes, or a class without images.
    """
    import torch
    import torch.nn.functional as F

    rows, settings = head_training_rows(settings, classes.names, images)
    count = len(classes.names)
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = np.linalg.norm(rows - mean, axis=1).mean()
    directions = leaf(unit(class_means(rows, images.labels, count).astype(np.float32)), device)
    slope, offset = leaf(np.zeros(rows.shape[1]), device), leaf(np.array([_START]), device)
    features = fixed(F.normalize(torch.from_numpy(rows), dim=1).numpy(), device)
    centred = fixed(((rows - mean) / scale).astype(np.float32), device)
    target = fixed(images.labels, device)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        cosines = features[batch] @ F.normalize(directions, dim=1).T
        temperature = torch.sigmoid(centred[batch] @ slope + offset)
        return F.cross_entropy(cosines / temperature[:, None], target[batch])

    parameters = (directions, slope, offset)
    train_head(RECORD.name, parameters, loss, len(rows), settings.schedule(), seed=seed)
    learned = arrays_of({"directions": directions, "slope": slope, "offset": offset})
    # The centring of embeddings is taken into the slope and the offset.
    own_slope = learned["slope"].astype(np.float64) / scale
    tensors = {
        "directions": unit(learned["directions"]),
        "slope": own_slope.astype(np.float32),
        "offset": (learned["offset"] - mean @ own_slope).astype(np.float32),
    }
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the energy without the temperature before it."""
    own = logits(detector, images)
    return with_labels(log_sum_exp(own), own, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the cosines over the temperature of each image, [N, K]."""
    own = detector.tensors
    rows = scored_rows(detector.settings, images, own["slope"].shape[0]).astype(np.float64)
    raised = rows @ own["slope"].astype(np.float64) + own["offset"][0]
    # 1 / sigmoid(x) = 1 + exp(-x), kept from overflowing.
    inverse = 1 + np.exp(np.minimum(-raised, 60.0))
    cosines = images.unit.astype(np.float64) @ own["directions"].T.astype(np.float64)
    return np.asarray(cosines * inverse[:, None])


METHOD = Method(
    RECORD,
    AbetSettings,
    fit,
    score,
    arrays={"directions": "K D", "slope": "D", "offset": "A"},
    logits=logits,
)
