"""The table of results as it looks on a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from vlood.evaluation.metrics import EvalMetrics
from vlood.evaluation.results import ResultRow
from vlood.evaluation.table import percent, results_table


def a_row(detector="mcm", ood="svhn", group="far", accuracy=0.875, low=0.9):
    metrics = EvalMetrics(
        1000, 400, 0.91834, 0.95, 0.8, 0.25, 0.4, accuracy, low, None if low is None else 0.934
    )
    return ResultRow(detector, "mcm", "cifar10", ood, group, metrics)


def drawn(rows, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(results_table(rows, title="Evaluation"))
    return console.file.getvalue()


def test_shows_percent_and_says_which_side_is_positive():
    text = drawn([a_row()])
    for word in ("91.83", "90.0-93.4", "87.50", "FPR95", "ID+", "OOD+", "cifar10, 1,000 images"):
        assert word in text
    assert "OOD accepted when 95 % of ID are" in " ".join(text.split())


def test_leaves_out_the_columns_that_say_nothing():
    text = drawn([a_row(group="-", accuracy=None, low=None)])
    for word in ("Group", "acc.", "CI", "Method", "mean"):
        assert word not in text
    assert "Detector: mcm" in text


def test_several_detectors_side_by_side_with_their_group_means():
    rows = [a_row(name, ood) for name in ("mcm", "tuned") for ood in ("svhn", "mnist")]
    rows.append(a_row("mcm", "cifar100", "near"))
    text = drawn(rows, width=100)
    assert text.count("far mean") == 2
    assert "near mean" not in text  # one dataset: the mean would repeat it
    assert text.index("cifar100") < text.index("tuned")
    assert "Method" in text


def test_fits_eighty_columns_without_cutting_a_figure():
    rows = [a_row(name, "a dataset with a rather long name") for name in ("gl-mcm", "max-logit")]
    text = drawn(rows, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("91.83") == 2
    assert "…" not in text


def test_odd_names_are_shown_as_they_are_not_as_markup():
    text = drawn([a_row(ood="[red]x[/red]"), a_row(ood="a\nb\udcff")], width=120)
    assert "[red]x[/red]" in text
    assert "a b\\udcff" in text


def test_percent():
    assert percent(None) == "-"
    assert percent(1.0) == "100.00"
    assert percent(0.123456) == "12.35"


def test_no_rows_is_an_empty_table():
    assert "AUROC" in drawn([])


def test_a_test_time_method_is_marked_and_the_caption_says_why():
    streamed = replace(a_row("adaneg"), method="adaneg", stream="order-dependent")
    for rows in ([a_row(), streamed], [streamed]):
        text = " ".join(drawn(rows, width=120).split())
        assert "adaneg * order-dependent" in text
        assert "* Scores depend on the other images and their order: not to be compared." in text
    assert "Detector: adaneg * order-dependent" in text
    assert "*" not in drawn([a_row(), a_row("msp")], width=120)
