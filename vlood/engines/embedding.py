"""Store the embeddings of images, resumably."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from vlood import __version__
from vlood.errors import UsageError, VloodError
from vlood.features.cache import FeatureCache
from vlood.features.store import EmbeddingStoreWriter
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.sources import ImageItem

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone


def store_meta(backbone: Backbone, settings: StreamSettings, inputs: list[str]) -> dict[str, Any]:
    """Describe what decides the embeddings of a store, and where they are from."""
    return {
        "model": backbone.name,
        **backbone.identity(),
        "decoding": settings.decode.describe(),
        "batch_size": settings.batch_size,
        "provenance": {"inputs": inputs, "vlood": __version__},
    }


def embed_images(
    items: Iterator[ImageItem],
    backbone: Backbone,
    settings: StreamSettings,
    writer: EmbeddingStoreWriter,
    *,
    cache: FeatureCache | None,
    local: bool,
) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Append the embeddings of ``items`` to a store, after those it has; yield (count, errors).

    Raises:
        UsageError: the inputs do not begin with those the store has already.
        VloodError: ``local`` is asked of a model without local embeddings.
    """
    if local and backbone.local_refusal is not None:
        raise VloodError(f"--local: {backbone.local_refusal}")
    for done in writer.committed_inputs():
        # A part lists its unreadable inputs after the others, so order tells nothing here.
        if Counter(done) != Counter(item.path for item in islice(items, len(done))):
            raise UsageError(
                f"--resume: {writer.folder} was started with other inputs; use the same ones in "
                "the same order, or another folder"
            )
    for batch in encode_images(items, backbone, settings, cache=cache, local=local):
        chosen = [batch.items[position] for position in batch.positions.tolist()]
        errors = [(batch.items[row].path, reason) for row, reason in batch.errors.items()]
        writer.append(
            [item.path for item in chosen],
            [item.label for item in chosen],
            batch.features.raw,
            batch.features.local,
            errors,
        )
        yield len(batch.items), errors
