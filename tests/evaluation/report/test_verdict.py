"""The verdict names the best, says how sure that is, and never crowns what is not comparable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlood.evaluation.metrics import EvalMetrics
from vlood.evaluation.report.inputs import ReportDetector, ReportInputs, ReportSet
from vlood.evaluation.report.standings import balanced_mean, curve_rows, main_rows, standings
from vlood.evaluation.report.verdict import verdict
from vlood.evaluation.results import ResultRow
from vlood.evaluation.significance import PairedRow

GROUPS = {"a": "near", "b": "far", "c": "far"}


def metrics(auroc, **more):
    return EvalMetrics(500, 500, auroc, auroc, auroc, 1 - auroc, 1 - auroc, **more)


def detector(name, stream="", threshold=0.5, accepted=0.2):
    ood = np.where(np.arange(500) < 500 * accepted, 0.9, 0.1)
    scores = {"id": np.where(np.arange(500) < 475, 0.9, 0.1), **dict.fromkeys(GROUPS, ood)}
    return ReportDetector(
        name, name, ("cat",), threshold, "keeps 95 % of the ID images of this report", scores, {},
        stream,
    )  # fmt: skip


def rows_of(name, aurocs, stream="", groups=GROUPS, **more):
    return [
        ResultRow(name, name, "id", ood, group, metrics(auroc, **more), stream=stream)
        for (ood, group), auroc in zip(groups.items(), aurocs, strict=True)
    ]


def paired(first, second, difference, p_holm, ood="mean"):
    return PairedRow(
        "id", ood, first, second, 0.9, 0.9 - difference, difference, difference - 0.01,
        difference + 0.01, p_holm / 2, p_holm,
    )  # fmt: skip


def evaluation(detectors, rows, comparisons=(), groups=GROUPS, n=500, notes=()):
    def one(name, group):
        return ReportSet(name, group, [f"{i}.png" for i in range(n)], [None] * n)

    sets = [one("id", "id"), *(one(name, group) for name, group in groups.items())]
    return ReportInputs("t", sets, detectors, rows, comparisons, notes=notes)


@pytest.fixture
def two():
    return (
        [detector("good"), detector("poor")],
        [*rows_of("good", (0.8, 0.9, 0.9)), *rows_of("poor", (0.7, 0.8, 0.9))],
    )


def test_groups_count_the_same_however_many_sets_they_have():
    mean, groups = balanced_mean({"a": ("near", 0.6), "b": ("far", 0.9), "c": ("far", 0.8)})
    assert groups == pytest.approx({"near": 0.6, "far": 0.85})
    assert mean == pytest.approx(0.725)


def test_sets_without_groups_are_averaged_plainly():
    assert balanced_mean({"a": ("-", 0.6), "b": ("-", 0.9)})[0] == pytest.approx(0.75)


def test_a_significant_lead_is_a_win(two):
    judged = verdict(evaluation(*two, [paired("good", "poor", 0.067, 0.001)]))
    assert judged.headline == "good is best: a mean AUROC of 85.0 %, 7.5 points above poor."
    assert judged.best == "good"
    assert judged.tied == ()
    assert (
        "6.7 points over the 3 OOD sets (95 % interval 5.7 to 7.7; p = 0.001 after Holm"
        in (judged.sentences[0])
    )
    assert "more than chance" in judged.sentences[0]


def test_the_order_in_a_pair_does_not_matter(two):
    one = verdict(evaluation(*two, [paired("good", "poor", 0.067, 0.001)]))
    other = verdict(evaluation(*two, [paired("poor", "good", -0.067, 0.001)]))
    assert one.sentences == other.sentences
    assert one.headline == other.headline


def test_a_lead_that_may_be_chance_is_a_tie(two):
    judged = verdict(evaluation(*two, [paired("good", "poor", 0.067, 0.2)]))
    assert judged.headline.startswith("good and poor are tied:")
    assert judged.tied == ("poor",)
    assert "chance explains that" in judged.sentences[0]


def test_the_correction_counts_not_the_plain_p_value(two):
    judged = verdict(evaluation(*two, [paired("good", "poor", 0.067, 0.06)]))
    assert judged.tied == ("poor",)


def test_a_test_that_favours_the_other_is_no_win(two):
    judged = verdict(evaluation(*two, [paired("good", "poor", -0.02, 0.001)]))
    assert "are tied" in judged.headline
    assert "depends on how near and far OOD are weighed" in judged.sentences[0]


def test_without_a_test_nobody_is_called_better(two):
    judged = verdict(evaluation(*two))
    assert "was not tested" in judged.headline
    assert "may be chance" in judged.sentences[0]


def test_tests_on_single_sets_do_not_decide_the_mean(two):
    judged = verdict(evaluation(*two, [paired("good", "poor", 0.1, 0.001, ood="a")]))
    assert "was not tested" in judged.headline


def test_with_one_ood_set_its_own_test_decides():
    groups = {"a": "-"}
    rows = [*rows_of("good", (0.8,), groups=groups), *rows_of("poor", (0.7,), groups=groups)]
    judged = verdict(
        evaluation(
            [detector("good"), detector("poor")],
            rows,
            [paired("good", "poor", 0.1, 0.001, ood="a")],
            groups,
        )
    )
    assert judged.headline.startswith("good is best: an AUROC on a of 80.0 %")


def test_a_stream_detector_never_wins():
    detectors = [detector("plain"), detector("stream", "order-dependent")]
    rows = [
        *rows_of("plain", (0.7, 0.7, 0.7)),
        *rows_of("stream", (0.9, 0.9, 0.9), stream="order-dependent"),
    ]
    judged = verdict(evaluation(detectors, rows, [paired("stream", "plain", 0.2, 1e-6)]))
    assert judged.best == "plain"
    assert judged.headline.startswith("plain tells OOD from ID")
    assert [each.name for each in judged.standings] == ["stream", "plain"]
    (warning,) = judged.warnings
    assert "not comparable" in warning
    assert "though its mean AUROC is the highest" in warning


def test_stream_detectors_alone_have_no_winner():
    rows = rows_of("stream", (0.9, 0.9, 0.9), stream="transductive")
    judged = verdict(evaluation([detector("stream", "transductive")], rows))
    assert judged.best == ""
    assert judged.headline.startswith("No winner")


def test_one_detector_and_set_gives_the_interval():
    groups = {"a": "-"}
    rows = rows_of("only", (0.8,), groups=groups, auroc_ci_low=0.78, auroc_ci_high=0.83)
    judged = verdict(evaluation([detector("only")], rows, groups=groups))
    assert "an AUROC on a of 80.0 %" in judged.headline
    assert judged.sentences[0] == "The 95 % interval is 78.0 to 83.0 %."


def test_the_cost_is_counted_at_the_threshold():
    judged = verdict(
        evaluation([detector("only", accepted=0.124)], rows_of("only", (0.8, 0.9, 0.9)))
    )
    assert any(
        "At its threshold of 0.5, only accepts 12 of each 100 OOD images and 95 of each 100 ID" in s
        and s.endswith("the threshold keeps 95 % of the ID images of this report.")
        for s in judged.sentences
    )


def test_a_small_share_is_not_rounded_to_none():
    judged = verdict(
        evaluation([detector("only", accepted=0.002)], rows_of("only", (0.8, 0.9, 0.9)))
    )
    assert any("accepts 0.2 of each 100" in sentence for sentence in judged.sentences)


@pytest.mark.parametrize(("n", "warned"), [(99, True), (100, False)])
def test_few_images_are_warned_of(two, n, warned):
    judged = verdict(evaluation(*two, n=n))
    assert any("Few images" in warning for warning in judged.warnings) == warned


@pytest.mark.parametrize(
    ("auroc", "words"),
    [(0.52, "no better than guessing on a"), (0.3, "worse than guessing on a"), (0.56, None)],
)
def test_guessing_is_called_guessing(auroc, words):
    judged = verdict(evaluation([detector("only")], rows_of("only", (auroc, 0.9, 0.9))))
    found = [warning for warning in judged.warnings if "guessing" in warning]
    assert bool(found) == bool(words)
    assert not words or words in found[0]


def test_notes_are_passed_on(two):
    assert (
        "Two images were left out."
        in verdict(evaluation(*two, notes=["Two images were left out."])).warnings
    )


def test_nothing_measured_is_said():
    judged = verdict(evaluation([detector("only")], []))
    assert "nothing to compare" in judged.headline
    assert judged.standings == ()


def test_full_spectrum_and_curves_do_not_count():
    rows = rows_of("only", (0.8, 0.8, 0.8))
    full = [replace(row, spectrum="full", metrics=metrics(0.1)) for row in rows]
    few = [
        replace(row, shots=k, seed=s, metrics=metrics(0.2))
        for row in rows
        for k in (1, 2)
        for s in (0, 1)
    ]
    inputs = evaluation([detector("only")], [*full, *few, *rows])
    assert main_rows(inputs.rows) == rows
    assert curve_rows(inputs.rows) == few
    assert standings(inputs)[0].mean == pytest.approx(0.8)


def test_a_single_few_shot_fit_is_a_result_not_a_curve():
    rows = [replace(row, shots=4, seed=0) for row in rows_of("only", (0.8, 0.8, 0.8))]
    assert main_rows(rows) == rows
    assert curve_rows(rows) == []


def test_a_detector_with_a_curve_only_is_named(two):
    detectors, rows = two
    few = [replace(row, shots=k) for row in rows_of("probe", (0.9, 0.9, 0.9)) for k in (1, 2)]
    judged = verdict(evaluation([*detectors, detector("probe")], [*rows, *few]))
    assert any("Not ranked" in warning and "probe" in warning for warning in judged.warnings)
