"""Which labels are probably wrong: confident learning over out-of-sample probabilities.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021. An image is suspect where another class is as probable as it is of that class's own images.
With weak models that rule alone flags every image that is hard, so the image's own label must also
be far less probable than is usual of its class.

The probabilities are a softmax of two kinds of evidence: cosines with the means of the classes'
other images, and cosines with the class names. Each has a scale, chosen so that the given labels
are likeliest: names that mean nothing to the model (``n01440764``) get the scale 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.evaluation.cleaning.class_means import ClassMeans

BLOCK = 4096
_SAMPLE = 5000
_SMALLEST, _LARGEST = 1e-3, 1e3

Cosines = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From row numbers [n] to cosines [n, K]."""


@dataclass(frozen=True, eq=False)
class LabelDoubt:
    """What the evidence says of N given labels.

    Attributes:
        confidence: float64 [N], the probability of the given label; NaN where nothing can be said.
        ratio: float64 [N], ``confidence`` over its mean among the images of that label: 1 is usual,
            0 is surely wrong; NaN where nothing can be said.
        suggested: int64 [N], the other class that most exceeds its own mean; -1 where there is
            none.
        suggested_confidence: float64 [N], its probability.
        flagged: bool [N].
        scales: the factor on each kind of evidence.
    """

    confidence: NDArray[np.float64]
    ratio: NDArray[np.float64]
    suggested: NDArray[np.int64]
    suggested_confidence: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    scales: tuple[float, ...]


def image_evidence(means: ClassMeans) -> Cosines:
    """Return the evidence of the other images."""
    return means.cosines


def name_evidence(features: NDArray[np.float32], text: NDArray[np.float32]) -> Cosines:
    """Return the evidence of the class names, from unit rows [N, D] and [K, D]."""
    return lambda rows: np.asarray(features[rows] @ text.T, np.float64)


def doubt_labels(
    evidence: tuple[Cosines, ...], labels: NDArray[np.int64], classes: int, *, at_most: float = 0.2
) -> LabelDoubt:
    """Say which of the given labels are probably wrong.

    Needs memory for a few numbers an image and for ``BLOCK`` rows of K probabilities.

    Args:
        evidence: kinds of it, at least one.
        labels: int64 [N], -1 for none.
        classes: K, at least 2.
        at_most: flag only images whose ``ratio`` is below this.
    """
    count = len(labels)
    scales = fit_scales(evidence, labels)
    confidence = np.full(count, np.nan)
    for rows, probability in _probabilities(evidence, scales, count):
        given = labels[rows]
        found = probability[np.arange(len(rows)), given]
        confidence[rows] = np.where(given >= 0, found, np.nan)
    typical = np.full(classes, np.inf)
    for number in range(classes):
        own = confidence[labels == number]
        own = own[np.isfinite(own)]
        if len(own):
            typical[number] = max(own.mean(), 1e-12)
    ratio = np.where(labels >= 0, confidence / typical[labels], np.nan)
    suggested = np.full(count, -1, np.int64)
    suggested_confidence = np.full(count, np.nan)
    excess = np.full(count, -np.inf)
    for rows, probability in _probabilities(evidence, scales, count):
        exceeding = np.where(np.isfinite(probability), probability / typical, -np.inf)
        named = labels[rows] >= 0
        exceeding[np.flatnonzero(named), labels[rows[named]]] = -np.inf
        best = exceeding.argmax(axis=1)
        at = np.arange(len(rows))
        excess[rows] = exceeding[at, best]
        there = excess[rows] > 0
        suggested[rows] = np.where(there, best, -1)
        suggested_confidence[rows] = np.where(there, probability[at, best], np.nan)
    with np.errstate(invalid="ignore"):
        flagged = (excess >= 1) & (ratio < at_most)
    return LabelDoubt(confidence, ratio, suggested, suggested_confidence, flagged, scales)


def fit_scales(evidence: tuple[Cosines, ...], labels: NDArray[np.int64]) -> tuple[float, ...]:
    """Choose the factor on each kind of evidence that makes the given labels likeliest.

    One number a kind, so wrong labels only soften it. At most 5,000 images are looked at, spread
    evenly over the rows.

    Args:
        evidence: kinds of it.
        labels: int64 [N], -1 for none.
    """
    from scipy.optimize import minimize

    usable = np.flatnonzero(labels >= 0)
    sample = usable[np.unique(np.linspace(0, len(usable) - 1, _SAMPLE).astype(np.int64))]
    kinds = [_filled(cosines(sample)) for cosines in evidence]
    given = labels[sample]
    there = np.all([cosines[np.arange(len(given)), given] > -1.5 for cosines in kinds], axis=0)
    if not there.any():
        return (1.0,) * len(kinds)
    kinds, given = [cosines[there] for cosines in kinds], given[there]
    own = [cosines[np.arange(len(given)), given] for cosines in kinds]

    def loss(logs: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scales = np.exp(logs)
        logits = sum(scale * cosines for scale, cosines in zip(scales, kinds, strict=True))
        probability = _softmax(np.asarray(logits))
        likely = np.log(np.maximum(probability[np.arange(len(given)), given], 1e-300)).mean()
        slopes = [
            scale * ((probability * cosines).sum(axis=1) - of_own).mean()
            for scale, cosines, of_own in zip(scales, kinds, own, strict=True)
        ]
        return -float(likely), np.array(slopes)

    begin = np.full(len(kinds), np.log(20.0))
    bounds = [(np.log(_SMALLEST), np.log(_LARGEST))] * len(kinds)
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds)
    return tuple(float(scale) for scale in np.exp(found.x))


def _probabilities(
    evidence: tuple[Cosines, ...], scales: tuple[float, ...], count: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield row numbers and their probabilities [n, K], NaN where a class cannot be judged."""
    for first in range(0, count, BLOCK):
        rows = np.arange(first, min(first + BLOCK, count))
        logits = sum(scale * cosines(rows) for scale, cosines in zip(scales, evidence, strict=True))
        logits = np.asarray(logits)
        unknown = ~np.isfinite(logits)
        probability = _softmax(np.where(unknown, -np.inf, logits))
        yield rows, np.where(unknown, np.nan, probability)


def _filled(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put what no cosine is in place of what is not known."""
    return np.where(np.isfinite(cosines), cosines, -2.0)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    peak = logits.max(axis=1, keepdims=True)
    raised = np.exp(logits - np.where(np.isfinite(peak), peak, 0.0))
    return np.asarray(raised / np.maximum(raised.sum(axis=1, keepdims=True), 1e-300))
