"""Gather the images that methods are tried on: some of each set, encoded once, no image twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.engines.evaluating.collecting import collect
from vlood.engines.evaluating.sets import EvalSet, SetImages
from vlood.engines.scoring import ScoredBatch, score_embeddings, score_images
from vlood.errors import UsageError
from vlood.images.item import ImageItem

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.features.cache import FeatureCache
    from vlood.features.stream import StreamSettings

_ENCODING_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Pool:
    """The images of a set, encoded.

    Attributes:
        features: float32 [N, D], not normalised.
        labels: int64 [N], classes; -1 where none is known.
        ids: N paths or row numbers.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, chosen: NDArray[np.int64]) -> Pool:
        """Return some of its rows."""
        return Pool(
            self.features[chosen],
            self.labels[chosen],
            tuple(self.ids[row] for row in chosen.tolist()),
        )


@dataclass(frozen=True)
class Clock:
    """The time there is.

    Attributes:
        budget: seconds.
        now: tells the time.
        began: when it was started.
    """

    budget: float
    now: Callable[[], float] = time.monotonic
    began: float = field(default_factory=time.monotonic)

    def spent(self) -> float:
        """Return the seconds since the start."""
        return self.now() - self.began

    def left(self) -> float:
        """Return the seconds that are left, 0 at least."""
        return max(0.0, self.budget - self.spent())


@dataclass(frozen=True)
class Gathered:
    """The sets, encoded.

    Attributes:
        pools: by name, the ID set first.
        images: what is known of each pool's images, by name.
        notes: what a reader must know: what was left out, and why.
        encoded: images that the model ran on.
    """

    pools: Mapping[str, Pool]
    images: Mapping[str, SetImages]
    notes: Sequence[str]
    encoded: int


def gather(
    sets: Sequence[EvalSet],
    class_index: Mapping[str, int],
    backbone: Backbone | None,
    settings: StreamSettings,
    cache: FeatureCache | None,
    clock: Clock,
    *,
    most: int,
    seed: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Gathered:
    """Encode at most ``most`` images of each set, drawn by ``seed``, in half of the time left.

    Images with the same contents are taken once, from the first set that has them, the ID set.

    Raises:
        UsageError: none of a set's images could be read, or too few to measure with.
    """
    pools: dict[str, Pool] = {}
    images: dict[str, SetImages] = {}
    notes: list[str] = []
    encoded = 0
    seen: set[str] = set()
    total = sum(min(most, one.count()) for one in sets)
    at_first, listed = clock.left(), 0
    for one in sets:
        count = one.count()
        listed += min(most, count)
        # Each set has its share of the time, so that the last one is not left without.
        share = _ENCODING_SHARE * at_first * listed / max(1, total)
        drawn = _Drawn(most, seed, clock, at_first - share)

        def scored(
            items: Iterator[ImageItem] | None, one: EvalSet = one, drawn: _Drawn = drawn
        ) -> Iterable[ScoredBatch]:
            if items is None:
                for held in one.embeddings or ():
                    yield from score_embeddings(held, [])
                return
            assert backbone is not None
            yield from score_images(drawn.of(items), backbone, [], settings, cache=cache)

        found = collect(one, scored, 0, keep_features=True, advance=advance)
        encoded += found.encoded
        if found.features is None or not len(found.images):
            raise UsageError(f"none of the images of {one.name} could be read; check them")
        if drawn.taken is not None and drawn.taken < count:
            why = "the time for encoding was over" if drawn.stopped else f"--images {most:,}"
            notes.append(f"{drawn.taken:,} of the {count:,} images of {one.name} were used ({why})")
        if found.images.unreadable:
            damaged = len(found.images.unreadable)
            notes.append(f"{_images(damaged)} of {one.name} could not be read")
        # In the order of their names, whatever the order they were drawn in.
        order = sorted(range(len(found.images)), key=lambda row: str(found.images.paths[row]))
        kept, twice = [], 0
        for row in order:
            digest = found.images.digests[row]
            twice += digest in seen
            if digest not in seen:
                kept.append(row)
            seen.add(digest)
        if twice:
            notes.append(
                f"{_images(twice)} of {one.name} left out: this set or an earlier one has the same"
            )
        if len(kept) < 2:
            raise UsageError(f"{one.name} has {len(kept)} different images; give two or more")
        rows = np.array(kept, np.int64)
        paths = tuple(str(found.images.paths[row]) for row in kept)
        labels = found.images.true(class_index)[rows]
        pools[one.name] = Pool(found.features[rows], labels, paths)
        images[one.name] = _rows_of(found.images, kept)
    return Gathered(pools, images, notes, encoded)


def halves(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split N rows, by labels [N], into those to learn from and those to measure on, half each.

    Of an odd number the larger part is measured on, and so is what has no label (-1).
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    fit: list[int] = []
    for one in np.unique(labels[labels >= 0]):
        own = order[labels[order] == one]
        fit += own[: len(own) // 2].tolist()
    chosen = np.zeros(len(labels), bool)
    chosen[fit] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def _images(count: int) -> str:
    return f"{count:,} {'image' if count == 1 else 'images'}"


def _rows_of(images: SetImages, kept: Sequence[int]) -> SetImages:
    return replace(
        images,
        paths=[images.paths[row] for row in kept],
        labels=[images.labels[row] for row in kept],
        digests=[images.digests[row] for row in kept],
    )


class _Drawn:
    """Some of the images of a set, in an order of its own, until so many seconds are left."""

    def __init__(self, most: int, seed: int, clock: Clock, until: float) -> None:
        self._most = most
        self._seed = seed
        self._clock = clock
        self._until = until
        self.taken: int | None = None
        self.stopped = False

    def of(self, items: Iterable[ImageItem]) -> Iterator[ImageItem]:
        """Yield them; two of a set at least, whatever the time."""
        every = list(items)
        order = np.random.default_rng(self._seed).permutation(len(every))[: self._most]
        self.taken = 0
        for row in order.tolist():
            if self.taken >= 2 and self._clock.left() < self._until:
                self.stopped = True
                return
            self.taken += 1
            yield every[row]
