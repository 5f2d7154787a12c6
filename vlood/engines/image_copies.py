"""Leave out copies of one picture while choosing, decoding only what is about to be chosen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlood.engines.pools import Pool
from vlood.errors import ImageError
from vlood.evaluation.cleaning.duplicates import (
    SIDE,
    Pairs,
    alike,
    candidate_pairs,
    join_pairs,
    same_content,
    small_picture,
)
from vlood.images.decode import DecodeSettings, decode
from vlood.negatives.unit_blocks import unit_rows
from vlood.training.collecting import Candidates, choose

PICTURE_SIMILARITY = 0.9
EMBEDDING_SIMILARITY = 0.98
_COPY_COSINE = 0.8
_ROUNDS = 50


def choose_distinct(
    pool: Pool,
    rows: NDArray[np.float32],
    candidates: Candidates,
    per_label: int,
    duplicates: float | None,
    shuffle: int | None,
    decoding: DecodeSettings,
) -> tuple[NDArray[np.int64], int]:
    """Choose, look for copies among what is chosen, and choose again until none is left.

    Args:
        pool: the images.
        rows: their embeddings [N, D].
        candidates: pairs of an image and a label.
        per_label: how many images a label may have.
        duplicates: pictures so alike are copies; None: 0.9 of pictures, 0.98 of embeddings alone;
            above 1: only the same bytes.
        shuffle: a seed to draw among those that pass, or None for the most similar.
        decoding: how pictures are decoded.

    Returns:
        Places in ``candidates``, and how many images were passed over as copies of those.
    """
    count = len(pool)
    group = same_content(pool.digests) if pool.digests else np.arange(count)
    content = group
    finder = _CopyFinder(pool, rows, duplicates, decoding)
    chosen = choose(candidates, per_label, group, shuffle=shuffle)
    for _ in range(_ROUNDS):
        if not finder.look_at(candidates.rows[chosen]):
            break
        group = join_pairs(
            np.concatenate([np.stack([np.arange(count), content], axis=1), finder.pairs()]), count
        )
        chosen = choose(candidates, per_label, group, shuffle=shuffle)
    taken = set(candidates.rows[chosen].tolist())
    groups = set(group[candidates.rows[chosen]].tolist())
    considered = set(candidates.rows.tolist()) - taken
    return chosen, sum(int(group[row]) in groups for row in considered)


class _CopyFinder:
    """Finds copies among the images looked at so far."""

    def __init__(
        self,
        pool: Pool,
        rows: NDArray[np.float32],
        at_least: float | None,
        decoding: DecodeSettings,
    ) -> None:
        self._pool, self._rows = pool, rows
        self._decoding = DecodeSettings(True, decoding.background, decoding.max_pixels)
        usual = EMBEDDING_SIMILARITY if pool.stored else PICTURE_SIMILARITY
        self._at_least = usual if at_least is None else at_least
        self._seen: NDArray[np.int64] = np.zeros(0, np.int64)
        self._pictures: dict[int, NDArray[np.uint8] | None] = {}

    def look_at(self, rows: NDArray[np.int64]) -> bool:
        """Take more images into account; say whether any was new."""
        fresh = np.setdiff1d(rows, self._seen)
        self._seen = np.union1d(self._seen, fresh)
        return bool(len(fresh)) and self._at_least <= 1

    def pairs(self) -> NDArray[np.int64]:
        """Return the pairs of copies, int64 [p, 2], rows of the pool."""
        if len(self._seen) < 2:
            return np.zeros((0, 2), np.int64)
        features = unit_rows(self._rows[self._seen], "image")
        if self._pool.stored:
            return self._seen[candidate_pairs(features, cosine=self._at_least).rows]
        near = candidate_pairs(features, cosine=_COPY_COSINE)
        places = np.unique(near.rows)
        pictures = np.zeros((len(places), SIDE, SIDE, 3), np.uint8)
        readable = np.zeros(len(places), bool)
        for number, row in enumerate(self._seen[places].tolist()):
            picture = self._picture(row)
            if picture is not None:
                pictures[number], readable[number] = picture, True
        inner = Pairs(np.searchsorted(places, near.rows), near.similarity)
        found = alike(inner, pictures, readable, self._at_least)
        return self._seen[places[found.rows]]

    def _picture(self, row: int) -> NDArray[np.uint8] | None:
        if row not in self._pictures:
            try:
                data = self._pool.items[row].read()
                image = decode(data, self._decoding, draft_side=4 * SIDE)
                self._pictures[row] = small_picture(image)
            except ImageError:
                self._pictures[row] = None
        return self._pictures[row]
