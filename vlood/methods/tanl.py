"""TANL: the negatives that the stream's own confident images activate, chosen anew each batch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.features.unit_rows import named_unit_rows
from vlood.methods.contract import (
    TRANSDUCTIVE,
    Detector,
    Method,
    MethodRecord,
    Regional,
    Scores,
    State,
    Stream,
    check_positive,
    check_share,
    check_whole,
    setting,
)
from vlood.methods.logits import class_cosines, log_sum_exp, with_labels
from vlood.methods.neglabel import ID_MASS, check_same_width, confident_sides
from vlood.methods.regional import whole_range
from vlood.negatives.negative_features import NegativeFeatures, is_permutation
from vlood.prompts.templates import ClassFeatures

logger = logging.getLogger(__name__)

RECORD = MethodRecord(
    name="tanl",
    title="TANL",
    paper=(
        "Activation Matters: Test-time Activated Negative Labels for OOD Detection with "
        "Vision-Language Models"
    ),
    year=2026,
    venue="CVPR",
    url="https://arxiv.org/abs/2603.25250",
    summary="softmax mass on the classes against the negatives that the test images activate",
    score_note="mean over the first n gamma active negatives of the ID mass, T = 1 on logits",
    needs=("classes", "negatives", "noise"),
    licence="MIT",
    stream=TRANSDUCTIVE,
    template="the nice {}",
    whole_corpus=True,
)

_HISTORY = 20_000
_GRID = np.float32(0.01) * np.arange(100, dtype=np.float32)


@dataclass(frozen=True)
class TANLSettings:
    """Settings of TANL."""

    active: int = setting(
        1000,
        help="negatives in use, the most activated ones; all where there are fewer",
        unit="negatives",
        source="the authors' official script, beta 1000",
    )
    alpha: float = setting(
        0.0,
        help="share of the past in a batch's activations; 1: the batch itself has no say",
        unit="1",
        source="the authors' official script, alpha 0: the batch alone, transductive",
    )
    gamma: int = setting(
        1,
        help="step of the activation-aware score; 0: one softmax over all active negatives",
        unit="negatives",
        source="the authors' official script sets 1 and also runs 2 and 0",
    )
    gap: float = setting(
        0.5,
        help="share of the way from the threshold to 1 (and to 0) where confidence begins",
        unit="1",
        source="the authors' official script, gap 0.5",
    )
    queue_length: int = setting(
        300,
        help="confident images remembered on each side",
        unit="images",
        source="the authors' official script, memleng 300",
    )
    cosine_activations: bool = setting(
        False,
        help="take scaled cosines for activations, instead of probabilities",
        unit="-",
        source="the authors' official script, cossim False",
    )
    seed: int = setting(
        0,
        help="draws the order of the first entries of the queues",
        unit="-",
        source="ours: the authors' code draws from the global generator",
    )

    def __post_init__(self) -> None:
        for name, least in (("active", 1), ("gamma", 0), ("queue_length", 1), ("seed", 0)):
            check_whole("tanl", name, getattr(self, name), least)
        for name in ("alpha", "gap"):
            check_share("tanl", name, getattr(self, name))


def fit(
    classes: ClassFeatures,
    settings: TANLSettings,
    logit_scale: float,
    *,
    negatives: NegativeFeatures,
    noise: NDArray[np.floating],
) -> Detector:
    """Build the detector.

    Args:
        classes: C classes.
        settings: of TANL.
        logit_scale: the backbone's.
        negatives: M negatives, a whole corpus rather than mined ones.
        noise: raw features of noise pictures [n, D], the first images taken for OOD.

    Raises:
        UsageError: no noise features, or widths that differ.
    """
    check_positive("tanl", "logit_scale", logit_scale)
    check_same_width(classes, negatives)
    width = classes.features.shape[1]
    if noise.ndim != 2 or not len(noise) or noise.shape[1] != width:
        raise UsageError(
            f"tanl: the noise embeddings have shape {noise.shape}; expected (n, {width}): encode "
            "at least one noise picture with the model of the classes"
        )
    if settings.active > len(negatives):
        logger.info("tanl: all %d negatives are active", len(negatives))
    draw = np.random.default_rng(settings.seed)
    tensors: dict[str, NDArray[Any]] = {
        "class_features": classes.features,
        "negative_features": negatives.features,
        "noise_features": named_unit_rows("noise", [str(row) for row in range(len(noise))], noise),
        "class_order": draw.permutation(len(classes)),
        "noise_order": draw.permutation(len(noise)),
    }
    return Detector("tanl", settings, classes.names, tensors, float(logit_scale), negatives.names)


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images as the first and only batch of a stream."""
    return step(detector, images, start(detector))[0]


def start(detector: Detector) -> State:
    """Take the classes' texts for ID images and the noise pictures for OOD images.

    Returns:
        ``pos_queue`` and ``neg_queue``, float32 [at most queue_length, M]: the activations of the
        last confident ID and OOD images; ``history`` float32 [at most 20,000]: the scores that
        the threshold is found from; ``threshold`` float64 []; ``seen`` int64 []: images so far.
    """
    length = detector.settings.queue_length
    classes, noise = detector.tensors["class_features"], detector.tensors["noise_features"]
    pos_queue = activations(detector, classes[detector.tensors["class_order"][-length:]])
    neg_queue = activations(detector, noise[detector.tensors["noise_order"][-length:]])
    chosen = most_active(_mean(neg_queue) - _mean(pos_queue), detector.settings.active)
    history = np.concatenate([_scores(detector, each, chosen) for each in (classes, noise)])
    history = history.astype(np.float32)[-_HISTORY:]
    return {
        "pos_queue": pos_queue,
        "neg_queue": neg_queue,
        "history": history,
        "threshold": np.array(best_threshold(history)),
        "seen": np.array(0, np.int64),
    }


def step(detector: Detector, images: ImageFeatures, state: State) -> tuple[Scores, State]:
    """Score the next N images by the negatives that they and the images before them activate.

    Returns:
        Scores in (0, 1), and the state after them; the given one stays as it is.
    """
    settings: TANLSettings = detector.settings
    cosines = class_cosines(detector, images)
    if not len(images):
        return with_labels(np.empty(0), cosines, detector.logit_scale), state
    features = images.unit
    pos_mean, neg_mean = _mean(state["pos_queue"]), _mean(state["neg_queue"])
    first = _scores(detector, features, most_active(neg_mean - pos_mean, settings.active))
    history = np.concatenate([state["history"], first.astype(np.float32)])[-_HISTORY:]
    threshold = best_threshold(history)

    is_id, is_ood = confident_sides(first, threshold, settings.gap)
    pos, neg = activations(detector, features[is_id]), activations(detector, features[is_ood])
    activation = _blended(neg_mean, neg, settings.alpha) - _blended(pos_mean, pos, settings.alpha)
    final = _scores(detector, features, most_active(activation, settings.active))
    after = {
        "pos_queue": np.concatenate([state["pos_queue"], pos])[-settings.queue_length :],
        "neg_queue": np.concatenate([state["neg_queue"], neg])[-settings.queue_length :],
        "history": history,
        "threshold": np.array(threshold),
        "seen": np.asarray(state["seen"] + len(features)),
    }
    return with_labels(final, cosines, detector.logit_scale), after


def regional(detector: Detector, regions: ImageFeatures) -> NDArray[np.float64]:
    """Return the activation-aware score of each of n regions, by the first active negatives, [n].

    Regions do not activate negatives: the activations are those of whole images.
    """
    first = start(detector)
    activation = _mean(first["neg_queue"]) - _mean(first["pos_queue"])
    chosen = most_active(activation, detector.settings.active)
    return _scores(detector, regions.unit, chosen)


def activations(detector: Detector, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much unit features [n, D] activate each negative, [n, M].

    The activation is the probability of the negative in the softmax over all classes and
    negatives, or with ``cosine_activations`` its scaled cosine.
    """
    scale = np.float32(detector.logit_scale)
    negative = (features @ detector.tensors["negative_features"].T) * scale
    if detector.settings.cosine_activations:
        return np.asarray(negative)
    positive = (features @ detector.tensors["class_features"].T) * scale
    peak = np.maximum(positive.max(axis=1), negative.max(axis=1))[:, None]
    np.exp(negative - peak, out=negative)
    total = np.exp(positive - peak).sum(axis=1) + negative.sum(axis=1)
    negative /= total[:, None]
    return np.asarray(negative)


def most_active(activation: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Return the indices of the largest activations [M], descending; equal ones by index."""
    return np.argsort(-activation, kind="stable")[:count]


def activation_aware_score(
    positive: NDArray[np.floating], negative: NDArray[np.floating], gamma: int
) -> NDArray[np.float64]:
    """Return the mean over prefixes of the negatives of the softmax mass on the classes, [N].

    The prefixes are the first gamma, 2 gamma, ... negatives, the last one all of them, so that an
    active negative counts in more of them. One running log-sum-exp serves all prefixes.

    Args:
        positive: scaled logits of the classes [N, C].
        negative: scaled logits of the active negatives [N, A], the most active first.
        gamma: the step; 0 takes the longest prefix alone.
    """
    count = negative.shape[1]
    evidence = log_sum_exp(positive)[:, None]
    if gamma == 0:
        against = log_sum_exp(negative)[:, None]
    else:
        ends = np.minimum(np.arange(gamma, count + gamma, gamma), count) - 1
        running = np.logaddexp.accumulate(negative.astype(np.float64), axis=1)
        against = running[:, ends]
    return np.asarray(np.exp(-np.logaddexp(0.0, against - evidence)).mean(axis=1))


def best_threshold(scores: NDArray[np.float32]) -> float:
    """Return the threshold that leaves the least variance within its two sides.

    Of the grid 0, 0.01, ... 0.99 (in single precision, and a score that equals the threshold is
    above it) the one that minimises the sizes' shares times the variances of the two sides; the
    middle one of equally good ones. A side without scores rules a threshold out.

    Args:
        scores: [n], in [0, 1].
    """
    ordered = np.sort(scores).astype(np.float64)
    count = len(ordered)
    below = np.searchsorted(ordered, _GRID.astype(np.float64), side="left")
    # Sums of centred scores: the sides' own means then cancel few digits.
    centred = ordered - ordered.mean()
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    squares = np.concatenate([[0.0], np.cumsum(centred**2)])
    with np.errstate(divide="ignore", invalid="ignore"):
        left = squares[below] - sums[below] ** 2 / below
        right = (squares[-1] - squares[below]) - (sums[-1] - sums[below]) ** 2 / (count - below)
        within = (left + right) / count
    within[(below == 0) | (below == count)] = np.inf
    best = np.flatnonzero(within.astype(np.float32) == within.astype(np.float32).min())
    return float(_GRID[best[len(best) // 2]])


def _scores(
    detector: Detector, features: NDArray[np.float32], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the activation-aware scores of unit features [N, D] with the chosen negatives."""
    scale = np.float32(detector.logit_scale)
    positive = (features @ detector.tensors["class_features"].T) * scale
    negative = (features @ detector.tensors["negative_features"][chosen].T) * scale
    return activation_aware_score(positive, negative, detector.settings.gamma)


def _blended(
    past: NDArray[np.float64], batch: NDArray[np.float32], alpha: float
) -> NDArray[np.float64]:
    """Return alpha past + (1 - alpha) mean of the batch [n, M]; the past where n is 0."""
    return alpha * past + (1 - alpha) * _mean(batch) if len(batch) else past


def _mean(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(rows.mean(axis=0, dtype=np.float64))


def check(detector: Detector) -> None:
    """Refuse orders that are no permutations of the classes and of the noise pictures.

    Raises:
        UsageError: naming what was expected.
    """
    tensors = detector.tensors
    if not is_permutation(tensors["class_order"], len(detector.class_names)):
        raise UsageError("class_order is no permutation of the classes")
    if not is_permutation(tensors["noise_order"], len(tensors["noise_features"])):
        raise UsageError("noise_order is no permutation of the noise pictures")


METHOD = Method(
    RECORD,
    TANLSettings,
    fit,
    score,
    Stream(start, step),
    arrays={
        "class_features": "K D",
        "negative_features": "M D",
        "noise_features": "R D",
        "class_order": "K int",
        "noise_order": "R int",
    },
    check=check,
    regional=Regional(regional, whole_range, ID_MASS),
)
