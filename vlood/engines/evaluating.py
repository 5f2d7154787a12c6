"""Evaluate detectors on ID and OOD sets: every image is encoded once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.engines.scoring import ScoredBatch
from vlood.evaluation.evaluate import evaluate
from vlood.evaluation.metrics import FprMode
from vlood.evaluation.results import ResultRow, write_results
from vlood.methods.contract import Detector


@dataclass(frozen=True)
class SetScores:
    """What each detector says of one set of N images.

    Attributes:
        scores: one float64 [N] a detector.
        predicted: one int64 [N] a detector, indices of classes.
        true: int64 [N], the class index by the image's label, -1 where it names no known class.
        labelled: how many images came with a label.
        unreadable: reasons by path, of the images left out.
    """

    scores: list[NDArray[np.float64]]
    predicted: list[NDArray[np.int64]]
    true: NDArray[np.int64]
    labelled: int
    unreadable: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.true)


def collect_scores(
    batches: Iterable[ScoredBatch], detectors: int, class_index: Mapping[str, int]
) -> SetScores:
    """Gather the scores of ``detectors`` detectors from a stream of batches.

    Only numbers are kept of each image, so memory grows by a few bytes an image.
    """
    scores: list[list[NDArray[np.float64]]] = [[] for _ in range(detectors)]
    predicted: list[list[NDArray[np.int64]]] = [[] for _ in range(detectors)]
    true: list[int] = []
    labelled, unreadable = 0, {}
    for batch in batches:
        for number, one in enumerate(batch.scores):
            scores[number].append(one.score)
            predicted[number].append(one.label)
        for position in batch.positions.tolist():
            label = batch.labels[position]
            labelled += label is not None
            true.append(-1 if label is None else class_index.get(label, -1))
        unreadable.update({batch.ids[row]: reason for row, reason in batch.errors.items()})
    return SetScores(
        scores=[np.concatenate([np.zeros(0), *parts]) for parts in scores],
        predicted=[np.concatenate([np.zeros(0, np.int64), *parts]) for parts in predicted],
        true=np.array(true, np.int64),
        labelled=labelled,
        unreadable=unreadable,
    )


def accuracy_of(id_set: SetScores, detector: int) -> float | None:
    """Return the share of ID images given their own class, or None where no label is known."""
    known = id_set.true >= 0
    if not known.any():
        return None
    return float((id_set.predicted[detector][known] == id_set.true[known]).mean())


def result_rows(
    detectors: Sequence[Detector],
    id_name: str,
    id_set: SetScores,
    ood_sets: Mapping[tuple[str, str], SetScores],
    *,
    fpr_mode: FprMode = "canonical",
    resamples: int = 1000,
    seed: int = 0,
) -> list[ResultRow]:
    """Measure every detector on every OOD set; ``ood_sets`` is keyed by (group, name).

    Raises:
        UsageError: a set is empty, or a score is not finite.
    """
    return [
        ResultRow(
            detector=detector.method,
            method=detector.method,
            id=id_name,
            ood=name,
            group=group,
            metrics=evaluate(
                id_set.scores[number],
                ood_set.scores[number],
                id_accuracy=accuracy_of(id_set, number),
                fpr_mode=fpr_mode,
                resamples=resamples,
                seed=seed,
            ),
        )
        for number, detector in enumerate(detectors)
        for (group, name), ood_set in ood_sets.items()
    ]


def write_report(
    folder: Path,
    rows: Sequence[ResultRow],
    detectors: Sequence[Detector],
    id_set: SetScores,
    ood_sets: Mapping[tuple[str, str], SetScores],
) -> None:
    """Write the results, ROC curves and score histograms into a folder."""
    from vlood.evaluation.plots import save_roc, save_score_histogram

    write_results(folder, rows)
    for number, detector in enumerate(detectors):
        suffix = "" if len(detectors) == 1 else f"-{detector.method}"
        known = id_set.scores[number]
        by_name = {name: one.scores[number] for (_, name), one in ood_sets.items()}
        save_roc(folder / f"roc{suffix}.png", known, by_name, title=f"ROC, {detector.method}")
        histogram = folder / f"scores{suffix}.png"
        save_score_histogram(histogram, known, by_name, title=f"Scores, {detector.method}")
