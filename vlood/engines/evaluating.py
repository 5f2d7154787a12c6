"""Evaluate detectors on ID and OOD sets: every image is encoded once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.scoring import ScoredBatch, is_stream
from vlood.engines.streaming import mixed_stream
from vlood.evaluation.evaluate import evaluate
from vlood.evaluation.metrics import FprMode
from vlood.evaluation.results import ResultRow, write_results
from vlood.methods import registry
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
        features: raw embeddings [N, D] where they were kept, for test-time detectors.
    """

    scores: list[NDArray[np.float64]]
    predicted: list[NDArray[np.int64]]
    true: NDArray[np.int64]
    labelled: int
    unreadable: Mapping[str, str]
    features: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.true)


def collect_scores(
    batches: Iterable[ScoredBatch],
    detectors: int,
    class_index: Mapping[str, int],
    *,
    keep_features: bool = False,
) -> SetScores:
    """Gather the scores of ``detectors`` detectors from a stream of batches.

    Only numbers are kept of each image, so memory grows by a few bytes an image; with
    ``keep_features`` its embedding too.
    """
    scores: list[list[NDArray[np.float64]]] = [[] for _ in range(detectors)]
    predicted: list[list[NDArray[np.int64]]] = [[] for _ in range(detectors)]
    true: list[int] = []
    labelled, unreadable = 0, {}
    features = []
    for batch in batches:
        if keep_features:
            features.append(batch.features.raw)
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
        features=np.concatenate(features) if features else None,
    )


@dataclass(frozen=True)
class Comparison:
    """What one detector says of an ID and an OOD set.

    Attributes:
        detector: it.
        name: what results call it.
        group: of the OOD set.
        ood: name of the OOD set.
        id_scores: float64 [N].
        ood_scores: float64 [M].
        id_accuracy: the share of ID images given their own class, or None without labels.
    """

    detector: Detector
    name: str
    group: str
    ood: str
    id_scores: NDArray[np.float64]
    ood_scores: NDArray[np.float64]
    id_accuracy: float | None

    @property
    def stream(self) -> str:
        """How the scores depend on other images, as the method's record has it."""
        return registry.get(self.detector.method).record.stream


def compare(
    detectors: Sequence[Detector],
    id_set: SetScores,
    ood_sets: Mapping[tuple[str, str], SetScores],
    *,
    names: Sequence[str] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> list[Comparison]:
    """Pair the ID set with every OOD set, for every detector.

    A test-time detector goes through the two sets as one shuffled stream, starting afresh for each
    OOD set: ``batch_size`` images a step, the order drawn from ``seed``.

    Args:
        detectors: in the order of the sets' ``scores``, test-time ones anywhere between.
        id_set: scores of the ID images, with their features where a detector is a test-time one.
        ood_sets: the same of OOD sets, by (group, name).
        names: what results call the detectors; by default their methods.
        batch_size: images a step of a stream.
        seed: of a stream's order.
    """
    comparisons, number = [], 0
    shown = names or [one.method for one in detectors]
    for detector, called in zip(detectors, shown, strict=True):
        streaming = is_stream(detector)
        for (group, name), ood_set in ood_sets.items():
            if streaming:
                assert id_set.features is not None
                assert ood_set.features is not None
                known, others = mixed_stream(
                    detector,
                    ImageFeatures(id_set.features),
                    ImageFeatures(ood_set.features),
                    batch_size=batch_size,
                    seed=seed,
                )
                found = known.score, others.score, known.label
            else:
                found = id_set.scores[number], ood_set.scores[number], id_set.predicted[number]
            accuracy = accuracy_of(id_set.true, found[2])
            comparisons.append(Comparison(detector, called, group, name, *found[:2], accuracy))
        number += not streaming
    return comparisons


def accuracy_of(true: NDArray[np.int64], predicted: NDArray[np.int64]) -> float | None:
    """Return the share of ID images given their own class, or None where no label is known."""
    known = true >= 0
    if not known.any():
        return None
    return float((predicted[known] == true[known]).mean())


def result_rows(
    comparisons: Sequence[Comparison],
    id_name: str,
    *,
    fpr_mode: FprMode = "canonical",
    resamples: int = 1000,
    seed: int = 0,
) -> list[ResultRow]:
    """Measure every comparison.

    Raises:
        UsageError: a set is empty, or a score is not finite.
    """
    return [
        ResultRow(
            detector=one.name,
            method=one.detector.method,
            id=id_name,
            ood=one.ood,
            group=one.group,
            metrics=evaluate(
                one.id_scores,
                one.ood_scores,
                id_accuracy=one.id_accuracy,
                fpr_mode=fpr_mode,
                resamples=resamples,
                seed=seed,
            ),
            stream=one.stream,
        )
        for one in comparisons
    ]


def write_report(
    folder: Path, rows: Sequence[ResultRow], comparisons: Sequence[Comparison]
) -> None:
    """Write the results, ROC curves and score histograms into a folder.

    A picture shows a detector with all OOD sets; a test-time one has a picture for each, since its
    scores of the ID images differ from one to the next.
    """
    from vlood.evaluation.plots import save_roc, save_score_histogram

    write_results(folder, rows)
    pictures: dict[tuple[str, str], list[Comparison]] = {}
    for one in comparisons:
        apart = one.ood if one.stream else ""
        pictures.setdefault((one.name, apart), []).append(one)
    for (name, apart), shown in pictures.items():
        suffix = "" if len(pictures) == 1 else f"-{_file_part(name)}"
        suffix += f"-{_file_part(apart)}" if apart else ""
        known = shown[0].id_scores
        by_name = {one.ood: one.ood_scores for one in shown}
        save_roc(folder / f"roc{suffix}.png", known, by_name, title=f"ROC, {name}")
        histogram = folder / f"scores{suffix}.png"
        save_score_histogram(histogram, known, by_name, title=f"Scores, {name}")


def _file_part(name: str) -> str:
    """Return a set's name as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
