"""Ask a bank: which negatives are nearest to a text or an image, which collide with classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.engines.explaining import NearestNegatives
from vlood.engines.mining import Encoder
from vlood.engines.negatives import encoded
from vlood.errors import UsageError
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.item import ImageItem
from vlood.negatives.bank import NegativeBank, check_model
from vlood.negatives.bank_folder import open_index
from vlood.negatives.leaks import Leak, Relations, find_leaks
from vlood.prompts.classes import ClassName

_ROWS_AT_ONCE = 8192


def open_nearest(path: Path, bank: NegativeBank, encoder: Encoder) -> NearestNegatives:
    """Return a bank's own index, or one built now where it has none.

    Raises:
        UsageError: the bank is of another model, or its index is damaged.
    """
    check_model(bank, encoder.backbone.identity(), str(path))
    if bank.features is not None and bank.features.shape[1] != encoder.backbone.embed_dim:
        raise UsageError(
            f"{path}: its embeddings are {bank.features.shape[1]} wide and those of "
            f"{encoder.backbone.name} {encoder.backbone.embed_dim}; use the model that made them"
        )
    index = open_index(path)
    if index is None:
        return NearestNegatives.of(encoded(bank, encoder))
    return NearestNegatives(bank.terms, index, bank.features)


def encode_image_file(path: str, encoder: Encoder) -> NDArray[np.float32]:
    """Return the raw embedding of one image, [1, D].

    Raises:
        UsageError: the file cannot be read as an image.
    """
    batch = next(
        encode_images([ImageItem(path)], encoder.backbone, StreamSettings(1, 1), cache=None)
    )
    if batch.errors:
        raise UsageError(f"{path}: {batch.errors[0]}; name an image, or a text that is no file")
    return batch.features.raw


def bank_leaks(
    bank: NegativeBank,
    classes: Sequence[ClassName],
    *,
    similarity: float = 0.95,
    relations: Relations | None = None,
) -> list[Leak]:
    """Return the negatives of a bank that collide with classes.

    By similarity only for the classes the bank was mined for: their embeddings are in it.
    """
    largest = nearest = None
    if (
        bank.features is not None
        and bank.class_features is not None
        and tuple(classes) == (bank.classes)
    ):
        blocks = [
            bank.features[start : start + _ROWS_AT_ONCE] @ bank.class_features.T
            for start in range(0, len(bank), _ROWS_AT_ONCE)
        ]
        largest = np.concatenate([block.max(axis=1) for block in blocks])
        nearest = np.concatenate([block.argmax(axis=1) for block in blocks])
    return find_leaks(
        bank.terms,
        None,
        classes,
        largest=largest,
        nearest=nearest,
        similarity=similarity,
        relations=relations,
    )
