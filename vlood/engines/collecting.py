"""Collect training images for labels: search a pool, filter, leave out copies, choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlood.engines.collect_labels import Labels
from vlood.engines.image_copies import choose_distinct
from vlood.engines.pools import NO_LABEL, Pool
from vlood.errors import UsageError
from vlood.images.decode import DecodeSettings
from vlood.negatives.index import KINDS, SearchIndex, build_index
from vlood.negatives.unit_blocks import unit_rows
from vlood.training.collecting import (
    FILLED,
    FILTERS,
    PASSED,
    TRUSTED,
    Candidates,
    join,
    judge,
    passing,
)

PER_LABEL = 32
"""What LAPT retrieves a label."""
DEEPEST = 4096
"""The pool's nearest images of a label that are looked at, at most."""
_BLOCK = 8192


@dataclass(frozen=True)
class CollectSettings:
    """How images are chosen.

    Attributes:
        per_label: images a label, at most.
        rule: the filter of images from a pool: ``label-wins``, ``above-chance`` or ``none``.
        trusted_rule: the filter of images whose label is given.
        min_similarity: the smallest cosine with the label's text, or None.
        min_confidence: the smallest probability of the label among all, or None.
        fill: take the likeliest of those that did not pass where too few did.
        duplicates: pictures so alike are copies; None: 0.9 of pictures, 0.98 of embeddings alone;
            above 1: only the same bytes.
        shuffle: a seed to draw among those that pass, or None for the most similar.
        index: the kind of FAISS index.
        seed: of the index.
    """

    per_label: int = PER_LABEL
    rule: str = "label-wins"
    trusted_rule: str = "none"
    min_similarity: float | None = None
    min_confidence: float | None = None
    fill: bool = False
    duplicates: float | None = None
    shuffle: int | None = None
    index: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_label < 1:
            raise UsageError(
                f"--per-label {self.per_label}: expected a whole number of images a label, 1 or "
                "more"
            )
        for rule in (self.rule, self.trusted_rule):
            if rule not in FILTERS:
                raise UsageError(f"--filter {rule}: is unknown; take {', '.join(FILTERS)}")
        if self.index not in ("auto", *KINDS):
            raise UsageError(f"--index {self.index}: is unknown; take auto, {', '.join(KINDS)}")


@dataclass(frozen=True, eq=False)
class Collected:
    """What was chosen, by label, the best of each first.

    Attributes:
        candidates: the pairs chosen.
        rank: int64 [m], from 1, within the label.
        copies: how many images were passed over as copies of a better one.
        index: what was searched, or None.
    """

    candidates: Candidates
    rank: NDArray[np.int64]
    copies: int
    index: SearchIndex | None

    def counts(self, labels: int) -> NDArray[np.int64]:
        """Return the images of each label, int64 [K]."""
        return np.bincount(self.candidates.labels, minlength=labels).astype(np.int64)


def collect(
    pool: Pool,
    labels: Labels,
    settings: CollectSettings,
    *,
    decoding: DecodeSettings | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Collected:
    """Choose images for labels from a pool.

    Images whose source says a label are taken for that one alone and come before images that are
    found by their similarity with a label's text.

    Args:
        pool: the images.
        labels: what they are to be taken for.
        settings: how.
        decoding: how the pictures of likely copies are decoded.
        announce: told of what index was built.

    Raises:
        UsageError: the pool holds no image that could be read.
    """
    if not len(pool):
        raise UsageError(
            f"--pool: none of the {len(pool.errors)} images could be read; name others"
            if pool.errors
            else "--pool: holds no image for these labels; name folders, lists or embeddings"
        )
    rows = pool.file.rows()
    given = np.array(pool.given, np.int64)
    free = np.flatnonzero(given == NO_LABEL)
    parts = [_trusted(rows, given, labels, settings)]
    index = None
    if len(free):
        # A labelled source is read after the pool, so the free rows are the first ones.
        index = build_index(rows[: len(free)], settings.index, seed=settings.seed)
        announce(f"index {index.parameters['reason']}; recall@10 {index.recall:.3f}")
        parts.append(_Search(rows[: len(free)], index, labels, settings).run())
    candidates = join(parts)
    chosen, copies = choose_distinct(
        pool,
        rows,
        candidates,
        settings.per_label,
        settings.duplicates,
        settings.shuffle,
        decoding or DecodeSettings(),
    )
    taken = candidates.of(chosen)
    counted = np.zeros(len(labels.names), np.int64)
    rank = np.zeros(len(taken), np.int64)
    for place, label in enumerate(taken.labels.tolist()):
        counted[label] += 1
        rank[place] = counted[label]
    return Collected(taken, rank, copies, index)


def _trusted(
    rows: NDArray[np.float32],
    given: NDArray[np.int64],
    labels: Labels,
    settings: CollectSettings,
) -> Candidates:
    """Return the pairs of labelled images with their own labels."""
    wanted = np.flatnonzero(np.isin(given, labels.wanted))
    parts = []
    for start in range(0, len(wanted), _BLOCK):
        own = wanted[start : start + _BLOCK]
        images = unit_rows(rows[own], "image")
        similarity = np.einsum("nd,nd->n", images, labels.text[given[own]])
        verdicts = judge(images, labels.text, labels.logit_scale)
        confidence = np.exp(labels.logit_scale * similarity - verdicts.log_total)
        rule = settings.trusted_rule
        good = passing(rule, given[own], confidence, verdicts.best, len(labels.names))
        tier = np.where(good, TRUSTED, FILLED).astype(np.int8)
        pairs = Candidates(own, given[own], similarity, np.minimum(confidence, 1.0), tier)
        parts.append(_limited(pairs, settings))
    return join(parts)


def _limited(pairs: Candidates, settings: CollectSettings) -> Candidates:
    """Leave out pairs that may not be taken at all."""
    kept = np.ones(len(pairs), bool)
    if settings.min_similarity is not None:
        kept &= pairs.similarity >= settings.min_similarity
    if settings.min_confidence is not None:
        kept &= pairs.confidence >= settings.min_confidence
    if not settings.fill:
        kept &= pairs.tier < FILLED
    return pairs.of(kept)


class _Search:
    """Look up the nearest images of each label's text, deeper where too few of them pass."""

    def __init__(
        self,
        rows: NDArray[np.float32],
        index: SearchIndex,
        labels: Labels,
        settings: CollectSettings,
    ) -> None:
        self._rows, self._index = rows, index
        self._labels, self._settings = labels, settings
        self._judged = np.zeros(len(rows), bool)
        self._best = np.zeros(len(rows), np.int64)
        self._log_total = np.zeros(len(rows))

    def run(self) -> Candidates:
        """Return the pairs found."""
        deepest = min(len(self._rows), max(DEEPEST, 2 * self._settings.per_label))
        depth = min(deepest, 3 * self._settings.per_label + 16)
        short, found = self._labels.wanted, dict[int, Candidates]()
        while len(short):
            at_once = max(1, (1 << 22) // depth)
            for start in range(0, len(short), at_once):
                found.update(self._nearest(short[start : start + at_once], depth))
            if depth == deepest:
                break
            # Some more than asked for, since copies are left out later.
            enough = 2 * self._settings.per_label
            short = np.array(
                [one for one in short.tolist() if self._passed(found[one]) < enough], np.int64
            )
            depth = min(deepest, 4 * depth)
        return join([found[label] for label in sorted(found)])

    def _passed(self, pairs: Candidates) -> int:
        return int((pairs.tier < FILLED).sum())

    def _nearest(self, wanted: NDArray[np.int64], depth: int) -> dict[int, Candidates]:
        labels, settings = self._labels, self._settings
        similarity, rows = self._index.search(labels.text[wanted], depth, rows=self._rows)
        self._judge(np.unique(rows[rows >= 0]))
        found = {}
        for label, cosines, near in zip(wanted.tolist(), similarity, rows, strict=True):
            there = near >= 0
            own, cosine = near[there], cosines[there]
            numbers = np.full(len(own), label, np.int64)
            total = self._log_total[own]
            confidence = np.minimum(np.exp(labels.logit_scale * cosine - total), 1.0)
            rule, count = settings.rule, len(labels.names)
            good = passing(rule, numbers, confidence, self._best[own], count)
            tier = np.where(good, PASSED, FILLED).astype(np.int8)
            found[label] = _limited(Candidates(own, numbers, cosine, confidence, tier), settings)
        return found

    def _judge(self, rows: NDArray[np.int64]) -> None:
        fresh = rows[~self._judged[rows]]
        for start in range(0, len(fresh), _BLOCK):
            own = fresh[start : start + _BLOCK]
            images = unit_rows(self._rows[own], "image")
            verdicts = judge(images, self._labels.text, self._labels.logit_scale)
            self._best[own], self._log_total[own] = verdicts.best, verdicts.log_total
            self._judged[own] = True
