"""The result of an evaluation: one row a detector and dataset, group means, and their files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from vlood.errors import UsageError, VloodError
from vlood.evaluation.metrics import EvalMetrics

GROUPS = ("near", "far", "shift", "-")
"""The kinds of dataset: near-OOD, far-OOD, covariate-shifted ID, and not grouped."""

Value = str | int | float | None


@dataclass(frozen=True)
class ResultRow:
    """One detector on one ID set and one OOD set.

    Attributes:
        detector: the detector's own name, or its method's when it was made on the spot.
        method: method name.
        id: name of the ID set.
        ood: name of the OOD set.
        group: one of `GROUPS`.
        metrics: what was measured.
        stream: "", or how the scores depend on other images: order-dependent or transductive.
        spectrum: "", or `full` where the shifted ID images are on the ID side too.
        seed: what a fit from few images was drawn with, or None.
        shots: training images a class, or None.
    """

    detector: str
    method: str
    id: str
    ood: str
    group: str
    metrics: EvalMetrics
    stream: str = ""
    spectrum: str = ""
    seed: int | None = None
    shots: int | None = None

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise UsageError(
                f"The group of {self.ood!r} is {self.group!r}; one of {', '.join(GROUPS)} "
                "was expected."
            )

    def record(self) -> dict[str, Value]:
        """Return the row flat, in the order of `COLUMNS`."""
        names: dict[str, Value] = {column: getattr(self, column) for column in _NAME_COLUMNS}
        extra: dict[str, Value] = {column: getattr(self, column) for column in _EXTRA_COLUMNS}
        return {**names, **asdict(self.metrics), **extra}


_NAME_COLUMNS = ("detector", "method", "id", "ood", "group")
_METRIC_COLUMNS = tuple(field.name for field in fields(EvalMetrics))
_EXTRA_COLUMNS = ("stream", "spectrum", "seed", "shots")
COLUMNS = (*_NAME_COLUMNS, *_METRIC_COLUMNS, *_EXTRA_COLUMNS)
"""Columns of `results.json` and `results.csv`, in order."""


def group_means(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Return the unweighted mean over each group's datasets, for each detector and ID side.

    Every dataset counts the same however many images it has. A mean row's `ood` is `near mean`,
    `far mean`, `shift mean`, or `mean` for datasets without a group; its `n_ood` is the sum. It has
    no interval, and an accuracy, OSCR or rate at the threshold only when all its rows have one.
    """
    gathered: dict[tuple[Value, ...], dict[str, list[ResultRow]]] = {}
    for row in rows:
        groups = gathered.setdefault(side_of(row), {})
        groups.setdefault(row.group, []).append(row)
    return [
        _mean_row(groups[group])
        for groups in gathered.values()
        for group in GROUPS
        if group in groups
    ]


def side_of(row: ResultRow) -> tuple[Value, ...]:
    """Return what rows must share to be averaged: the detector as fitted, and the ID side."""
    return row.detector, row.method, row.id, row.spectrum, row.seed, row.shots


def _mean_row(rows: Sequence[ResultRow]) -> ResultRow:
    first = rows[0]

    def mean(name: str) -> float | None:
        known = [value for row in rows if (value := getattr(row.metrics, name)) is not None]
        return _mean(known) if len(known) == len(rows) else None

    metrics = EvalMetrics(
        n_id=max(row.metrics.n_id for row in rows),
        n_ood=sum(row.metrics.n_ood for row in rows),
        auroc=_mean(row.metrics.auroc for row in rows),
        aupr_in=_mean(row.metrics.aupr_in for row in rows),
        aupr_out=_mean(row.metrics.aupr_out for row in rows),
        fpr95_id_pos=_mean(row.metrics.fpr95_id_pos for row in rows),
        fpr95_ood_pos=_mean(row.metrics.fpr95_ood_pos for row in rows),
        **{name: mean(name) for name in ("id_accuracy", "oscr", "threshold", "tpr", "fpr")},
    )
    name = "mean" if first.group == "-" else f"{first.group} mean"
    return replace(first, ood=name, metrics=metrics)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def results_json(rows: Sequence[ResultRow]) -> str:
    """Return the rows as a JSON array of flat objects; an unknown value is null."""
    return json.dumps([row.record() for row in rows], indent=2, ensure_ascii=False) + "\n"


def results_csv(rows: Sequence[ResultRow]) -> str:
    """Return the rows as CSV with a header; an unknown value is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.record() for row in rows)
    return text.getvalue()


def _metrics_of(record: Mapping[str, Any]) -> EvalMetrics:
    """Read the metrics, those of an older version included, which had fewer."""
    needed = {
        each.name: record[each.name] for each in fields(EvalMetrics) if each.default is MISSING
    }
    others = {
        each.name: record[each.name]
        for each in fields(EvalMetrics)
        if each.default is not MISSING and each.name in record
    }
    return EvalMetrics(**needed, **others)


def read_results(path: Path) -> list[ResultRow]:
    """Read the rows of a `results.json`, ignoring columns this version does not know.

    Raises:
        VloodError: the file cannot be read, is not JSON, or lacks a column.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        return [
            ResultRow(
                **{column: record[column] for column in _NAME_COLUMNS},
                metrics=_metrics_of(record),
                **{column: record[column] for column in _EXTRA_COLUMNS if column in record},
            )
            for record in records
        ]
    except OSError as error:
        raise VloodError(
            f"Cannot read the results {path}: {error.strerror}; name the results.json of a report."
        ) from error
    except KeyError as error:
        raise VloodError(
            f"The results {path} lack the column {error}; make the report again."
        ) from error
    except (ValueError, TypeError) as error:
        raise VloodError(
            f"{path} is not a list of evaluation results; name the results.json of a report."
        ) from error
