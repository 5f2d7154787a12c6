"""Rows, group means, and the files of a report."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from vlood.errors import UsageError, VloodError
from vlood.evaluation import report_files
from vlood.evaluation.metrics import EvalMetrics
from vlood.evaluation.result_files import results_latex, results_markdown, write_results
from vlood.evaluation.results import (
    COLUMNS,
    ResultRow,
    group_means,
    read_results,
    results_csv,
)


def a_row(ood="svhn", group="far", detector="mcm", auroc=0.9, n_ood=10, accuracy=0.8):
    metrics = EvalMetrics(100, n_ood, auroc, 0.91, 0.7, 0.2, 0.3, accuracy, auroc - 0.1, 0.99)
    return ResultRow(detector, "mcm", "cifar10", ood, group, metrics)


def test_columns_are_the_documented_ones_in_order():
    documented = (
        "detector, method, id, ood, group, n_id, n_ood, auroc, aupr_in, aupr_out, fpr95_id_pos, "
        "fpr95_ood_pos, id_accuracy, auroc_ci_low, auroc_ci_high"
    )
    assert ", ".join(COLUMNS[:15]) == documented
    assert COLUMNS[-4:] == ("stream", "spectrum", "seed", "shots")
    assert tuple(a_row().record()) == COLUMNS


def test_group_means_weigh_datasets_alike_and_keep_detectors_apart():
    rows = [
        a_row("mnist", "far", auroc=0.9, n_ood=1000),
        a_row("cifar100", "near", auroc=0.6),
        a_row("svhn", "far", auroc=0.5, n_ood=10),
        a_row("mnist", "far", detector="other", auroc=0.1, accuracy=None),
        a_row("svhn", "far", detector="other", auroc=0.3),
        a_row("mine", "-", detector="other", auroc=0.2),
    ]
    means = group_means(rows)
    assert [(mean.detector, mean.ood) for mean in means] == [
        ("mcm", "near mean"),
        ("mcm", "far mean"),
        ("other", "far mean"),
        ("other", "mean"),
    ]
    assert means[1].metrics.auroc == pytest.approx(0.7)
    assert means[1].metrics.n_ood == 1010
    assert means[1].metrics.auroc_ci_low is None
    assert means[0].metrics.id_accuracy == 0.8
    assert means[2].metrics.id_accuracy is None


def test_every_figure_of_a_mean_row_is_the_mean_and_its_images_are_counted():
    values = {
        "auroc": (0.75, 0.25),
        "aupr_in": (0.5, 1.0),
        "aupr_out": (0.125, 0.375),
        "fpr95_id_pos": (0.25, 0.75),
        "fpr95_ood_pos": (1.0, 0.0),
        "id_accuracy": (0.5, 0.75),
        "oscr": (0.25, 0.5),
        "threshold": (0.5, 0.25),
        "tpr": (1.0, 0.75),
        "fpr": (0.5, 0.125),
    }
    rows = [
        replace(
            a_row(name, "near"),
            metrics=EvalMetrics(
                n_id, n_ood, **{figure: both[k] for figure, both in values.items()}
            ),
        )
        for k, (name, n_id, n_ood) in enumerate([("one", 80, 7), ("two", 100, 9)])
    ]
    (found,) = group_means(rows)
    for figure, both in values.items():
        assert getattr(found.metrics, figure) == sum(both) / 2, figure
    # Images that could not be read may be missing from one set's run.
    assert (found.metrics.n_id, found.metrics.n_ood) == (100, 16)
    without = replace(rows[1].metrics, oscr=None)
    (found,) = group_means([rows[0], replace(rows[1], metrics=without)])
    assert found.metrics.oscr is None
    assert found.metrics.tpr == 0.875


def test_unknown_group_is_refused():
    with pytest.raises(UsageError, match="nearby"):
        a_row(group="nearby")


def test_files_hold_the_rows_and_read_back(tmp_path):
    rows = [a_row(), a_row('näme, "quoted"', "near", accuracy=None), a_row("bad\udcff", "near")]
    folder = tmp_path / "deep" / "report"
    written = write_results(folder, rows)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in written)
    assert read_results(folder / "results.json") == rows
    records = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert [record["ood"] for record in records] == [row.ood for row in rows]
    assert records[1]["id_accuracy"] is None
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == COLUMNS
    assert float(table[0]["auroc"]) == rows[0].metrics.auroc
    assert table[1]["ood"] == rows[1].ood
    assert table[1]["id_accuracy"] == ""
    means = read_results(folder / "group_means.json")
    assert means == group_means(rows)


def test_csv_of_no_rows_is_its_header():
    assert results_csv([]) == ",".join(COLUMNS) + "\n"


def test_results_written_by_a_newer_version_are_read_and_others_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**a_row().record(), "brand_new": 0.4}]))
    assert read_results(path) == [a_row()]
    for text, told in (
        ("{", "not a list"),
        ('{"auroc": 1}', "not a list"),
        ("[3]", "not a list"),
        ('[{"detector": "mcm"}]', "lack the column 'method'"),
    ):
        path.write_text(text)
        with pytest.raises(VloodError, match=told):
            read_results(path)
    with pytest.raises(VloodError, match="Cannot read"):
        read_results(tmp_path / "absent.json")


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    report_files.write_file(path, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_files.os, "fsync", full)
    with pytest.raises(VloodError, match=r"results\.json: No space left on device"):
        report_files.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_the_folder_should_be_is_one_sentence(tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(VloodError, match="Cannot write"):
        write_results(tmp_path / "report", [a_row()])


def test_a_row_says_how_its_scores_depend_on_other_images(tmp_path):
    streamed = replace(a_row(), stream="order-dependent")
    write_results(tmp_path, [a_row(), streamed])
    records = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [record["stream"] for record in records] == ["", "order-dependent"]
    assert read_results(tmp_path / "results.json") == [a_row(), streamed]
    assert read_results(tmp_path / "group_means.json")[0].stream == ""
    assert group_means([streamed])[0].stream == "order-dependent"


def test_results_from_before_streams_were_noted_are_read(tmp_path):
    old = a_row().record()
    del old["stream"]
    (tmp_path / "results.json").write_text(json.dumps([old]), encoding="utf-8")
    assert read_results(tmp_path / "results.json") == [a_row()]


def test_tables_for_print_mark_the_best_and_escape_names():
    rows = [
        a_row("a_b & {c}|d", "near", auroc=0.8),
        a_row("a_b & {c}|d", "near", "energy", auroc=0.9),
        replace(a_row("a_b & {c}|d", "near", "ada", auroc=0.95), stream="order-dependent"),
        a_row("fog:1", "shift", "energy", auroc=0.6),
        a_row("other", "near", "energy", auroc=0.7),
    ]
    text = results_markdown(rows)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[2].startswith("| mcm | a\\_b & {c}\\|d | near | 80.00 | 70.0-99.0 |")
    assert "| **90.00** |" in lines[3]
    assert "near mean" in lines[6]
    assert "| 80.00 |" in lines[6]
    assert lines[7].startswith("| ada (order-dependent) |")
    assert "**" not in lines[7]
    assert "**" not in next(line for line in lines if "fog" in line).replace("**9", "")
    latex = results_latex(rows)
    assert r"mcm & a\_b \& \{c\}|d & near & 80.00" in latex
    assert r"\textbf{90.00}" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1


def test_parquet_has_typed_columns(tmp_path):
    import pyarrow.parquet as pq

    write_results(tmp_path, [a_row(), replace(a_row("bad\udcff"), shots=4, seed=1)])
    table = pq.read_table(tmp_path / "results.parquet")
    assert tuple(table.column_names) == COLUMNS
    assert table["shots"].to_pylist() == [None, 4]
    assert table["auroc"].to_pylist() == [0.9, 0.9]
