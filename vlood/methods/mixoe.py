"""MixOE: a probe that learns to be less sure the more of something else is mixed into an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.features.embeddings import read_embeddings
from vlood.methods.contract import Detector, Method, MethodRecord, Scores, check_positive, setting
from vlood.methods.logits import max_probability, with_labels
from vlood.methods.probe_head import HEAD, head_logits
from vlood.methods.trained_head import TrainedHeadSettings, head_training_rows
from vlood.prompts.templates import ClassFeatures
from vlood.training.heads import arrays_of, fixed, leaf, train_head
from vlood.training.labelled import LabelledFeatures

RECORD = MethodRecord(
    name="mixoe",
    title="MixOE for the probe",
    paper=(
        "Mixture Outlier Exposure: Towards Out-of-Distribution Detection in Fine-grained "
        "Environments"
    ),
    year=2023,
    venue="WACV",
    url="https://arxiv.org/abs/2106.03917",
    summary="largest probability of a probe trained on images mixed with outliers",
    score_note=(
        "max softmax(W f + b), T = 1; kept: mixed inputs with mixed soft labels and the loss; not "
        "kept: it mixes embeddings, where the paper mixes or cuts pixels; needs --set outliers=FILE"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)


@dataclass(frozen=True)
class MixoeSettings(TrainedHeadSettings):
    """Settings of MixOE."""

    method: ClassVar[str] = "mixoe"

    learning_rate: float = setting(
        0.01,
        help="of AdamW at the start, then by a cosine to zero",
        unit="-",
        source="chosen here",
    )
    outliers: str = setting(
        "",
        help="embeddings of images of other things (a file or a store of `vlood embed`), of the "
        "same model; read in training alone",
        unit="-",
        source="the paper, section 3.2: auxiliary outliers",
    )
    alpha: float = setting(
        1.0,
        help="of the Beta(alpha, alpha) that shares are drawn from",
        unit="-",
        source="its code",
    )
    weight: float = setting(
        5.0, help="beta: weight of the loss on mixed images", unit="-", source="its code"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("mixoe", "alpha", self.alpha)
        check_positive("mixoe", "weight", self.weight, or_zero=True)


def fit(
    classes: ClassFeatures,
    settings: MixoeSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the probe by the cross-entropy of images, and of images mixed with outliers.

    The mixed ones' targets are l y + (1 - l) / K (eq. 3 and 4 of the paper).

    Raises:
        UsageError: fewer than two classes, a class without images, or no outliers.
    """
    import torch
    import torch.nn.functional as F

    rows, settings = head_training_rows(settings, classes.names, images)
    others = _outliers(settings, rows.shape[1])
    count, mean = len(classes.names), rows.mean(axis=0, dtype=np.float64)
    scale = np.linalg.norm(rows - mean, axis=1).mean()
    features = fixed(((rows - mean) / scale).astype(np.float32), device)
    strange = fixed(((others - mean) / scale).astype(np.float32), device)
    target = fixed(images.labels, device)
    weight, bias = (leaf(np.zeros(shape), device) for shape in ((count, rows.shape[1]), (count,)))
    rng = np.random.default_rng(seed)

    def loss(batch: torch.Tensor) -> torch.Tensor:
        known = features[batch]
        shares = rng.beta(settings.alpha, settings.alpha, len(batch)).astype(np.float32)
        share = torch.from_numpy(shares).to(device)[:, None]
        picked = torch.from_numpy(rng.integers(len(strange), size=len(batch))).to(device)
        mixed = share * known + (1 - share) * strange[picked]
        soft = share * F.one_hot(target[batch], count) + (1 - share) / count
        plain = F.cross_entropy(F.linear(known, weight, bias), target[batch])
        return plain + settings.weight * F.cross_entropy(F.linear(mixed, weight, bias), soft)

    train_head(RECORD.name, (weight, bias), loss, len(rows), settings.schedule(), seed=seed)
    learned = arrays_of({"weight": weight, "bias": bias})
    own = learned["weight"].astype(np.float64) / scale
    tensors = {
        "weight": own.astype(np.float32),
        "bias": (learned["bias"] - own @ mean).astype(np.float32),
    }
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def _outliers(settings: MixoeSettings, width: int) -> NDArray[np.float32]:
    if not settings.outliers:
        raise UsageError(
            "mixoe: needs images of other things; make `vlood embed OUTLIERS -o outliers.store` "
            "and give --set outliers=outliers.store"
        )
    found = read_embeddings(Path(settings.outliers), expected_dim=width)
    rows = np.asarray(found.features, np.float32)
    return unit(rows) if settings.embeddings == "unit" else rows


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the largest probability, in [1/K, 1]."""
    own = head_logits(detector, images)
    return with_labels(max_probability(own), own, 1.0)


METHOD = Method(RECORD, MixoeSettings, fit, score, arrays=HEAD, logits=head_logits)
