"""What a report is made of: everything measured, before any of it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlood.evaluation.results import ResultRow
from vlood.evaluation.severity import SeverityRow
from vlood.evaluation.significance import PairedRow

Picture = Callable[[str, int], "Image.Image | None"]
"""Opens the image in a row of a set; None where there is none (embeddings, a file that is gone)."""


@dataclass(frozen=True)
class ReportSet:
    """One set of N images that could be read.

    Attributes:
        name: unique in the report.
        group: ``id``, or one of `results.GROUPS`.
        paths: what records call the images [N].
        labels: their own labels [N], None where they have none.
        shift: for the ID set under a shift, its kind; else "".
        severity: of the shift, 1 to 5; else 0.
    """

    name: str
    group: str
    paths: Sequence[str]
    labels: Sequence[str | None]
    shift: str = ""
    severity: int = 0

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class ReportDetector:
    """One detector and what it says of every set.

    Attributes:
        name: what results call it; unique in the report.
        method: its method's name.
        class_names: K of them.
        threshold: images at or above it are called ID.
        threshold_note: where the threshold is from, as the end of a sentence: "keeps 95 % of the
            ID images of this report", "set by calibration on 500 other images".
        scores: by set, float64 [N]; ID scores of a test-time method are those beside its first
            OOD set.
        predicted: by set, int64 [N], indices of classes.
        stream: "", or how the scores depend on other images: order-dependent or transductive.
    """

    name: str
    method: str
    class_names: tuple[str, ...]
    threshold: float
    threshold_note: str
    scores: Mapping[str, NDArray[np.float64]]
    predicted: Mapping[str, NDArray[np.int64]]
    stream: str = ""


@dataclass(frozen=True)
class NearestWords:
    """The negatives nearest to every image of every set.

    Attributes:
        names: M negatives.
        index: by set, int64 [N, k], the nearest first; -1 where there are fewer.
        similarity: by set, float32 [N, k], cosines.
    """

    names: tuple[str, ...]
    index: Mapping[str, NDArray[np.int64]]
    similarity: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows.

    Attributes:
        title: of the page.
        sets: the ID set first.
        detectors: at least one.
        rows: one a detector and OOD set; rows whose `spectrum` is ``full`` have the shifted ID
            images on the ID side too; learning-curve rows have `shots`.
        comparisons: paired tests between detectors, corrected.
        severity: the severity curves.
        nearest: negatives nearest to the images, where there are some.
        picture: opens an image.
        provenance: sections of facts: versions, digests, command, hardware, time.
        notes: sentences a reader must know: images left out, overlaps taken out, and the like.
    """

    title: str
    sets: Sequence[ReportSet]
    detectors: Sequence[ReportDetector]
    rows: Sequence[ResultRow]
    comparisons: Sequence[PairedRow] = ()
    severity: Sequence[SeverityRow] = ()
    nearest: NearestWords | None = None
    picture: Picture = lambda _set, _row: None
    provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
