"""Say why an image scored as it did: likely classes, near negatives, a region, one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.records import rounded
from vlood.methods.contract import Detector
from vlood.methods.ensemble import member_levels, member_scores
from vlood.methods.logits import top_labels
from vlood.methods.regional import deciding_regions
from vlood.negatives.negative_features import NegativeFeatures

if TYPE_CHECKING:
    from vlood.negatives.index import SearchIndex

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class NearestNegatives:
    """The negatives that images are compared with, and the index that finds the nearest.

    Attributes:
        names: M negatives.
        index: over their rows.
        rows: the rows [M, D] themselves, by which an approximate index sorts what it finds.
    """

    names: tuple[str, ...]
    index: SearchIndex
    rows: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, negatives: NegativeFeatures) -> NearestNegatives:
        """Index negatives."""
        from vlood.negatives.index import build_index

        return cls(negatives.names, build_index(negatives.features, "flat"))

    @classmethod
    def of_detector(cls, detector: Detector) -> NearestNegatives | None:
        """Index the negatives a detector scores with, if it has some."""
        features = detector.tensors.get("negative_features")
        if features is None or not detector.negative_names:
            found = map(cls.of_detector, detector.members.values())
            return next((each for each in found if each is not None), None)
        return cls.of(NegativeFeatures.of(detector.negative_names, features))

    def search(
        self, queries: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the cosines and rows of the nearest negatives of N queries, both [N, count]."""
        return self.index.search(queries, count, rows=self.rows)


@dataclass(frozen=True)
class Explanation:
    """What is said of one image.

    Attributes:
        top_labels: its likeliest classes with their softmax probabilities.
        nearest_negatives: the most similar negatives with their cosines; empty without negatives.
        region: the region that looks most like a class, where the method scores with regions: its
            ``row`` and ``column`` from 1 at the upper left, ``rows`` and ``columns`` of the grid,
            the ``label`` it looks like and the ``probability``.
        members: what each member of an ensemble says: its ``score``, the ``level`` of that in
            (0, 1), which is what the ensemble averages, and its ``label``.
    """

    top_labels: list[dict[str, object]]
    nearest_negatives: list[dict[str, object]]
    region: dict[str, object] | None = None
    members: tuple[dict[str, object], ...] = ()

    def sentence(self, ood: bool | None, classes: int) -> str:
        """Say it in one plain sentence."""
        said = self._sentence(ood, classes)
        if self.members:
            parts = [f"{one['member']} {float(str(one['level'])):.2f}" for one in self.members]
            said += f"; members: {', '.join(parts)}"
        if self.region is None:
            return said
        return (
            f"{said}; the region that decided: row {self.region['row']}, column "
            f"{self.region['column']} of {self.region['rows']} x {self.region['columns']}, most "
            f"like {self.region['label']}"
        )

    def _sentence(self, ood: bool | None, classes: int) -> str:
        label = str(self.top_labels[0]["label"])
        probability = float(str(self.top_labels[0]["probability"]))
        word = str(self.nearest_negatives[0]["term"]) if self.nearest_negatives else ""
        if ood:
            nearest = f"nearest word: {word}" if word else f"nearest of them: {label}"
            return f"not one of your {classes} classes; {nearest}"
        if ood is None:
            outside = f"; nearest word outside them: {word}" if word else ""
            return f"of your {classes} classes most like {label} ({probability:.0%}){outside}"
        return f"{label} ({probability:.0%})"


def explain(
    detector: Detector, negatives: NearestNegatives | None, features: ImageFeatures
) -> list[Explanation]:
    """Explain N images to a person."""
    labels, regions = _top_labels(detector, features), _regions(detector, features)
    nearest: list[list[dict[str, object]]] = [[] for _ in labels]
    if negatives is not None and len(features):
        nearest = _nearest(negatives, features)
    members = _members(detector, features)
    return [Explanation(*one) for one in zip(labels, nearest, regions, members, strict=True)]


def _members(detector: Detector, features: ImageFeatures) -> list[tuple[dict[str, object], ...]]:
    """Return what each member of an ensemble says of each image; nothing of other detectors."""
    if not detector.members:
        return [()] * len(features)
    said = member_scores(detector, features)
    levels = member_levels(detector, [each.score for each in said.values()])
    return [
        tuple(
            {
                "member": name,
                "method": one.method,
                "score": rounded(float(said[name].score[row])),
                "level": rounded(float(levels[place, row])),
                "label": one.class_names[int(said[name].label[row])],
            }
            for place, (name, one) in enumerate(detector.members.items())
        )
        for row in range(len(features))
    ]


def _regions(detector: Detector, features: ImageFeatures) -> list[dict[str, object] | None]:
    """Return each image's deciding region, where the method scores with regions."""
    found = deciding_regions(detector, features)
    if found is None or features.local_grid is None:
        return [None] * len(features)
    rows, columns = features.local_grid
    return [
        {
            "row": place // columns + 1,
            "column": place % columns + 1,
            "rows": rows,
            "columns": columns,
            "label": detector.class_names[label],
            "probability": rounded(value),
        }
        for place, label, value in zip(*(each.tolist() for each in found), strict=True)
    ]


def _top_labels(detector: Detector, features: ImageFeatures) -> list[list[dict[str, object]]]:
    """Return each row's most likely classes with their softmax probabilities."""
    index, probability = top_labels(detector, features, _SHOWN)
    return _named(
        detector.class_names, "label", index.tolist(), "probability", probability.tolist()
    )


def _nearest(negatives: NearestNegatives, features: ImageFeatures) -> list[list[dict[str, object]]]:
    """Return each row's most similar negatives with their cosines."""
    if not len(features):
        return []
    cosines, index = negatives.search(features.raw, _SHOWN)
    found = _named(negatives.names, "term", index.tolist(), "similarity", cosines.tolist())
    # An approximate index that finds too few fills up with -1.
    counts = (index >= 0).sum(axis=1).tolist()
    return [near[:count] for near, count in zip(found, counts, strict=True)]


def _named(
    names: Sequence[str],
    name: str,
    rows: list[list[int]],
    figure: str,
    values: list[list[float]],
) -> list[list[dict[str, object]]]:
    return [
        [
            {name: names[row], figure: rounded(value)}
            for row, value in zip(row_numbers, row_values, strict=True)
        ]
        for row_numbers, row_values in zip(rows, values, strict=True)
    ]
