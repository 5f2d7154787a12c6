"""Made images without labels, joined with labelled ones: each is given its nearest negative."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from vlood.engines.training_images import LabelledBatch, TrainingSet
from vlood.errors import UsageError
from vlood.methods.synood import mine_labels
from vlood.negatives.negative_features import NegativeFeatures
from vlood.training.labelled import LabelledFeatures


def with_synthetic(
    found: TrainingSet,
    batches: Iterable[LabelledBatch],
    classes: int,
    negatives: NegativeFeatures,
) -> TrainingSet:
    """Add made images to a training set, with the negative that each is most like as its label.

    Whatever labels they come with, such as the folder of the class they were made from, say nothing
    of what they show and are not looked at.

    Args:
        found: labelled images of the classes.
        batches: embeddings of the made ones.
        classes: K; the negative m becomes the label K + m.
        negatives: M of them.

    Raises:
        UsageError: none can be read, their embeddings are not finite or of another width.
    """
    raw, ids, unreadable = [], [], {}
    for batch in batches:
        raw.append(batch.features.raw)
        ids += [batch.ids[position] for position in batch.positions.tolist()]
        unreadable.update({batch.ids[row]: reason for row, reason in batch.errors.items()})
    if not ids:
        reason = f"none of the {len(unreadable)} images could be read" if unreadable else "is empty"
        raise UsageError(f"--synthetic: {reason}; name a folder of made images")
    rows = np.concatenate(raw)
    images = found.images
    wide = rows.shape[1]
    for what, own in (("--train", images.raw), ("the negatives", negatives.features)):
        if own.shape[1] != wide:
            raise UsageError(
                f"--synthetic: the embeddings are {wide} wide and those of {what} {own.shape[1]}; "
                "all must come from one model"
            )
    labels = classes + mine_labels(rows, negatives.features)
    joined = LabelledFeatures(
        np.concatenate([images.raw, rows]),
        np.concatenate([images.labels, labels]),
        (*images.ids, *ids) if images.ids else (),
    )
    return replace(found, images=joined, unreadable={**found.unreadable, **unreadable})
