"""Choose training images for labels from how similar images and label texts are; arrays only.

The rules of LAPT's automated sample collection (Zhang et al., ECCV 2024, and its repository): an
image passes for a label if that label is the most similar of all ID and negative labels
(``label-wins``), or, with ID labels alone, if the label is more likely than chance
(``above-chance``). Beside them: no image twice, no two copies of one picture, a limit a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError

FILTERS = ("label-wins", "above-chance", "none")
TRUSTED, PASSED, FILLED = 0, 1, 2
"""Why an image is taken: its source says the label, the filter lets it pass, nothing better is."""

_BLOCK = 1 << 24


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What n images look like among K labels.

    Attributes:
        best: int64 [n], the most similar label; of equal ones the first.
        log_total: float64 [n], log-sum-exp of the scaled cosines with all labels.
    """

    best: NDArray[np.int64]
    log_total: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of an image and a label it may be taken for.

    Attributes:
        rows: int64 [m], images.
        labels: int64 [m].
        similarity: float32 [m], cosines of the two.
        confidence: float64 [m], the label's softmax among all labels at the logit scale.
        tier: int8 [m], TRUSTED, PASSED or FILLED: a smaller one is preferred.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    similarity: NDArray[np.float32]
    confidence: NDArray[np.float64]
    tier: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, places: NDArray[np.integer] | NDArray[np.bool_]) -> Candidates:
        """Return some of the pairs, in the order given."""
        return Candidates(
            self.rows[places],
            self.labels[places],
            self.similarity[places],
            self.confidence[places],
            self.tier[places],
        )


def join(parts: Sequence[Candidates]) -> Candidates:
    """Return the pairs of all parts, one part after the other."""
    return Candidates(
        np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.labels for part in parts)]),
        np.concatenate([np.zeros(0, np.float32), *(part.similarity for part in parts)]),
        np.concatenate([np.zeros(0), *(part.confidence for part in parts)]),
        np.concatenate([np.zeros(0, np.int8), *(part.tier for part in parts)]),
    )


def judge(images: NDArray[np.float32], text: NDArray[np.float32], logit_scale: float) -> Verdicts:
    """Compare images with every label.

    Args:
        images: unit rows [n, D].
        text: unit rows [K, D].
        logit_scale: the multiplier of cosines in the softmax.
    """
    best = np.zeros(len(images), np.int64)
    log_total = np.zeros(len(images))
    size = max(1, _BLOCK // max(1, len(text)))
    for start in range(0, len(images), size):
        logits = (images[start : start + size] @ text.T).astype(np.float64) * logit_scale
        largest = logits.max(axis=1)
        best[start : start + size] = logits.argmax(axis=1)
        log_total[start : start + size] = largest + np.log(
            np.exp(logits - largest[:, None]).sum(axis=1)
        )
    return Verdicts(best, log_total)


def passing(
    rule: str,
    labels: NDArray[np.int64],
    confidence: NDArray[np.float64],
    best: NDArray[np.int64],
    label_count: int,
) -> NDArray[np.bool_]:
    """Say which of m pairs the filter lets pass.

    Args:
        rule: ``label-wins``, ``above-chance`` (more likely than 1 / K) or ``none``.
        labels: int64 [m], the label each image is to be taken for.
        confidence: float64 [m], that label's probability.
        best: int64 [m], the most similar label of each image.
        label_count: K.

    Raises:
        UsageError: an unknown rule.
    """
    if rule not in FILTERS:
        raise UsageError(f"--filter {rule}: is unknown; take {', '.join(FILTERS)}")
    if rule == "label-wins":
        return np.asarray(labels == best)
    if rule == "above-chance":
        return np.asarray(confidence > 1 / label_count)
    return np.ones(len(labels), bool)


def choose(
    candidates: Candidates,
    per_label: int,
    group: NDArray[np.int64] | None = None,
    *,
    shuffle: int | None = None,
) -> NDArray[np.int64]:
    """Choose at most ``per_label`` pairs a label: no image twice, no two images of one group.

    The pairs are walked through from the best to the worst: by tier, then by similarity, equal
    ones by image and label. A pair is taken unless its image, or a copy of it, is taken already or
    its label is full; so an image goes to the label it is most similar to, and to the next one it
    may be taken for where that is full.

    Args:
        candidates: m pairs.
        per_label: how many images a label may have, 1 or more.
        group: [N] int64, for every image a number that copies share; None: no image has copies.
        shuffle: a seed; where given, those of a label that passed come in random order instead of
            by similarity (LAPT draws from them), drawn alike whatever other labels there are.

    Returns:
        Places [n] in ``candidates``, by label, within a label in the order they were taken.
    """
    key = -candidates.similarity.astype(np.float64)
    if shuffle is not None:
        drawn = np.flatnonzero(candidates.tier < FILLED)
        order = drawn[np.lexsort((candidates.rows[drawn], candidates.labels[drawn]))]
        for label in np.unique(candidates.labels[order]).tolist():
            own = order[candidates.labels[order] == label]
            key[own] = np.random.default_rng([abs(shuffle), label]).random(len(own))
    walk = np.lexsort((candidates.labels, candidates.rows, key, candidates.tier))
    used: set[int] = set()
    held: dict[int, list[int]] = {}
    rows, labels = candidates.rows.tolist(), candidates.labels.tolist()
    for place in walk.tolist():
        taken = held.setdefault(labels[place], [])
        number = rows[place] if group is None else int(group[rows[place]])
        if len(taken) < per_label and number not in used:
            used.add(number)
            taken.append(place)
    return np.array([place for label in sorted(held) for place in held[label]], np.int64)


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """Share ``count`` places among groups in proportion to their sizes, by largest remainders.

    Each gets at most its size; all places are given out if there are as many members.
    """
    total = sum(sizes)
    if count >= total:
        return list(sizes)
    exact = [count * size / total for size in sizes]
    given = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda at: (given[at] - exact[at], at))
    for at in by_remainder[: count - sum(given)]:
        given[at] += 1
    return given
