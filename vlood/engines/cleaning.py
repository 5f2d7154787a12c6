"""Look through a labelled set of images for wrong labels, strange images and copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.engines.records import Record, rounded
from vlood.errors import ImageError, UsageError
from vlood.evaluation.cleaning.class_means import ClassMeans
from vlood.evaluation.cleaning.duplicates import (
    SIDE,
    Pairs,
    alike,
    candidate_pairs,
    join,
    picture_candidates,
    same_content,
    small_picture,
)
from vlood.evaluation.cleaning.mislabelled import (
    Cosines,
    LabelDoubt,
    doubt_labels,
    image_evidence,
    name_evidence,
)
from vlood.evaluation.cleaning.outliers import Outliers, class_outliers, score_outliers
from vlood.evaluation.cleaning.suspects import PROBLEMS, Copies, Suspect, find_suspects
from vlood.features.cache import FeatureCache
from vlood.features.embeddings import Embeddings
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.decode import DecodeSettings, decode
from vlood.images.item import ImageItem

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

COLUMNS = (
    *("path", "label", "problem", "severity", "suggested_label", "confidence"),
    *("suggested_confidence", "outlier", "score", "duplicate_of", "similarity", "exact"),
    *("conflict", "problems", "error"),
)
PICTURE_SIMILARITY = 0.9
EMBEDDING_SIMILARITY = 0.98
_AHEAD = 64


@dataclass(frozen=True)
class CleaningSettings:
    """What counts as suspect.

    Attributes:
        by: judge labels by the other ``images``, by the class ``names``, or by ``both``.
        mislabelled: flag an image whose label is at most this share as probable as is usual.
        outliers: flag an image so many robust standard deviations below the median.
        duplicates: flag images so similar; None: 0.9 of pictures, 0.98 of embeddings alone.
    """

    by: str = "both"
    mislabelled: float = 0.2
    outliers: float = 3.5
    duplicates: float | None = None


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """N images that could be read, and those that could not.

    Attributes:
        paths: N paths or ids.
        labels: int64 [N], a class or -1.
        features: float32 [N, D], unit rows.
        digests: N digests of the files, or None for embeddings.
        items: the N images, or None for embeddings.
        errors: reasons by path.
        scores: float64 [N] of a detector, or None.
    """

    paths: list[str]
    labels: NDArray[np.int64]
    features: NDArray[np.float32]
    digests: list[bytes] | None
    items: list[ImageItem] | None
    errors: dict[str, str]
    scores: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Cleaned:
    """What was found in a labelled set.

    Attributes:
        data: the set.
        class_names: K.
        suspects: by problem, the most certain first.
        doubt: of its labels.
        outliers: how strange its images are.
    """

    data: LabelledSet
    class_names: list[str]
    suspects: list[Suspect]
    doubt: LabelDoubt
    outliers: Outliers
    counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        counts = dict.fromkeys(PROBLEMS, 0)
        for one in self.suspects:
            counts[one.problem] += 1
        object.__setattr__(self, "counts", counts)

    def label(self, row: int) -> str | None:
        """Return the given label of a row."""
        number = int(self.data.labels[row])
        return self.class_names[number] if number >= 0 else None

    def records(self) -> Iterator[Record]:
        """Yield one record a suspect, then one an unreadable image."""
        for one in self.suspects:
            yield self.record(one)
        for path, reason in self.data.errors.items():
            yield {"path": path, "error": reason}

    def record(self, one: Suspect) -> Record:
        """Describe one suspect."""
        doubt, row = self.doubt, one.row
        scores = self.data.scores
        return {
            "path": self.data.paths[row],
            "label": self.label(row),
            "problem": one.problem,
            "severity": rounded(one.severity),
            "suggested_label": self.class_names[one.suggested] if one.suggested >= 0 else None,
            "confidence": _number(doubt.confidence[row]),
            "suggested_confidence": (
                _number(doubt.suggested_confidence[row]) if one.suggested >= 0 else None
            ),
            "outlier": _number(self.outliers.best[row]),
            "score": None if scores is None else _number(scores[row]),
            "duplicate_of": self.data.paths[one.duplicate_of] if one.duplicate_of >= 0 else None,
            "similarity": None if one.similarity is None else rounded(one.similarity),
            "exact": one.exact,
            "conflict": one.conflict,
            "problems": list(one.problems),
        }


Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""From raw embeddings [n, D] to a detector's scores [n]."""


def check_labels(labels: Sequence[str | None], index: dict[str, int]) -> None:
    """Refuse a set that cannot be cleaned, before anything is encoded.

    Raises:
        UsageError: there are no labels or one class only, a class has one image, or a label is
            none of the classes.
    """
    given = [label for label in labels if label is not None]
    if not given:
        raise UsageError(
            "the images have no labels; give a folder with one sub-folder a class, or a list with "
            "`path label` lines"
        )
    unknown = sorted({label for label in given if label not in index})
    if unknown:
        raise UsageError(
            f"--classes: has no class for the label {unknown[0]!r}"
            + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            + "; add a line for it, NAME<TAB>PROMPT NAME, or leave --classes out"
        )
    counts: dict[int, int] = {}
    for label in given:
        counts[index[label]] = counts.get(index[label], 0) + 1
    if len(counts) < 2:
        raise UsageError(
            f"all {len(given)} images have the label {given[0]!r}; labels are judged by comparing "
            "classes: give at least two"
        )
    alone = sorted(label for label in set(given) if counts[index[label]] == 1)
    if alone:
        raise UsageError(
            f"the class {alone[0]!r}"
            + (f" and {len(alone) - 1} more have" if len(alone) > 1 else " has")
            + " a single image, which nothing can be compared with; add images or leave it out"
        )


def read_images(
    items: Iterable[ImageItem],
    index: dict[str, int],
    backbone: Backbone,
    settings: StreamSettings,
    *,
    cache: FeatureCache | None = None,
    score: Score | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> LabelledSet:
    """Encode a set of images, each once; a bad one is kept as an error."""
    kept: list[ImageItem] = []
    digests: list[bytes] = []
    features, scores, errors = [], [], {}
    for batch in encode_images(items, backbone, settings, cache=cache):
        kept.extend(batch.items[row] for row in batch.positions.tolist())
        digests.extend(batch.digests)
        features.append(batch.features.unit)
        if score is not None:
            scores.append(score(batch.features.raw))
        errors.update({batch.items[row].path: reason for row, reason in batch.errors.items()})
        advance(len(batch.items))
    return LabelledSet(
        paths=[item.path for item in kept],
        labels=_numbers([item.label for item in kept], index),
        features=np.concatenate([np.zeros((0, backbone.embed_dim), np.float32), *features]),
        digests=digests,
        items=kept,
        errors=errors,
        scores=None if score is None else np.concatenate([np.zeros(0), *scores]),
    )


def read_stored(
    stored: Sequence[Embeddings], index: dict[str, int], *, score: Score | None = None
) -> LabelledSet:
    """Gather labelled embeddings that were stored earlier."""
    from vlood.backbone.image_features import unit

    raw = np.concatenate([np.asarray(one.features, np.float32) for one in stored])
    labels = [label for one in stored for label in stored_labels(one)]
    return LabelledSet(
        paths=[path for one in stored for path in one.ids],
        labels=_numbers(labels, index),
        features=unit(raw),
        digests=None,
        items=None,
        errors={},
        scores=None if score is None else score(raw),
    )


def stored_labels(stored: Embeddings) -> list[str | None]:
    """Return the labels of stored embeddings, None where there are none."""
    if stored.labels is None:
        return [None] * len(stored.ids)
    return [label or None for label in stored.labels]


def clean(
    data: LabelledSet,
    class_names: Sequence[str],
    settings: CleaningSettings,
    *,
    text: NDArray[np.float32] | None = None,
    decoding: DecodeSettings | None = None,
    workers: int = 1,
) -> Cleaned:
    """Find what is suspect in a labelled set.

    Args:
        data: the images.
        class_names: K, in the order of the labels' numbers.
        settings: what counts as suspect.
        text: unit rows [K, D], the class names' embeddings; needed unless ``by`` is ``images``.
        decoding: how the pictures of likely copies are decoded.
        workers: threads that do it.

    Raises:
        UsageError: fewer than two images could be read.
    """
    count, classes = len(data.paths), len(class_names)
    if count < 2:
        raise UsageError(f"{count} of the images could be read; at least 2 are needed")
    copies = _copies(data, settings, decoding or DecodeSettings(), workers)
    means = ClassMeans.of(data.features, data.labels, classes, copies.group)
    evidence: list[Cosines] = []
    if settings.by != "names":
        evidence.append(image_evidence(means))
    if settings.by != "images":
        assert text is not None
        evidence.append(name_evidence(data.features, text))
    doubt = doubt_labels(tuple(evidence), data.labels, classes, at_most=settings.mislabelled)
    score_z = None
    if data.scores is not None:
        score_z = score_outliers(data.scores, data.labels, classes)
    # The first is the images' evidence wherever there is any: it tells strange images far better.
    outliers = class_outliers(evidence[0], data.labels, classes)
    suspects = find_suspects(
        data.labels,
        doubt,
        outliers,
        copies,
        _sizes(data),
        z_limit=settings.outliers,
        score_z=score_z,
    )
    return Cleaned(data, list(class_names), suspects, doubt, outliers)


def _copies(
    data: LabelledSet, settings: CleaningSettings, decoding: DecodeSettings, workers: int
) -> Copies:
    """Find equal files by their bytes and equal pictures among the rest."""
    count = len(data.paths)
    content = np.arange(count) if data.digests is None else same_content(data.digests)
    single = np.flatnonzero(content == np.arange(count))
    if data.items is None:
        least = settings.duplicates if settings.duplicates is not None else EMBEDDING_SIMILARITY
        near = candidate_pairs(data.features[single], cosine=least)
    else:
        least = settings.duplicates if settings.duplicates is not None else PICTURE_SIMILARITY
        items = [data.items[row] for row in single.tolist()]
        pictures = np.zeros((len(items), SIDE, SIDE, 3), np.uint8)
        readable = np.zeros(len(items), bool)
        for row, picture in enumerate(_small_pictures(items, decoding, workers)):
            if picture is not None:
                pictures[row], readable[row] = picture, True
        features = data.features[single]
        near = join(candidate_pairs(features), picture_candidates(pictures, features, least))
        near = alike(near, pictures, readable, least)
    return Copies.of(content, Pairs(single[near.rows], near.similarity))


def _small_pictures(
    items: Sequence[ImageItem], decoding: DecodeSettings, workers: int
) -> Iterator[NDArray[np.uint8] | None]:
    """Yield the small picture of each image, None where it can no longer be read."""
    fast = DecodeSettings(True, decoding.background, decoding.max_pixels)

    def shrink(item: ImageItem) -> NDArray[np.uint8] | None:
        try:
            return small_picture(decode(item.read(), fast, draft_side=4 * SIDE))
        except ImageError:
            return None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(items), _AHEAD * workers):
            yield from pool.map(shrink, items[start : start + _AHEAD * workers])


def _sizes(data: LabelledSet) -> NDArray[np.int64]:
    if data.items is None:
        return np.zeros(len(data.paths), np.int64)
    sizes = np.zeros(len(data.items), np.int64)
    for row, item in enumerate(data.items):
        state = item.stat()
        sizes[row] = item.size if state is None else state.st_size
    return sizes


def _numbers(labels: Sequence[str | None], index: dict[str, int]) -> NDArray[np.int64]:
    return np.array([-1 if label is None else index[label] for label in labels], np.int64)


def _number(value: float) -> float | None:
    return rounded(float(value)) if np.isfinite(value) else None
