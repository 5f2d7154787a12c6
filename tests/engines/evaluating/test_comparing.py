"""Rows, full spectrum, deployed thresholds and severity curves, from scores that are there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlood.engines.evaluating.calibrating import calibrated
from vlood.engines.evaluating.collecting import Judged
from vlood.engines.evaluating.comparing import (
    Contestant,
    Evaluation,
    accuracy_of,
    compared,
    reading_threshold,
    result_rows,
    severity_rows,
)
from vlood.engines.evaluating.reporting import Measured, report_inputs, write_figures
from vlood.engines.evaluating.run import entrant_of, run
from vlood.engines.evaluating.sets import SetImages
from vlood.engines.scoring import score_embeddings
from vlood.evaluation.metrics import auroc
from vlood.images.shifts import Shift

from .conftest import SETS, detector_of, set_of

RNG = np.random.default_rng(5)


def images_of(name, group, count, shift=None) -> SetImages:
    labels = [("dog", "cat")[row % 2] for row in range(count)]
    paths = [f"{name}/{row}.png" for row in range(count)]
    digests = [f"{hash((name, row)) & (2**64 - 1):032x}" for row in range(count)]
    return SetImages(name, group, paths, labels, digests, shift=shift)


def judged_of(count, level) -> Judged:
    return Judged(RNG.normal(level, 1, count), RNG.integers(2, size=count))


def evaluation_of(*contestants: Contestant) -> Evaluation:
    known = images_of("known", "id", 40)
    others = [
        images_of("far", "far", 30),
        *(images_of(f"fog:{level}", "shift", 40, Shift("fog", level)) for level in (3, 1)),
    ]
    levels = {"known": 2.0, "far": 0.0, "fog:3": 1.0, "fog:1": 1.6}
    judged = {
        (one.name, images.name): judged_of(len(images), levels[images.name])
        for one in contestants
        for images in (known, *others)
    }
    return Evaluation(
        known,
        {one.name: one for one in others},
        contestants,
        judged,
        {"dog": 0, "cat": 1},
        ("dog", "cat"),
    )


def test_full_spectrum_pools_scores_and_accuracy():
    found = evaluation_of(Contestant("mcm", "mcm", "mcm"))
    rows = {(row.ood, row.spectrum): row for row in result_rows(found, resamples=0)}
    assert list(rows) == [("far", ""), ("fog:3", ""), ("fog:1", ""), ("far", "full")]
    sides = [found.judged["mcm", name] for name in ("known", "fog:3", "fog:1")]
    pooled = np.concatenate([each.scores for each in sides])
    full = rows["far", "full"]
    assert full.id == "known + shifted"
    assert full.metrics.n_id == 120
    assert full.metrics.auroc == auroc(pooled, found.judged["mcm", "far"].scores)
    truth = np.arange(40) % 2
    accuracy = np.mean([np.mean(each.predicted == truth) for each in sides])
    assert full.metrics.id_accuracy == pytest.approx(accuracy)


def test_severities_begin_with_the_id_set_and_rise():
    found = evaluation_of(Contestant("mcm", "mcm", "mcm"))
    rows = severity_rows(found)
    assert [row.severity for row in rows] == [0, 1, 3]
    assert rows[0].accepted == 0.95
    assert rows[0].auroc == auroc(
        found.judged["mcm", "known"].scores, found.judged["mcm", "far"].scores
    )
    assert rows[2].accepted < rows[1].accepted < rows[0].accepted


def test_rates_at_a_deployed_threshold_follow_each_class():
    one = Contestant("own", "own", "mcm", threshold=1.0, per_class={1: 2.5}, threshold_note="so")
    found = evaluation_of(one)
    row = result_rows(found, resamples=0)[0]
    known, far = found.judged["own", "known"], found.judged["own", "far"]

    def accepted(judged: Judged) -> float:
        limits = np.where(judged.predicted == 1, 2.5, 1.0)
        return float(np.mean(judged.scores >= limits))

    assert row.metrics.tpr == accepted(known)
    assert row.metrics.fpr == accepted(far)
    assert row.metrics.threshold is None
    assert row.metrics.fpr_ci_low < row.metrics.fpr < row.metrics.fpr_ci_high
    assert reading_threshold(found, one) == (1.0, "so")
    page = report_inputs(found, Measured([row]), [], title="t", provenance={}, notes=[])
    (shown,) = page.detectors
    assert shown.threshold == 0.0
    assert np.mean(shown.scores["far"] >= 0) == accepted(far)
    assert page.picture("far", 0) is None
    plain = Contestant("own", "own", "mcm", threshold=1.0, threshold_note="so")
    assert result_rows(evaluation_of(plain), resamples=0)[0].metrics.threshold == 1.0


def test_fits_of_few_images_are_one_curve_and_not_rivals():
    fits = [
        Contestant(f"probe {shots} {seed}", "probe", "mcm", shots=shots, seed=seed)
        for shots in (1, 4)
        for seed in (0, 1)
    ]
    other = Contestant("mcm", "mcm", "mcm")
    assert [one.name for one in compared([*fits, other])] == ["probe 4 0", "mcm"]
    rows = result_rows(evaluation_of(*fits, other), resamples=0)
    assert {(row.detector, row.shots, row.seed) for row in rows} == {
        *(("probe", shots, seed) for shots in (1, 4) for seed in (0, 1)),
        ("mcm", None, None),
    }


def test_thresholds_come_from_other_images_and_streams_have_none():
    held_out = set_of("held out", "id", 60, 9).embeddings[0]
    entrants = [entrant_of(detector_of(name), name) for name in ("adaneg", "mcm")]
    batches = score_embeddings(held_out, [entrants[1].detector])
    stream, plain = calibrated(entrants, batches, 0.9)
    assert stream is entrants[0]
    scores = next(score_embeddings(held_out, [entrants[1].detector])).scores[0].score
    judged = Judged(scores, np.zeros(len(scores), int))
    assert np.mean(plain.contestant.relative(judged) >= 0) >= 0.9
    assert plain.contestant.threshold_note == "set to keep 90% of 60 other ID images"


def test_an_accuracy_needs_labels():
    assert accuracy_of(np.array([-1, -1]), np.array([0, 1])) is None
    assert accuracy_of(np.array([0, -1, 1]), np.array([0, 1, 0])) == 0.5


def test_a_report_has_a_picture_a_method_and_one_a_set_for_a_stream(request_of, tmp_path):
    found = run(request_of("mcm", "adaneg")).evaluation
    write_figures(tmp_path, found, Measured(result_rows(found, resamples=0)))
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert {name.partition("-")[0] for name in pictures} == {"roc", "scores"}
    assert sum("mcm" in name for name in pictures) == 2
    assert sum("adaneg" in name for name in pictures) == 2 * len(SETS[1:])
    one = run(request_of("mcm")).evaluation
    write_figures(tmp_path / "one", one, Measured(result_rows(one, resamples=0)))
    assert {path.name for path in (tmp_path / "one").glob("*.png")} == {"roc.png", "scores.png"}


def test_a_report_calls_labels_what_the_classes_are_called():
    found = evaluation_of(Contestant("mcm", "mcm", "mcm"))
    found = replace(found, class_index={"dog": 0}, class_names=("a dog", "a cat"))
    page = report_inputs(found, Measured([]), [], title="t", provenance={}, notes=[])
    assert page.sets[0].group == "id"
    assert page.sets[0].labels[:2] == ["a dog", "cat"]
