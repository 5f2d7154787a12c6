"""Labelled images as a method learns from them: embeddings and the class of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ClassifierLogits
from vlood.errors import UsageError

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Embeddings of N images of known classes.

    Attributes:
        raw: float32 [N, D], as the tower gives them (not normalised).
        labels: int64 [N], indices into the classes; K + m of the negative label m, for methods that
            learn from images of negatives too.
        ids: N paths or row numbers, or none where nobody asked.
        local: patch embeddings, float32 [N, R, D], or None.
        views: embeddings of V augmented views of each image, float32 [N, V, D], or None.
        logits: of a closed-world classifier, or None.
    """

    raw: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: tuple[str, ...] = ()
    local: NDArray[np.float32] | None = None
    views: NDArray[np.float32] | None = None
    logits: ClassifierLogits | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.raw.ndim != 2 or self.labels.ndim != 1 or len(self.raw) != count:
            raise UsageError(
                f"training images: embeddings of shape {self.raw.shape} and labels of shape "
                f"{self.labels.shape}; expected [N, D] and [N]"
            )
        if len(self.ids) not in (0, count):
            raise UsageError(f"training images: {len(self.ids)} ids for {count} embeddings")
        if self.local is not None and len(self.local) != count:
            raise UsageError(
                f"training images: {len(self.local)} local embeddings for {count} images"
            )
        if self.views is not None and len(self.views) != count:
            raise UsageError(f"training images: views of {len(self.views)} for {count} images")
        if self.logits is not None and len(self.logits.values) != count:
            raise UsageError(
                f"training images: logits of {len(self.logits.values)} for {count} images"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: NDArray[np.int64]) -> LabelledFeatures:
        """Return the images of these rows, in this order."""
        return LabelledFeatures(
            self.raw[chosen],
            self.labels[chosen],
            tuple(self.ids[row] for row in chosen.tolist()) if self.ids else (),
            None if self.local is None else self.local[chosen],
            None if self.views is None else self.views[chosen],
            None if self.logits is None else self.logits.rows(chosen),
        )


def with_label_noise(
    images: LabelledFeatures, share: float, classes: Sequence[str], seed: int
) -> LabelledFeatures:
    """Give a share of the classes' images the label of another class, all others alike likely.

    The share is exact up to rounding, and images drawn for a smaller share are among those of a
    larger one.

    Args:
        images: N labelled images; those of negative labels keep them.
        share: in [0, 1).
        classes: K names.
        seed: of the draw.

    Raises:
        UsageError: a share out of its range, one class alone, or a class that keeps no image.
    """
    if not 0 <= share < 1:
        raise UsageError(f"--label-noise {share}: expected a share from 0 to below 1, such as 0.2")
    if share == 0:
        return images
    if len(classes) < 2:
        raise UsageError("--label-noise: there is one class, and no other label to give")
    rng = np.random.default_rng(seed)
    own = np.flatnonzero(images.labels < len(classes))
    order = rng.permutation(len(own))
    moves = rng.integers(1, len(classes), len(own))[order]
    wrong = own[order][: round(share * len(own))]
    labels = images.labels.copy()
    labels[wrong] = (labels[wrong] + moves[: len(wrong)]) % len(classes)
    kept = images.labels[np.setdiff1d(own, wrong)]
    check_every_class(kept, classes)
    return replace(images, labels=labels)


def check_every_class(
    labels: NDArray[np.int64], classes: Sequence[str], *, negatives: int = 0
) -> None:
    """Refuse labels [N] that leave a class without an image; negative labels need none.

    Raises:
        UsageError: naming the classes without images.
    """
    counts = class_counts(labels, len(classes) + negatives)[: len(classes)]
    absent = [name for name, count in zip(classes, counts.tolist(), strict=True) if count == 0]
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise UsageError(
            f"--train: {len(absent)} of {len(classes)} classes have no training image "
            f"({', '.join(absent[:_SHOWN])}{more}); add images with that label, or leave the class "
            "out of --classes"
        )


def class_counts(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Count the images of each class, int64 [K].

    Raises:
        UsageError: a label is no index of a class.
    """
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise UsageError(
            f"training images: labels from {labels.min()} to {labels.max()}; expected indices of "
            f"{classes} classes, 0 to {classes - 1}"
        )
    return np.bincount(labels, minlength=classes).astype(np.int64)
