"""Gather the images that methods are tried on: some of each set, encoded once, no image twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vlood.engines.evaluating.collecting import collect
from vlood.engines.evaluating.sets import EvalSet, SetImages
from vlood.engines.picking import Clock, Pool
from vlood.engines.scoring import ScoredBatch, score_embeddings, score_images
from vlood.errors import UsageError
from vlood.images.item import ImageItem

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.features.cache import FeatureCache
    from vlood.features.stream import StreamSettings

_ENCODING_SHARE = 0.5


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

    Images with the same contents are taken once; those that are ID are no OOD images.

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
            notes.append(f"{len(found.images.unreadable):,} images of {one.name} could not be read")
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
            where = "twice" if one is sets[0] else "ID images too, or twice,"
            notes.append(f"{twice:,} images of {one.name} are there {where} and were left out")
        if len(kept) < 2:
            raise UsageError(f"{one.name} has {len(kept)} different images; give two or more")
        rows = np.array(kept, np.int64)
        paths = tuple(str(found.images.paths[row]) for row in kept)
        labels = found.images.true(class_index)[rows]
        pools[one.name] = Pool(found.features[rows], labels, paths)
        images[one.name] = _rows_of(found.images, kept)
    return Gathered(pools, images, notes, encoded)


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
