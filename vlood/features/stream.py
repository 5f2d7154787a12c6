"""Images in, embeddings out: decode, look up, encode and remember, batch by batch.

Decoding runs in threads beside the model. An image whose bytes were encoded before, by the same
weights with the same preprocessing and precision, is not decoded at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.features.cache import FeatureCache, FeatureSpace
from vlood.features.file_digests import FileDigests, KnownImages
from vlood.images.decode import DecodeSettings
from vlood.images.loader import Fetched, load_batches
from vlood.images.sources import ImageItem

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

_COMMIT_SECONDS = 1.0
_COMMIT_ROWS = 4096


@dataclass(frozen=True)
class EncodedBatch:
    """One batch of inputs: embeddings of those that could be read, reasons for the others.

    ``features`` has one row for each entry of ``positions``, which index ``items``, and
    ``digests`` the 16-byte digest of each. ``encoded`` counts what the model ran on: what was
    remembered, or twice in the batch, is not among it.
    """

    items: list[ImageItem]
    positions: NDArray[np.int64]
    features: ImageFeatures
    errors: dict[int, str]
    digests: list[bytes] = field(default_factory=list)
    encoded: int = 0


@dataclass(frozen=True)
class StreamSettings:
    """How images are read: ``batch_size`` images, ``workers`` decoding threads."""

    batch_size: int = 32
    workers: int = 2
    decode: DecodeSettings = field(default_factory=DecodeSettings)


def image_space(cache: FeatureCache, backbone: Backbone, settings: StreamSettings) -> FeatureSpace:
    """Return the part of the cache that holds this model's embeddings of whole images."""
    key = {
        "kind": "image",
        **backbone.identity(),
        "decoding": settings.decode.describe(),
    }
    return cache.space(key, backbone.embed_dim)


def encode_images(
    items: Iterable[ImageItem],
    backbone: Backbone,
    settings: StreamSettings,
    *,
    cache: FeatureCache | None = None,
    local: bool = False,
) -> Iterator[EncodedBatch]:
    """Yield the embeddings of ``items`` in order, ``settings.batch_size`` inputs at a time.

    Batch k holds inputs ``k * batch_size`` onwards whatever was cached, and is yielded only after
    its embeddings are safe in the cache: an interrupted run that goes on repeats the same batches.
    Local embeddings are large and are never cached; asking for them computes every image.
    """
    if cache is None or local:
        batches = _fetch(items, backbone, settings, None)
        for fetched in batches:
            yield _encode(fetched, backbone, None, local)
        return
    space = image_space(cache, backbone, settings)
    digests = FileDigests(cache.folder)
    known = KnownImages(space, digests)
    held: list[EncodedBatch] = []
    rows, committed = 0, time.monotonic()
    try:
        for fetched in _fetch(items, backbone, settings, known):
            held.append(_encode(fetched, backbone, space, local=False))
            rows += len(fetched)
            if rows >= _COMMIT_ROWS or time.monotonic() - committed >= _COMMIT_SECONDS:
                space.commit()
                yield from held
                held, rows, committed = [], 0, time.monotonic()
        space.commit()
        yield from held
    finally:
        space.commit()
        digests.commit()


def _fetch(
    items: Iterable[ImageItem],
    backbone: Backbone,
    settings: StreamSettings,
    known: KnownImages | None,
) -> Iterator[list[Fetched]]:
    return load_batches(
        items,
        batch_size=settings.batch_size,
        prepare=backbone.preprocessing.prepare,
        settings=settings.decode,
        workers=settings.workers,
        draft_side=backbone.preprocessing.draft_side,
        known=known,
    )


def _encode(
    fetched: list[Fetched], backbone: Backbone, space: FeatureSpace | None, local: bool
) -> EncodedBatch:
    """Encode the images of one batch that the cache does not hold, each content once."""
    errors = {row: one.error for row, one in enumerate(fetched) if one.error is not None}
    readable = [(row, one) for row, one in enumerate(fetched) if one.error is None]
    wanted: dict[bytes, NDArray[np.generic]] = {}
    for _, one in readable:
        assert one.digest is not None
        # Looked up again here: a batch fetched ahead may hold what the batch before it encoded.
        if one.pixels is not None and not (space is not None and one.digest in space):
            wanted.setdefault(one.digest, one.pixels)
    fresh: ImageFeatures | None = None
    if wanted:
        fresh = backbone.encode_pixels(np.stack(list(wanted.values())), local=local)
        if space is not None:
            space.add(list(wanted), fresh.raw)
    order = [one.digest for _, one in readable if one.digest is not None]
    positions = np.array([row for row, _ in readable], np.int64)
    features = _gather(order, list(wanted), fresh, space, backbone.embed_dim)
    items = [one.item for one in fetched]
    return EncodedBatch(items, positions, features, errors, order, len(wanted))


def _gather(
    order: list[bytes],
    encoded: list[bytes],
    fresh: ImageFeatures | None,
    space: FeatureSpace | None,
    dim: int,
) -> ImageFeatures:
    """Put embeddings in the order of the inputs, from the model's output or from the cache."""
    if space is not None:
        raw = space.get(order) if order else np.zeros((0, dim), np.float32)
        return ImageFeatures(raw=raw)
    if fresh is None:
        return ImageFeatures(raw=np.zeros((0, dim), np.float32))
    row_of = {digest: row for row, digest in enumerate(encoded)}
    rows = np.array([row_of[digest] for digest in order], np.int64)
    return ImageFeatures(
        raw=fresh.raw[rows],
        local=None if fresh.local is None else fresh.local[rows],
        local_grid=fresh.local_grid,
        stepped={key: each[rows] for key, each in fresh.stepped.items()},
    )
