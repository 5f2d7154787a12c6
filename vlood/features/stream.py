"""Images in, embeddings out: decode, look up, encode and remember, batch by batch.

Decoding runs in threads beside the model. An image whose bytes were encoded before, by the same
weights with the same preprocessing and precision, is not decoded at all. A classifier beside the
model sees the same decoded picture, and its logits are remembered in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.features.cache import FeatureCache, FeatureSpace
from vlood.features.file_digests import FileDigests, KnownImages
from vlood.images.decode import DecodeSettings
from vlood.images.loader import Fetched, load_batches
from vlood.images.sources import ImageItem

if TYPE_CHECKING:
    from PIL import Image

    from vlood.backbone.backbone import Backbone
    from vlood.backbone.classifier.classifier import Classifier

_COMMIT_SECONDS = 1.0
_COMMIT_ROWS = 4096


@dataclass(frozen=True)
class EncodedBatch:
    """One batch of inputs: embeddings of those that could be read, reasons for the others.

    ``features`` has one row for each entry of ``positions``, which index ``items``, and
    ``digests`` the 16-byte digest of each. ``encoded`` counts what the model, or the classifier
    beside it, ran on: what was remembered, or twice in the batch, is not among it.
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


@dataclass(frozen=True)
class _Spaces:
    """What is remembered of images: embeddings, and logits where a classifier gives some."""

    embeddings: FeatureSpace
    logits: FeatureSpace | None = None

    def __contains__(self, digest: bytes) -> bool:
        known = digest in self.embeddings
        return known and (self.logits is None or digest in self.logits)

    def commit(self) -> None:
        self.embeddings.commit()
        if self.logits is not None:
            self.logits.commit()


def image_space(cache: FeatureCache, backbone: Backbone, settings: StreamSettings) -> FeatureSpace:
    """Return the part of the cache that holds this model's embeddings of whole images."""
    key = {
        "kind": "image",
        **backbone.identity(),
        "decoding": _decoding(backbone, settings),
    }
    return cache.space(key, backbone.embed_dim)


def logits_space(cache: FeatureCache, backbone: Backbone, settings: StreamSettings) -> FeatureSpace:
    """Return the part of the cache that holds the logits of the classifier beside a model."""
    classifier = backbone.classifier
    assert classifier is not None
    key = {
        "kind": "logits",
        **{f"classifier {name}": value for name, value in classifier.identity().items()},
        "decoding": _decoding(backbone, settings),
    }
    if settings.decode.fast or settings.decode.shift is not None:
        # The size that a picture is reduced to first is the model's.
        key["side"] = str(_draft_side(backbone, settings))
    return cache.space(key, classifier.outputs)


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
    Local embeddings are large and are never cached; asking for them computes every image. Where a
    classifier is beside the model, the logits of whole images come too; views have none.
    """
    classifier = _classifier(backbone, settings)
    if cache is None or local:
        for fetched in _fetch(items, backbone, settings, None):
            yield _encode(fetched, backbone, classifier, None, local)
        return
    logits = None if classifier is None else logits_space(cache, backbone, settings)
    spaces = _Spaces(image_space(cache, backbone, settings), logits)
    digests = FileDigests(cache.folder)
    known = KnownImages(spaces, digests)
    held: list[EncodedBatch] = []
    rows, committed = 0, time.monotonic()
    try:
        for fetched in _fetch(items, backbone, settings, known):
            held.append(_encode(fetched, backbone, classifier, spaces, local=False))
            rows += len(fetched)
            if rows >= _COMMIT_ROWS or time.monotonic() - committed >= _COMMIT_SECONDS:
                spaces.commit()
                yield from held
                held, rows, committed = [], 0, time.monotonic()
        spaces.commit()
        yield from held
    finally:
        spaces.commit()
        digests.commit()


def encode_pictures(
    pictures: Sequence[Image.Image], backbone: Backbone, *, local: bool = False
) -> ImageFeatures:
    """Return what the model, and the classifier beside it, make of pictures that are open."""
    seen = [backbone.preprocessing.prepare(one) for one in pictures]
    features = backbone.encode_pixels(np.stack(seen), local=local)
    classifier = backbone.classifier
    if classifier is None:
        return features
    shown = np.stack([classifier.preprocessing.prepare(one) for one in pictures])
    logits = classifier.with_names(classifier.logits(shown))
    return ImageFeatures(features.raw, features.local, features.local_grid, logits)


def _classifier(backbone: Backbone, settings: StreamSettings) -> Classifier | None:
    return backbone.classifier if settings.decode.view is None else None


def _draft_side(backbone: Backbone, settings: StreamSettings) -> int | None:
    """Return the short side that both the model and the classifier need of a reduced picture."""
    side = backbone.preprocessing.draft_side
    classifier = _classifier(backbone, settings)
    if classifier is None or side is None or not settings.decode.fast:
        return side
    needed = max(classifier.input.resize, *classifier.input.size)
    return max(side, needed)


def _decoding(backbone: Backbone, settings: StreamSettings) -> str:
    """Describe the decoding for a key: a classifier may need larger pictures than the model."""
    text, side = settings.decode.describe(), _draft_side(backbone, settings)
    return text if side == backbone.preprocessing.draft_side else f"{text} side={side}"


def _fetch(
    items: Iterable[ImageItem],
    backbone: Backbone,
    settings: StreamSettings,
    known: KnownImages | None,
) -> Iterator[list[Fetched]]:
    return load_batches(
        items,
        batch_size=settings.batch_size,
        prepare=_prepare(backbone, _classifier(backbone, settings)),
        settings=settings.decode,
        workers=settings.workers,
        draft_side=_draft_side(backbone, settings),
        known=known,
    )


def _prepare(backbone: Backbone, classifier: Classifier | None) -> Callable[[Image.Image], Any]:
    """Return what prepares a picture: for the model, or for it and the classifier as a pair."""
    if classifier is None:
        return backbone.preprocessing.prepare

    def both(picture: Image.Image) -> tuple[NDArray[Any], NDArray[Any]]:
        return (
            backbone.preprocessing.prepare(picture),
            classifier.preprocessing.prepare(picture),
        )

    return both


def _encode(
    fetched: list[Fetched],
    backbone: Backbone,
    classifier: Classifier | None,
    spaces: _Spaces | None,
    local: bool,
) -> EncodedBatch:
    """Encode the images of one batch that the cache does not hold, each content once."""
    errors = {row: one.error for row, one in enumerate(fetched) if one.error is not None}
    readable = [(row, one) for row, one in enumerate(fetched) if one.error is None]
    pixels: dict[bytes, Any] = {}
    for _, one in readable:
        assert one.digest is not None
        if one.pixels is not None:
            pixels.setdefault(one.digest, one.pixels)
    embeddings = None if spaces is None else spaces.embeddings
    # Looked up again here: a batch fetched ahead may hold what the batch before it encoded.
    wanted = [each for each in pixels if embeddings is None or each not in embeddings]
    fresh: ImageFeatures | None = None
    if wanted:
        shown = [pixels[each] if classifier is None else pixels[each][0] for each in wanted]
        fresh = backbone.encode_pixels(np.stack(shown), local=local)
        if embeddings is not None:
            embeddings.add(wanted, fresh.raw)
    order = [one.digest for _, one in readable if one.digest is not None]
    positions = np.array([row for row, _ in readable], np.int64)
    features = _gather(order, wanted, fresh, embeddings, backbone.embed_dim)
    items = [one.item for one in fetched]
    encoded = set(wanted)
    if classifier is not None:
        logits, classified = _classified(
            order, pixels, classifier, None if spaces is None else spaces.logits
        )
        named = classifier.with_names(logits)
        features = ImageFeatures(features.raw, features.local, features.local_grid, named)
        encoded |= classified
    return EncodedBatch(items, positions, features, errors, order, len(encoded))


def _classified(
    order: list[bytes],
    pixels: dict[bytes, Any],
    classifier: Classifier,
    space: FeatureSpace | None,
) -> tuple[NDArray[np.float32], set[bytes]]:
    """Return the logits of a batch in its order, and the contents the classifier ran on."""
    wanted = [each for each in pixels if space is None or each not in space]
    fresh = np.zeros((0, classifier.outputs), np.float32)
    if wanted:
        fresh = classifier.logits(np.stack([pixels[each][1] for each in wanted]))
        if space is not None:
            space.add(wanted, fresh)
    if space is not None:
        return (space.get(order) if order else fresh[:0]), set(wanted)
    row_of = {digest: row for row, digest in enumerate(wanted)}
    rows = np.array([row_of[digest] for digest in order], np.int64)
    return fresh[rows], set(wanted)


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
