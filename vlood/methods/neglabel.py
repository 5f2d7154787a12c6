"""NegLabel: the share of the evidence that is for the classes rather than for negative labels."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.methods.contract import (
    Detector,
    Method,
    MethodRecord,
    Regional,
    Scores,
    check_choice,
    check_positive,
    check_whole,
    setting,
)
from vlood.methods.logits import check_width, log_sum_exp, with_labels
from vlood.methods.regional import whole_range
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

RECORD = MethodRecord(
    name="neglabel",
    title="NegLabel",
    paper="Negative Label Guided OOD Detection with Pretrained Vision-Language Models",
    year=2024,
    venue="ICLR",
    url="https://arxiv.org/abs/2403.20078",
    summary="softmax mass on the classes against negative labels, averaged over groups of them",
    score_note="mean over groups of sigmoid(LSE(s cos / T) - LSE(s cos- / T)), T = 1 on logits",
    needs=("classes", "negatives"),
    licence="Apache-2.0 (NegLabel)",
    template="the nice {}",
)

ID_MASS = "share of a region's evidence for the classes, against negatives"
REMAINDERS = ("spread", "drop")
_GROUP_SIZE = 100
_MOST_GROUPS = 100
# Cosines are multiplied for so many logits at a time, to bound the memory.
_COSINES_AT_ONCE = 1 << 23
# Their exponentials are summed in pieces that stay in the processor's cache.
_LOGITS_AT_ONCE = 1 << 20
# Below so many, starting threads costs more than they save.
_WORTH_THREADS = 1 << 21
_MOST_THREADS = 8


@dataclass(frozen=True)
class NegLabelSettings:
    """Settings of NegLabel."""

    groups: int = setting(
        0,
        help="groups the negatives are split into; 1: the plain score; 0: groups of about 100, "
        "at most 100 of them",
        unit="groups",
        source="the paper: 100 groups of 100",
    )
    remainder: str = setting(
        "spread",
        help="what happens to negatives that do not fill the groups evenly: spread or drop",
        unit="-",
        source="drop is the authors' code: the last ones, those most like the classes, are lost",
    )
    temperature: float = setting(
        1.0, help="divides the scaled logits", unit="logit", source="the authors' code, t = 1"
    )

    def __post_init__(self) -> None:
        check_positive("neglabel", "temperature", self.temperature)
        check_whole("neglabel", "groups", self.groups, 0)
        check_choice("neglabel", "remainder", self.remainder, REMAINDERS)


def fit(
    classes: ClassFeatures,
    settings: NegLabelSettings,
    logit_scale: float,
    *,
    negatives: NegativeFeatures,
) -> Detector:
    """Build the detector; its negatives lie in the order of their groups.

    Raises:
        UsageError: there are fewer negatives than groups.
    """
    check_positive("neglabel", "logit_scale", logit_scale)
    check_same_width(classes, negatives)
    groups = number_of_groups("neglabel", settings.groups, len(negatives))
    order = grouped_order(negatives.permutation, groups, settings.remainder)
    tensors: dict[str, NDArray[Any]] = {
        "class_features": classes.features,
        "negative_features": np.ascontiguousarray(negatives.features[order]),
        "group_sizes": group_sizes(len(order), groups),
    }
    names = tuple(negatives.names[row] for row in order.tolist())
    return Detector("neglabel", settings, classes.names, tensors, float(logit_scale), names)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images: the mean over groups of the softmax mass on the classes, in (0, 1)."""
    unit = images.unit
    classes, negatives = detector.tensors["class_features"], detector.tensors["negative_features"]
    sizes = detector.tensors["group_sizes"]
    check_width(unit, classes)
    scale = np.float32(detector.logit_scale / detector.settings.temperature)
    cosines = unit @ classes.T
    mass = np.empty(len(unit))
    at_once = max(1, _COSINES_AT_ONCE // len(negatives))
    for start in range(0, len(unit), at_once):
        rows = slice(start, start + at_once)
        mass[rows] = id_mass(cosines[rows] * scale, (unit[rows] @ negatives.T) * scale, sizes)
    return with_labels(mass, cosines.astype(np.float64), detector.logit_scale)


def id_mass(
    positive: NDArray[np.floating],
    negative: NDArray[np.floating],
    sizes: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the mean over groups of the softmax mass on the positives, [N].

    The mass of one softmax is sigmoid(LSE(positive) - LSE(negative)), so one log-sum-exp over the
    positives and one over each group stand for a softmax a group.

    Args:
        positive: scaled logits of the classes [N, K].
        negative: scaled logits of the negatives [N, M], group after group.
        sizes: of the groups, in order; they sum to M.
    """
    rows, columns = negative.shape
    at_once = max(1, _LOGITS_AT_ONCE // columns)
    pieces = [slice(start, start + at_once) for start in range(0, rows, at_once)]

    def of(piece: slice) -> NDArray[np.float64]:
        return _id_mass(positive[piece], negative[piece], sizes)

    if rows * columns < _WORTH_THREADS:
        return np.concatenate([np.zeros(0), *map(of, pieces)])
    # NumPy lets go of the interpreter while it computes.
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        return np.concatenate(list(pool.map(of, pieces)))


def _id_mass(
    positive: NDArray[np.floating], negative: NDArray[np.floating], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    evidence = log_sum_exp(positive)[:, None]
    with np.errstate(over="ignore"):
        mass = 1.0 / (1.0 + np.exp(grouped_log_sum_exp(negative, sizes) - evidence))
    return np.asarray(mass.mean(axis=1))


def grouped_log_sum_exp(
    logits: NDArray[np.floating], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the log-sum-exp of each group of columns, [N, G]; nothing over- or underflows.

    Args:
        logits: [N, M], group after group.
        sizes: of the G groups, in order, largest first; they sum to M.
    """
    peak = logits.max(axis=1, keepdims=True)
    weights = logits - peak
    np.exp(weights, out=weights)
    totals = _grouped(weights, sizes, np.add)
    if (totals < np.finfo(totals.dtype).tiny).any():
        # A group far below the row's peak vanished, or lost its digits on the way (subnormal):
        # shift each group by its own peak instead.
        own = _grouped(logits, sizes, np.maximum).astype(np.float64)
        shifted = np.exp(logits - np.repeat(own, sizes, axis=1))
        return np.asarray(np.log(_grouped(shifted, sizes, np.add)) + own)
    return np.asarray(np.log(totals.astype(np.float64)) + peak)


def _grouped(
    columns: NDArray[np.floating], sizes: NDArray[np.int64], combine: np.ufunc
) -> NDArray[np.floating]:
    """Reduce each group of columns [N, M] to one, [N, G]."""
    parts, start = [], 0
    # There are at most two sizes, one after the other: each run of groups is one array [N, g, m].
    for size, count in zip(*np.unique(-sizes, return_counts=True), strict=True):
        stop = start - int(size * count)
        run = columns[:, start:stop].reshape(len(columns), int(count), -int(size))
        parts.append(combine.reduce(run, axis=-1))
        start = stop
    return np.concatenate(parts, axis=1)


def number_of_groups(method: str, asked: int, negatives: int) -> int:
    """Return how many groups there are; 0 asks for groups of about 100, at most 100 of them.

    Raises:
        UsageError: more groups than negatives.
    """
    if asked == 0:
        return min(_MOST_GROUPS, max(1, negatives // _GROUP_SIZE))
    if asked > negatives:
        raise UsageError(
            f"{method}: {negatives} negatives cannot fill {asked} groups; use --set "
            f"groups={number_of_groups(method, 0, negatives)}, or mine more negatives"
        )
    return asked


def grouped_order(
    permutation: NDArray[np.int64], groups: int, remainder: str = "spread"
) -> NDArray[np.int64]:
    """Return the rows of the negatives in the order of their groups, at most as many as [M].

    With ``drop`` the last M mod G rows are left out before the others are permuted.
    """
    kept = len(permutation) - (len(permutation) % groups if remainder == "drop" else 0)
    return permutation[permutation < kept]


def group_sizes(negatives: int, groups: int) -> NDArray[np.int64]:
    """Return the sizes [G] of groups of M negatives: equal, or the first ones larger by one."""
    sizes = np.full(groups, negatives // groups, np.int64)
    sizes[: negatives % groups] += 1
    return sizes


def confident_sides(
    scores: NDArray[np.float64], threshold: float, gap: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which images are surely in and which surely out of distribution, two masks [N].

    Args:
        scores: [N], in [0, 1].
        threshold: between in and out.
        gap: share of the way from the threshold to 1 (and to 0) where confidence begins.
    """
    return scores > threshold + gap * (1 - threshold), scores < threshold - gap * threshold


def check_same_width(classes: ClassFeatures, negatives: NegativeFeatures) -> None:
    """Refuse negatives of another model.

    Raises:
        UsageError: their embeddings are not as wide as those of the classes.
    """
    widths = classes.features.shape[1], negatives.features.shape[1]
    if widths[0] != widths[1]:
        raise UsageError(
            f"the class embeddings are {widths[0]} wide and the negative embeddings {widths[1]}; "
            "both must come from one model"
        )


def check(detector: Detector) -> None:
    """Refuse groups that do not share out the negatives.

    Raises:
        UsageError: naming what was expected.
    """
    sizes = detector.tensors["group_sizes"]
    expected = group_sizes(len(detector.negative_names), len(sizes))
    if len(sizes) == 0 or not np.array_equal(sizes, expected):
        raise UsageError("group_sizes do not share out the negatives")


def regional(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    """Return the grouped ID mass of each of n regions, [n]."""
    return score(detector, regions).score


METHOD = Method(
    RECORD,
    NegLabelSettings,
    fit,
    score,
    arrays={"class_features": "K D", "negative_features": "M D", "group_sizes": "G int"},
    check=check,
    regional=Regional(regional, whole_range, ID_MASS),
)
