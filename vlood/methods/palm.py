"""PALM-like mixture of prototypes: several learned prototypes a class, on a sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_positive,
    check_share,
    check_unit_rows,
    check_whole,
    setting,
)
from vlood.methods.logits import log_sum_exp, with_labels
from vlood.methods.tagood import projected, start_projection
from vlood.methods.trained_head import TrainedHeadSettings, head_training_rows
from vlood.prompts.templates import ClassFeatures
from vlood.training.heads import arrays_of, fixed, leaf, train_head
from vlood.training.labelled import LabelledFeatures

if TYPE_CHECKING:
    from torch import Tensor

RECORD = MethodRecord(
    name="palm",
    title="PALM-like mixture of prototypes",
    paper="Learning with Mixture of Prototypes for Out-of-Distribution Detection",
    year=2024,
    venue="ICLR",
    url="https://arxiv.org/abs/2402.02653",
    summary="log-density under a mixture of prototypes a class on a learned sphere",
    score_note=(
        "log max_k mean_j exp(cos(P f, p_kj) / tau); kept: mixtures, Sinkhorn assignment, moving "
        "prototypes, both losses; not kept: training the network, its Mahalanobis score (that of "
        "frozen features is `mahalanobis`)"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="none stated",
    names_only=True,
)

_SINKHORN_ROUNDS = 3
_SINKHORN_SHARPNESS = 0.05


@dataclass(frozen=True)
class PalmSettings(TrainedHeadSettings):
    """Settings of the mixture of prototypes."""

    method: ClassVar[str] = "palm"

    prototypes: int = setting(
        6, help="prototypes a class", unit="prototypes", source="the paper, section 4.1: 6"
    )
    width: int = setting(
        128, help="numbers of the projection", unit="numbers", source="the paper, section 4.1: 128"
    )
    temperature: float = setting(
        0.1, help="tau, divides the cosines", unit="cosine", source="the paper, section 4.1: 0.1"
    )
    momentum: float = setting(
        0.99,
        help="how much of a prototype stays at every step",
        unit="-",
        source="the paper has 0.999, for many more steps",
    )
    contrast: float = setting(
        1.0, help="weight of the loss between prototypes", unit="-", source="the paper: 1"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("palm", "prototypes", self.prototypes, 1)
        check_whole("palm", "width", self.width, 2)
        check_positive("palm", "temperature", self.temperature)
        check_share("palm", "momentum", self.momentum)
        check_positive("palm", "contrast", self.contrast, or_zero=True)


def fit(
    classes: ClassFeatures,
    settings: PalmSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Train the projection, while the prototypes follow the images that are given to them.

    Raises:
        UsageError: fewer than two classes, or a class without images.
    """
    import torch
    import torch.nn.functional as F

    rows, settings = head_training_rows(settings, classes.names, images)
    mean, projection = start_projection(rows, settings.width, seed)
    count, each, tau = len(classes.names), settings.prototypes, settings.temperature
    weight = leaf(projection, device)
    features, target = fixed(rows - mean, device), fixed(images.labels, device)
    start = unit((rows - mean) @ projection.T)
    # [K, P, W], images of the class to begin with.
    prototypes = fixed(_drawn(start, images.labels, count, each, seed), device)
    same = torch.arange(count, device=device).repeat_interleave(each)

    def loss(batch: Tensor) -> Tensor:
        nonlocal prototypes
        made = F.normalize(features[batch] @ weight.T, dim=1)
        own = prototypes[target[batch]]
        with torch.no_grad():
            near = (made[:, None] * own).sum(-1)
            shares = _assigned(near, target[batch])
            moved = torch.zeros_like(prototypes)
            moved.index_add_(0, target[batch], shares[:, :, None] * made[:, None])
            followed = settings.momentum * prototypes + (1 - settings.momentum) * moved
            prototypes = F.normalize(followed, dim=2)
        # Equation 5: the image's own mixture against all mixtures.
        flat = prototypes.reshape(-1, prototypes.shape[-1])
        cosines = made @ flat.T / tau
        mixed = torch.logsumexp(
            (made[:, None] * prototypes[target[batch]]).sum(-1) / tau
            + torch.log(shares.clamp_min(1e-12)),
            dim=1,
        )
        likelihood = (torch.logsumexp(cosines, dim=1) - mixed).mean()
        if each == 1 or settings.contrast == 0:
            return likelihood
        return likelihood + settings.contrast * _between(
            made, shares, target[batch], flat, same, tau
        )

    train_head(RECORD.name, (weight,), loss, len(rows), settings.schedule(), seed=seed)
    learned = arrays_of({"projection": weight, "prototypes": prototypes})
    tensors = {
        "mean": mean,
        "projection": learned["projection"],
        "prototypes": unit(learned["prototypes"].reshape(count * each, -1)),
    }
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def _drawn(
    rows: NDArray[np.float32], labels: NDArray[np.int64], classes: int, each: int, seed: int
) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    made = np.empty((classes, each, rows.shape[1]), np.float32)
    for label in range(classes):
        own = np.flatnonzero(labels == label)
        chosen = rng.choice(own, each, replace=len(own) < each)
        # A little apart, for a class may have fewer images than prototypes.
        made[label] = rows[chosen] + rng.normal(scale=1e-3, size=(each, rows.shape[1]))
    return unit(made)


def _assigned(near: Tensor, labels: Tensor) -> Tensor:
    """Share each image [B] among its class's prototypes [B, P], all of them used alike (eq. 7)."""
    import torch

    shares = torch.exp(near / _SINKHORN_SHARPNESS)
    for _ in range(_SINKHORN_ROUNDS):
        used = torch.zeros(int(labels.max()) + 1, shares.shape[1], device=shares.device)
        used.index_add_(0, labels, shares)
        shares = shares / used[labels].clamp_min(1e-12)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return shares


def _between(
    made: Tensor, shares: Tensor, labels: Tensor, flat: Tensor, same: Tensor, tau: float
) -> Tensor:
    """Return the loss that draws prototypes of a class together and others apart (eq. 9).

    The prototypes as the batch moves them, so that a gradient reaches the projection.
    """
    import torch
    import torch.nn.functional as F

    each = shares.shape[1]
    classes = len(same) // each
    moved = torch.zeros(classes, each, made.shape[1], device=made.device)
    moved = moved.index_add(0, labels, shares[:, :, None] * made[:, None])
    there = moved.norm(dim=2) > 1e-8
    fresh = torch.where(there[:, :, None], F.normalize(moved, dim=2), flat.view_as(moved))
    fresh = fresh.reshape(len(same), -1)
    cosines = fresh @ fresh.T / tau
    itself = torch.eye(len(same), dtype=torch.bool, device=made.device)
    alike = (same[:, None] == same) & ~itself
    pulled = torch.logsumexp(cosines.masked_fill(~alike, float("-inf")), dim=1)
    everything = torch.logsumexp(cosines.masked_fill(itself, float("-inf")), dim=1)
    return (everything - pulled).mean()


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the log-density of the best class's mixture, all its prototypes alike."""
    own = logits(detector, images)
    return with_labels(own.max(axis=1), own, 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return the log-density of each class's mixture up to a constant, [N, K] (eq. 3)."""
    classes = len(detector.class_names)
    prototypes = detector.tensors["prototypes"].astype(np.float64)
    cosines = projected(detector, images) @ prototypes.T / detector.settings.temperature
    each = len(prototypes) // classes
    grouped = cosines.reshape(len(cosines), classes, each)
    return np.asarray(log_sum_exp(grouped) - np.log(each))


def check(detector: Detector) -> None:
    """Refuse prototypes that are not of length 1, or not as many for each class.

    Raises:
        UsageError: naming what is wrong.
    """
    check_unit_rows(detector, "prototypes")
    wanted = len(detector.class_names) * detector.settings.prototypes
    if len(detector.tensors["prototypes"]) != wanted:
        raise UsageError(f"prototypes must have {wanted} rows")


METHOD = Method(
    RECORD,
    PalmSettings,
    fit,
    score,
    arrays={"mean": "D", "projection": "W D", "prototypes": "P W"},
    check=check,
    logits=logits,
)
