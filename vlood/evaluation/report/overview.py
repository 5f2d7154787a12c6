"""What the page shows of all detectors together: intervals, learning curves, severity curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlood.evaluation.report.charts import Line, interval_figure, line_figure, swatch
from vlood.evaluation.report.inputs import ReportInputs
from vlood.evaluation.report.standings import OOD_GROUPS
from vlood.evaluation.report.tables import CURVE_METRICS, learning_curves
from vlood.evaluation.report.wording import count_text, listed, percent, shown_name
from vlood.evaluation.results import ResultRow
from vlood.evaluation.severity import SeverityRow

SEVERITY_METRICS = (
    ("accepted", "ID accepted"),
    ("auroc", "Mean AUROC"),
    ("id_accuracy", "ID accuracy"),
)


def legend(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return names with the colour and dash of their lines."""
    return [{"name": shown_name(name), **swatch(i)} for i, name in enumerate(names)]


def intervals_view(inputs: ReportInputs, rows: Sequence[ResultRow]) -> dict[str, Any] | None:
    """Draw every detector's AUROC with its interval on every OOD set; None for a single dot."""
    rows = [row for row in rows if row.group in OOD_GROUPS]
    if len(rows) < 2:
        return None
    series = {each.name: i for i, each in enumerate(inputs.detectors)}
    sets = {row.ood: row.group for group in OOD_GROUPS for row in rows if row.group == group}
    dots = [
        [
            (
                100 * row.metrics.auroc,
                None if row.metrics.auroc_ci_low is None else 100 * row.metrics.auroc_ci_low,
                None if row.metrics.auroc_ci_high is None else 100 * row.metrics.auroc_ci_high,
                series.get(row.detector, 0),
            )
            for row in rows
            if row.ood == name
        ]
        for name in sets
    ]
    label = "AUROC by OOD set, percent. " + " ".join(
        f"{shown_name(name)}: "
        + ", ".join(
            f"{shown_name(row.detector)} {percent(row.metrics.auroc)}"
            for row in rows
            if row.ood == name
        )
        + "."
        for name in sets
    )
    height = max(18.0, 9.0 * (1 + max(len(each) for each in dots)))
    svg, axis = interval_figure(dots, "intervals", label, height)
    return {
        "svg": svg,
        "axis": axis,
        "sets": [(shown_name(name), "" if group == "-" else group) for name, group in sets.items()],
    }


def curves_view(rows: Sequence[ResultRow]) -> dict[str, Any] | None:
    """Draw the learning curves and list their points; None where there are none."""
    found = learning_curves(rows)
    if not found:
        return None
    figures = []
    for key, name, _ in CURVE_METRICS:
        lines, said = [], []
        for i, (detector, points) in enumerate(found.items()):
            known = [(point.shots, *point.values[key]) for point in points if key in point.values]
            if not known:
                continue
            shots, mean, low, high = zip(*known, strict=True)
            lines.append(Line(shots, _hundred(mean), _hundred(low), _hundred(high), i))
            said.append(
                f"{shown_name(detector)}: "
                + ", ".join(f"{percent(m)} at {s}" for s, m in zip(shots, mean, strict=True))
            )
        if lines:
            label = f"{name} in percent over training images a class. {'; '.join(said)}."
            svg = line_figure(
                lines, "training images a class", f"curve-{key}", label, doubling=True
            )
            figures.append({"name": name, "svg": svg})
    table = [
        {
            "detector": shown_name(detector),
            "shots": point.shots,
            "seeds": point.seeds,
            "cells": [_spread_text(point.values.get(key)) for key, _, _ in CURVE_METRICS],
        }
        for detector, points in found.items()
        for point in points
    ]
    return {
        "figures": figures,
        "legend": legend(list(found)),
        "headings": [name for _, name, _ in CURVE_METRICS],
        "rows": table,
    }


def severity_view(inputs: ReportInputs) -> dict[str, Any] | None:
    """Draw the severity curves, three figures a kind of shift; None where there are none."""
    if not inputs.severity:
        return None
    series = {each.name: i for i, each in enumerate(inputs.detectors)}
    shifts = []
    for number, shift in enumerate(dict.fromkeys(row.shift for row in inputs.severity)):
        rows = [row for row in inputs.severity if row.shift == shift]
        figures = [
            figure
            for key, name in SEVERITY_METRICS
            if (figure := _severity_figure(rows, series, key, name, f"shift{number}-{key}"))
        ]
        shifts.append(
            {
                "name": shown_name(shift),
                "figures": figures,
                "rows": [
                    {
                        "detector": shown_name(row.detector),
                        "severity": row.severity,
                        "n": row.n,
                        "cells": [percent(getattr(row, key)) for key, _ in SEVERITY_METRICS],
                    }
                    for row in rows
                ],
            }
        )
    names = [str(shift["name"]) for shift in shifts]
    return {
        "shifts": shifts,
        "headings": [name for _, name in SEVERITY_METRICS],
        "about": f"{count_text(len(names), 'kind')} of shift: {listed(names)}",
    }


def _severity_figure(
    rows: Sequence[SeverityRow], series: dict[str, int], key: str, name: str, prefix: str
) -> dict[str, Any] | None:
    lines, said = [], []
    for detector in dict.fromkeys(row.detector for row in rows):
        points = sorted(
            (row.severity, getattr(row, key))
            for row in rows
            if row.detector == detector and getattr(row, key) is not None
        )
        if points:
            x, y = zip(*points, strict=True)
            lines.append(Line(x, _hundred(y), None, None, series.get(detector, 0)))
            said.append(f"{shown_name(detector)}: {', '.join(percent(value) for value in y)}")
    if not lines:
        return None
    label = f"{name} in percent by severity, from {lines[0].x[0]:g} on. {'; '.join(said)}."
    return {"name": name, "svg": line_figure(lines, "severity", prefix, label)}


def _hundred(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _spread_text(spread: tuple[float, float, float] | None) -> tuple[str, str]:
    if spread is None:
        return "–", ""
    mean, low, high = spread
    return percent(mean), "" if low == high else f"{percent(low)}–{percent(high)}"
