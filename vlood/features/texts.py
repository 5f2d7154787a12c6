"""Text embeddings, computed once for each text and model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.features.cache import FeatureCache

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone


def encode_texts(
    texts: Sequence[str],
    backbone: Backbone,
    cache: FeatureCache | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Return raw text embeddings [N, D] in the order given; each distinct text is encoded once."""
    distinct = list(dict.fromkeys(texts))
    if cache is None:
        features = backbone.encode_texts(distinct, on_progress=on_progress)
        row_of = {text: row for row, text in enumerate(distinct)}
        return features[np.array([row_of[text] for text in texts], np.int64)]
    space = cache.space({"kind": "text", **backbone.identity()}, backbone.embed_dim)
    missing = [text for text in distinct if _digest(text) not in space]
    if missing:
        features = backbone.encode_texts(missing, on_progress=on_progress)
        space.add([_digest(text) for text in missing], features)
        space.commit()
    return space.get([_digest(text) for text in texts])


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()
