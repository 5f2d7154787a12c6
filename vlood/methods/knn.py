"""k-NN: how far an image lies from the k-th nearest training image."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Scores,
    check_share,
    check_whole,
    setting,
)
from vlood.methods.logits import with_labels
from vlood.methods.rows import RowSettings, row_lengths, training_rows
from vlood.prompts.templates import ClassFeatures
from vlood.training.labelled import LabelledFeatures, class_counts
from vlood.training.neighbours import TARGET_RECALL, Bank, build_bank, choose_probes

RECORD = MethodRecord(
    name="knn",
    title="k-NN",
    paper="Out-of-Distribution Detection with Deep Nearest Neighbors",
    year=2022,
    venue="ICML",
    url="https://arxiv.org/abs/2204.06507",
    summary="minus the distance to the k-th nearest training image",
    score_note=(
        "-|f - f_(k)|, unit embeddings; on a frozen tower this also is what PT-OOD (Miyai et al. "
        "2023) proposes: no decision boundary between the classes has a part in it"
    ),
    needs=("classes", "images"),
    trains=True,
    licence="MIT (pytorch-ood)",
    names_only=True,
)

logger = logging.getLogger(__name__)

_K = 10
# A neighbour's vote is exp(cos / 0.07), as in Wu et al. 2018, section 3.4: near ones count more,
# and one of a wrong label is outvoted.
VOTE_TEMPERATURE = 0.07
UNSEEN = 10.0


@dataclass(frozen=True)
class KnnSettings:
    """Settings of k-NN; embeddings always have length 1 (section 3 of the paper)."""

    k: int = setting(
        0,
        help="which neighbour's distance counts; 0: the 10th, or as many as the smallest class has",
        unit="images",
        source="measured; the paper: 50 for CIFAR-10, 200 for CIFAR-100, 1000 for ImageNet",
    )
    share: float = setting(
        1.0,
        help="share of the training images of each class that is kept, drawn by the seed",
        unit="-",
        source="the paper, alpha: 1 % of ImageNet is enough",
    )
    probes: int = setting(
        0,
        help="above 100,000 images: lists to look into; 0: as many as find 98.5 % of the nearest, "
        "or a distance right to 1 %",
        unit="lists",
        source="measured at training",
    )
    recall: float = setting(
        0.0,
        help="share of the true nearest images that are found, written by training; 0: not known",
        unit="-",
        source="measured at training",
    )

    def __post_init__(self) -> None:
        check_whole("knn", "k", self.k, 0)
        check_share("knn", "share", self.share)
        check_whole("knn", "probes", self.probes, 0)
        check_share("knn", "recall", self.recall)
        if self.share == 0:
            raise UsageError("knn: share is 0; expected more, for some image must be kept")


@dataclass(frozen=True)
class _UnitRows(RowSettings):
    method = "knn"


def fit(
    classes: ClassFeatures,
    settings: KnnSettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    seed: int = 0,
    device: str = "cpu",
) -> Detector:
    """Keep the training images; many of them in lists, so that few are looked at for one score.

    Raises:
        UsageError: a class without images, all embeddings the same, or k above their number.
    """
    rows, _ = training_rows(images, _UnitRows(), classes.names)
    labels = images.labels
    if settings.share < 1:
        kept = _drawn(labels, len(classes.names), settings.share, seed)
        rows, labels = rows[kept], labels[kept]
    k = settings.k or int(min(_K, class_counts(labels, len(classes.names)).min()))
    if k > len(rows):
        raise UsageError(
            f"knn: k is {k} and there are {len(rows)} training images; use a smaller --set k, or "
            "give more images"
        )
    bank, order = build_bank(rows, seed=seed)
    probes, recall = choose_probes(bank, k, seed=seed) if not settings.probes else (0, 0.0)
    if 0 < recall < TARGET_RECALL:
        logger.warning(
            "knn: looking into %d of %d lists finds %.1f %% of the nearest images; --set probes "
            "takes more, and more time",
            probes,
            len(bank.centroids),
            100 * recall,
        )
    settings = replace(settings, k=k, probes=settings.probes or probes, recall=recall)
    tensors: dict[str, NDArray[Any]] = {
        "bank": bank.rows,
        "bank_labels": np.ascontiguousarray(labels[order], np.int64),
        "centroids": bank.centroids,
        "list_ends": bank.ends,
    }
    return Detector(RECORD.name, settings, classes.names, tensors, float(logit_scale))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: minus the distance to the k-th nearest, in [-2, 0]."""
    rows, cosines, ids = _neighbours(detector, images)
    found = np.isfinite(cosines).sum(axis=1)
    last = ids[np.arange(len(rows)), found - 1]
    # Not from the cosine, whose rounding is large beside a small distance.
    apart = rows.astype(np.float64) - detector.tensors["bank"][last]
    return with_labels(-np.linalg.norm(apart, axis=1), _votes(detector, cosines, ids), 1.0)


def logits(detector: Detector, images: ImageFeatures) -> NDArray[np.float64]:
    """Return log-sums of exp(cos / 0.07) over the k nearest images of each class, [N, K].

    A class with none of them gets a little less than the farthest one would give it.
    """
    _, cosines, ids = _neighbours(detector, images)
    return _votes(detector, cosines, ids)


def check(detector: Detector) -> None:
    """Refuse a stored bank whose lists or labels do not fit its rows.

    Raises:
        UsageError: naming the array.
    """
    own = detector.tensors
    ends, labels, count = own["list_ends"], own["bank_labels"], len(own["bank"])
    if (np.diff(ends, prepend=0) < 0).any() or ends[-1] != count:
        raise UsageError("list_ends must rise to the number of rows of the bank")
    if labels.min() < 0 or labels.max() >= len(detector.class_names):
        raise UsageError("bank_labels must be indices of the classes")
    if not (abs(row_lengths(own["bank"]) - 1) < 1e-2).all():
        raise UsageError("bank must have rows of length 1")
    if not 1 <= detector.settings.k <= count or detector.settings.probes < 1:
        raise UsageError("k must be from 1 to the number of rows of the bank, and probes above 0")


def _neighbours(
    detector: Detector, images: ImageFeatures
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    own, settings = detector.tensors, detector.settings
    width = own["bank"].shape[1]
    if images.raw.shape[1] != width:
        raise UsageError(
            f"the image embeddings are {images.raw.shape[1]} wide and knn was trained on {width}; "
            "both must come from one model"
        )
    rows = unit(images.raw)
    bank = Bank(own["bank"], own["centroids"], own["list_ends"])
    return rows, *bank.nearest(rows, settings.k, settings.probes)


def _votes(
    detector: Detector, cosines: NDArray[np.float32], ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    there = np.isfinite(cosines)
    weights = np.where(there, cosines, -1).astype(np.float64) / VOTE_TEMPERATURE
    peak = weights.max(axis=1, initial=-np.inf, keepdims=True)
    labels = detector.tensors["bank_labels"][np.maximum(ids, 0)]
    mass = np.zeros((len(ids), len(detector.class_names)))
    places = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    np.add.at(mass, (places, labels), np.where(there, np.exp(weights - peak), 0))
    floor = np.where(there, weights, np.inf).min(axis=1, initial=np.inf, keepdims=True) - UNSEEN
    with np.errstate(divide="ignore"):
        return np.asarray(np.maximum(np.log(mass) + peak, floor))


def _drawn(labels: NDArray[np.int64], classes: int, share: float, seed: int) -> NDArray[np.int64]:
    """Draw a share of each class's rows, at least one."""
    rng = np.random.default_rng(seed)
    kept = []
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        kept.append(rng.choice(rows, max(1, round(share * len(rows))), replace=False))
    return np.sort(np.concatenate(kept))


METHOD = Method(
    RECORD,
    KnnSettings,
    fit,
    score,
    arrays={
        "bank": "N D",
        "bank_labels": "N int",
        "centroids": "L D",
        "list_ends": "L int",
    },
    check=check,
    logits=logits,
)
