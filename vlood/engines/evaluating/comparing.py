"""Compare what detectors say of the ID set with what they say of the others: rows and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vlood.detector.calibration import significant
from vlood.engines.evaluating.collecting import Judged
from vlood.engines.evaluating.sets import SetImages
from vlood.evaluation.deployed import at_threshold
from vlood.evaluation.evaluate import evaluate
from vlood.evaluation.metrics import FprMode
from vlood.evaluation.results import ResultRow
from vlood.evaluation.severity import SeverityRow, severity_row
from vlood.evaluation.significance import PairedRow, paired_rows
from vlood.methods import registry

TARGET_TPR = 0.95
FULL = "full"
SHIFT = "shift"


@dataclass(frozen=True)
class Contestant:
    """One detector of an evaluation, as results know it.

    Attributes:
        name: unique in the evaluation.
        shown: what results call it; several fits of one method share it.
        method: its method's name.
        digest: of what it scores with.
        threshold: the deployed one, set on other images, or None.
        per_class: thresholds by predicted class that go before it.
        threshold_note: where it is from, as the end of a sentence; "" without one.
        seed: what a fit from few images, or a stream's order, was drawn with; or None.
        shots: training images a class, or None.
    """

    name: str
    shown: str
    method: str
    digest: str = ""
    threshold: float | None = None
    per_class: Mapping[int, float] = field(default_factory=dict)
    threshold_note: str = ""
    seed: int | None = None
    shots: int | None = None

    @property
    def stream(self) -> str:
        """How the scores depend on other images, as the method's record has it."""
        return registry.get(self.method).record.stream

    def relative(self, judged: Judged) -> NDArray[np.float64]:
        """Return scores less the threshold of each predicted class [N]: accepted from 0 on.

        Scores are rounded as records are, for thresholds are set on rounded ones.
        """
        assert self.threshold is not None
        limits = np.full(len(judged.scores), self.threshold)
        for label, threshold in self.per_class.items():
            limits[judged.predicted == label] = threshold
        return np.asarray(significant(judged.scores) - limits)


@dataclass(frozen=True)
class Evaluation:
    """Everything an evaluation has collected.

    Attributes:
        known: the ID set.
        others: the other sets by name, in order, the ID set's shifted forms among them.
        contestants: the detectors.
        judged: what each says, by its name and a set's; of a test-time one the ID images are under
            ``ID@OOD``, since its scores of them differ from one OOD set to the next.
        class_index: class numbers by label.
        class_names: K of them.
    """

    known: SetImages
    others: Mapping[str, SetImages]
    contestants: Sequence[Contestant]
    judged: Mapping[tuple[str, str], Judged]
    class_index: Mapping[str, int]
    class_names: tuple[str, ...]

    def id_side(self, one: Contestant, ood: str) -> Judged:
        """Return what a detector says of the ID images beside an OOD set."""
        beside = (one.name, f"{self.known.name}@{ood}")
        return self.judged[beside] if one.stream else self.judged[one.name, self.known.name]

    def shifted(self) -> list[SetImages]:
        """Return the sets of covariate-shifted ID images."""
        return [each for each in self.others.values() if each.group == SHIFT]

    def ood(self) -> list[SetImages]:
        """Return the OOD sets."""
        return [each for each in self.others.values() if each.group != SHIFT]


@dataclass(frozen=True)
class _Question:
    """One row to be measured."""

    contestant: Contestant
    id_name: str
    other: SetImages
    known: Judged
    ood: Judged
    true: NDArray[np.int64]
    spectrum: str


def result_rows(
    found: Evaluation,
    *,
    fpr_mode: FprMode = "canonical",
    resamples: int = 1000,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> list[ResultRow]:
    """Measure every detector on every set, and once more with the full spectrum on the ID side.

    Full spectrum: the ID images and all their shifted forms are pooled, scores and accuracy alike
    (OpenOOD v1.5). It needs shifted sets, and detectors that score each image by itself.

    Raises:
        UsageError: a set is empty, or a score is not finite.
    """
    questions = [
        *_standard(found),
        *(_full_spectrum(found) if found.shifted() else []),
    ]

    def row(question: _Question) -> ResultRow:
        measured = _row(question, fpr_mode, resamples, seed)
        advance(1)
        return measured

    # Sums over arrays let go of the interpreter's lock for most of their time.
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(row, questions))


def _standard(found: Evaluation) -> list[_Question]:
    true = found.known.true(found.class_index)
    return [
        _Question(
            one,
            found.known.name,
            other,
            found.id_side(one, other.name),
            found.judged[one.name, other.name],
            true,
            "",
        )
        for one in found.contestants
        for other in found.others.values()
    ]


def _full_spectrum(found: Evaluation) -> list[_Question]:
    sides = [found.known, *found.shifted()]
    true = np.concatenate([each.true(found.class_index) for each in sides])
    questions = []
    for one in found.contestants:
        if one.stream:
            continue
        parts = [found.judged[one.name, each.name] for each in sides]
        pooled = Judged(
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.predicted for part in parts]),
        )
        for other in found.ood():
            judged = found.judged[one.name, other.name]
            name = f"{found.known.name} + shifted"
            questions.append(_Question(one, name, other, pooled, judged, true, FULL))
    return questions


def _row(question: _Question, fpr_mode: FprMode, resamples: int, seed: int) -> ResultRow:
    one, known, ood = question.contestant, question.known, question.ood
    correct = known.predicted == question.true
    named = question.true >= 0
    deployed = None
    if one.threshold is not None:
        # Compared relative to each class's own threshold; reported as it is where all share one.
        deployed = at_threshold(one.relative(known), one.relative(ood), 0.0)
    metrics = evaluate(
        known.scores,
        ood.scores,
        id_correct=(known.scores[named], correct[named]) if named.any() else None,
        deployed=deployed,
        threshold=None if one.per_class else one.threshold,
        fpr_mode=fpr_mode,
        resamples=resamples,
        seed=seed,
    )
    return ResultRow(
        detector=one.shown,
        method=one.method,
        id=question.id_name,
        ood=question.other.name,
        group=question.other.group,
        metrics=metrics,
        stream=one.stream,
        spectrum=question.spectrum,
        seed=one.seed,
        shots=one.shots,
    )


def compared(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Return the detectors that are tested against each other and shown in full.

    Of fits that differ by shots and seeds alone, that of the most shots and its first seed: a
    learning curve is no list of rivals.
    """
    chosen: dict[tuple[str, str], Contestant] = {}
    for one in contestants:
        held = chosen.get((one.shown, one.method))
        if held is None or (one.shots or 0) > (held.shots or 0):
            chosen[one.shown, one.method] = one
    return list(chosen.values())


def comparisons(found: Evaluation) -> list[PairedRow]:
    """Test the detectors against each other on the OOD sets, test-time ones left out."""
    rivals = [one for one in compared(found.contestants) if not one.stream]
    scores = {
        one.shown: {
            other.name: (
                found.judged[one.name, found.known.name].scores,
                found.judged[one.name, other.name].scores,
            )
            for other in found.ood()
            if len(other) > 1 and len(found.known) > 1
        }
        for one in rivals
    }
    return paired_rows(found.known.name, scores)


def reading_threshold(found: Evaluation, one: Contestant) -> tuple[float, str]:
    """Return the threshold a report shows a detector at, and where it is from."""
    if one.threshold is not None:
        return one.threshold, one.threshold_note
    from vlood.evaluation.metrics import threshold_at_tpr

    first = next(iter(found.others))
    value = threshold_at_tpr(found.id_side(one, first).scores, TARGET_TPR)
    return value, f"keeps {TARGET_TPR:.0%} of the ID images of this very evaluation"


def severity_rows(found: Evaluation) -> list[SeverityRow]:
    """Return the severity curves: every kind of shift, from the ID set itself on."""
    shifted = [each for each in found.shifted() if each.shift is not None]
    kinds = list(dict.fromkeys(each.shift.name for each in shifted if each.shift))
    rows = []
    for one in compared(found.contestants):
        if one.stream:
            continue
        threshold, _ = reading_threshold(found, one)
        others = [found.judged[one.name, each.name].scores for each in found.ood()]
        for kind in kinds:
            of_kind = [each for each in shifted if each.shift and each.shift.name == kind]
            levels = [(0, found.known)]
            levels += [(each.shift.severity, each) for each in of_kind if each.shift]
            for severity, images in sorted(levels, key=lambda level: level[0]):
                judged = found.judged[one.name, images.name]
                true = images.true(found.class_index)
                accuracy = accuracy_of(true, judged.predicted)
                if one.threshold is None:
                    accepted = judged.scores >= threshold
                else:
                    accepted = one.relative(judged) >= 0
                rows.append(
                    severity_row(
                        one.shown,
                        kind,
                        severity,
                        judged.scores,
                        others,
                        float(np.mean(accepted)),
                        accuracy,
                    )
                )
    return rows


def accuracy_of(true: NDArray[np.int64], predicted: NDArray[np.int64]) -> float | None:
    """Return the share of labels [N] that are predicted [N], or None where none is known."""
    known = true >= 0
    if not known.any():
        return None
    return float((predicted[known] == true[known]).mean())
