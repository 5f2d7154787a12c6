"""Labelled images for a method to learn from: encoded once, their labels matched to the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ClassifierLogits, ImageFeatures
from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.embeddings import Embeddings
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.sources import ImageItem
from vlood.prompts.classes import ClassName, label_lookup, spellings_of
from vlood.training.few_shot import sample_shots
from vlood.training.labelled import LabelledFeatures, check_every_class

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

_ROWS = 4096
_SHOWN = 5
# What Backbone.identity says, as stores keep it.
_IDENTITY = ("architecture", "config", "weights", "preprocessing", "precision", "open_clip")


@dataclass(frozen=True)
class LabelledBatch:
    """Some inputs: ``features`` has a row for each entry of ``positions``, which index the rest."""

    ids: list[str]
    labels: list[str | None]
    positions: NDArray[np.int64]
    features: ImageFeatures
    errors: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The images whose labels are classes, and what became of the others.

    Attributes:
        images: embeddings and class indices; every class has some.
        unmatched: how many images have each label that is no class.
        unlabelled: how many have no label.
        unreadable: reasons by path.
        candidates: how many had a class's label, of which ``images`` were drawn; None: all are
            there.
    """

    images: LabelledFeatures
    unmatched: Mapping[str, int]
    unlabelled: int
    unreadable: Mapping[str, str]
    candidates: int | None = None

    def left_out(self) -> str | None:
        """Say in one sentence which readable images are not used, or None where all are."""
        others, count = sum(self.unmatched.values()), self.unlabelled
        if not others + count:
            return None
        labelled = len(self.images) if self.candidates is None else self.candidates
        told = f"--train: {others + count} of {others + count + labelled} images left out"
        if others:
            shown = ", ".join(sorted(self.unmatched)[:_SHOWN])
            told += f": the labels of {others} are none of the classes ({shown}"
            told += ", ...)" if len(self.unmatched) > _SHOWN else ")"
        return told + (f"{' and' if others else ':'} {count} have no label" if count else "")


def labelled_images(
    items: Iterable[ImageItem],
    backbone: Backbone,
    settings: StreamSettings,
    *,
    cache: FeatureCache | None = None,
    local: bool = False,
) -> Iterator[LabelledBatch]:
    """Encode images through the cache, a batch at a time."""
    for batch in encode_images(items, backbone, settings, cache=cache, local=local):
        yield LabelledBatch(
            [item.path for item in batch.items],
            [item.label for item in batch.items],
            batch.positions,
            batch.features,
            batch.errors,
        )


@dataclass(frozen=True)
class Candidates:
    """Images whose labels are classes, not read yet.

    Attributes:
        items: the images.
        labels: int64 [N], indices of classes; of negative labels from K on.
        unmatched: how many images have each label that is no class.
        unlabelled: how many have no label.
    """

    items: Sequence[ImageItem]
    labels: NDArray[np.int64]
    unmatched: Mapping[str, int]
    unlabelled: int

    @classmethod
    def of(
        cls,
        items: Iterable[ImageItem],
        classes: Sequence[ClassName],
        negatives: Sequence[str] = (),
    ) -> Candidates:
        """Match the labels of images with the classes, and with negative labels.

        Raises:
            UsageError: no image has a label, none of the labels is a class, or a class has none.
        """
        index = _index_of(classes, negatives)
        kept: list[ImageItem] = []
        labels: list[int] = []
        unmatched: Counter[str] = Counter()
        unlabelled = 0
        for item in items:
            if item.label is None:
                unlabelled += 1
            elif item.label not in index:
                unmatched[item.label] += 1
            else:
                kept.append(item)
                labels.append(index[item.label])
        if not kept:
            raise _nothing(unmatched, unlabelled, 0, classes)
        found = np.array(labels, np.int64)
        check_every_class(found, [each.name for each in classes], negatives=len(negatives))
        return cls(kept, found, unmatched, unlabelled)


def few_shot_set(
    candidates: Candidates,
    encode: Callable[[Sequence[ImageItem]], Iterable[LabelledBatch]],
    classes: Sequence[ClassName],
    shots: int,
    seed: int,
    *,
    negatives: int = 0,
) -> TrainingSet:
    """Draw the images of a few-shot set first and encode only those.

    An image that turns out to be unreadable is drawn no more: another one takes its place. Where
    all can be read, the draw is that of ``sample_shots`` over all images.

    Args:
        candidates: the images to draw from.
        encode: encodes images, once each.
        classes: K classes.
        shots: images a class.
        seed: of the draw.
        negatives: how many negative labels there are beside the classes.

    Raises:
        UsageError: a class has too few images that can be read.
    """
    names = [each.name for each in classes]
    left = np.arange(len(candidates.items))
    features: dict[int, NDArray[np.float32]] = {}
    local: dict[int, NDArray[np.float32]] = {}
    logits: dict[int, ClassifierLogits] = {}
    unreadable: dict[str, str] = {}
    while True:
        labels = candidates.labels[left]
        drawn = left[sample_shots(labels, shots, seed, names, negatives=negatives)]
        new = [row for row in drawn.tolist() if row not in features]
        damaged, start = set(), 0
        for batch in encode([candidates.items[row] for row in new]):
            for place, position in enumerate(batch.positions.tolist()):
                features[new[start + position]] = batch.features.raw[place]
                if batch.features.local is not None:
                    local[new[start + position]] = batch.features.local[place]
                if batch.features.logits is not None:
                    held = batch.features.logits.rows(slice(place, place + 1))
                    logits[new[start + position]] = held
            for position, reason in batch.errors.items():
                damaged.add(new[start + position])
                unreadable[batch.ids[position]] = reason
            start += len(batch.ids)
        if not damaged:
            break
        left = np.array([row for row in left.tolist() if row not in damaged], np.int64)
    images = LabelledFeatures(
        np.stack([features[row] for row in drawn.tolist()]),
        candidates.labels[drawn],
        tuple(candidates.items[row].path for row in drawn.tolist()),
        np.stack([local[row] for row in drawn.tolist()]) if local else None,
        logits=_joined([logits[row] for row in drawn.tolist()]) if logits else None,
    )
    return TrainingSet(
        images,
        candidates.unmatched,
        candidates.unlabelled,
        unreadable,
        candidates=len(candidates.items),
    )


def labelled_embeddings(embeddings: Embeddings, *, local: bool = False) -> Iterator[LabelledBatch]:
    """Yield stored embeddings in pieces.

    Raises:
        UsageError: local embeddings are needed and none are stored.
    """
    if local and embeddings.local is None:
        raise UsageError(
            "--train: these embeddings have no local ones; store them with `vlood embed --local`"
        )
    labels = embeddings.labels or [""] * len(embeddings.ids)
    for start in range(0, len(embeddings.ids), _ROWS):
        rows = slice(start, start + _ROWS)
        raw = np.asarray(embeddings.features[rows], np.float32)
        held = embeddings.local if local else None
        yield LabelledBatch(
            embeddings.ids[rows],
            [label or None for label in labels[rows]],
            np.arange(len(raw)),
            ImageFeatures(
                raw,
                None if held is None else np.asarray(held[rows], np.float32),
                logits=None if embeddings.logits is None else embeddings.logits.rows(rows),
            ),
            {},
        )


def training_set(
    batches: Iterable[LabelledBatch],
    classes: Sequence[ClassName],
    negatives: Sequence[str] = (),
) -> TrainingSet:
    """Gather the images whose labels are classes, or negative labels, in input order.

    A label is matched as :func:`~vlood.prompts.classes.label_lookup` does it.

    Raises:
        UsageError: no image has a label, none of the labels is a class, or a class has no image.
    """
    index = _index_of(classes, negatives)
    raw: list[NDArray[np.float32]] = []
    local: list[NDArray[np.float32]] = []
    logits: list[ClassifierLogits | None] = []
    ids: list[str] = []
    labels: list[int] = []
    unmatched: Counter[str] = Counter()
    unlabelled, unreadable = 0, {}
    for batch in batches:
        kept = []
        for row, position in enumerate(batch.positions.tolist()):
            label = batch.labels[position]
            if label is None:
                unlabelled += 1
            elif label not in index:
                unmatched[label] += 1
            else:
                kept.append(row)
                ids.append(batch.ids[position])
                labels.append(index[label])
        raw.append(batch.features.raw[kept])
        if batch.features.local is not None:
            local.append(batch.features.local[kept])
        if kept:
            held = batch.features.logits
            logits.append(None if held is None else held.rows(kept))
        unreadable.update({batch.ids[row]: reason for row, reason in batch.errors.items()})
    if not labels:
        raise _nothing(unmatched, unlabelled, len(unreadable), classes)
    found = np.array(labels, np.int64)
    check_every_class(found, [each.name for each in classes], negatives=len(negatives))
    images = LabelledFeatures(
        np.concatenate(raw),
        found,
        tuple(ids),
        np.concatenate(local) if local else None,
        logits=_joined(logits),
    )
    return TrainingSet(images, unmatched, unlabelled, unreadable)


def _index_of(classes: Sequence[ClassName], negatives: Sequence[str]) -> dict[str, int]:
    """Map every spelling of a label to its index; where both sides have it, it is a class."""
    lookup = label_lookup(classes)
    for row, term in enumerate(negatives):
        for spelling in spellings_of(term):
            lookup.setdefault(spelling, len(classes) + row)
    return lookup


def _joined(parts: Sequence[ClassifierLogits | None]) -> ClassifierLogits | None:
    """Join the logits of several batches; None where none has any.

    Raises:
        UsageError: some have none, or name other classes.
    """
    there = [one for one in parts if one is not None]
    if not there:
        return None
    if len(there) < len(parts) or any(one.names != there[0].names for one in there):
        raise UsageError(
            "--train: some embeddings come with a classifier's logits and others without, or with "
            "other class names; give all of one classifier, or leave them all out"
        )
    return ClassifierLogits(np.concatenate([one.values for one in there]), there[0].names)


def stored_model(embeddings: Sequence[Embeddings]) -> tuple[str, dict[str, str]] | None:
    """Return the name and the identity of the model that made stored embeddings.

    None where they do not say, as plain arrays never do, or where they differ.
    """
    described = [{name: one.meta.get(name) for name in ("model", *_IDENTITY)} for one in embeddings]
    first = described[0] if described else {}
    if any(one != first for one in described) or not all(
        isinstance(value, str) for value in first.values()
    ):
        return None
    name = first.pop("model", None)
    return None if name is None else (str(name), {key: str(first[key]) for key in _IDENTITY})


def _nothing(
    unmatched: Mapping[str, int], unlabelled: int, unreadable: int, classes: Sequence[ClassName]
) -> UsageError:
    if unmatched:
        shown = ", ".join(sorted(unmatched)[:_SHOWN])
        names = ", ".join(each.name for each in classes[:_SHOWN])
        return UsageError(
            f"--train: none of the labels is a class: the images are labelled {shown}, and "
            f"--classes has {names}; name folders or labels like the classes"
        )
    if unlabelled:
        return UsageError(
            f"--train: none of the {unlabelled} images has a label; put each class in a folder of "
            "its name, give a list with `path label` lines, or --train-labels with embeddings"
        )
    reason = f"none of the {unreadable} images could be read" if unreadable else "no images"
    return UsageError(f"--train: {reason}; name labelled images or embeddings")
