"""Results as files: JSON, CSV, Parquet, Markdown and LaTeX, each whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from vlood.evaluation.metrics import EvalMetrics
from vlood.evaluation.report_files import printable, write_file
from vlood.evaluation.results import (
    COLUMNS,
    ResultRow,
    group_means,
    results_csv,
    results_json,
    side_of,
)
from vlood.evaluation.table import percent

_HEADINGS = (
    "detector",
    "OOD",
    "group",
    "AUROC",
    "95 % interval",
    "AUPR-in",
    "AUPR-out",
    "FPR95, ID positive",
    "FPR95, OOD positive",
    "ID accuracy",
)
_TEXT_COLUMNS = 3


def write_results(folder: Path, rows: Sequence[ResultRow]) -> list[Path]:
    """Write `results` as .json, .csv, .parquet, .md and .tex, and `group_means` as .json and .csv.

    Returns:
        Their paths.

    Raises:
        VloodError: the folder cannot be written.
    """
    means = group_means(rows)
    files = {
        "results.json": _text(results_json(rows)),
        "results.csv": _text(results_csv(rows)),
        "results.parquet": results_parquet(rows),
        "results.md": _text(results_markdown(rows)),
        "results.tex": _text(results_latex(rows)),
        "group_means.json": _text(results_json(means)),
        "group_means.csv": _text(results_csv(means)),
    }
    for name, data in files.items():
        write_file(folder / name, data)
    return [folder / name for name in files]


def results_parquet(rows: Sequence[ResultRow]) -> bytes:
    """Return the rows as a Parquet file with typed columns; an unknown value is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("detector", "method", "id", "ood", "group", "stream", "spectrum")
    whole = ("n_id", "n_ood", "seed", "shots")
    types = {name: pa.string() for name in texts} | {name: pa.int64() for name in whole}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in COLUMNS])
    records = [
        {
            name: printable(value) if isinstance(value, str) else value
            for name, value in row.record().items()
        }
        for row in rows
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=schema), buffer)
    return buffer.getvalue()


def results_markdown(rows: Sequence[ResultRow]) -> str:
    """Return the rows and group means as tables in percent, the best of each set in bold."""
    parts = []
    for title, chosen in _tables(rows):
        lines = [f"**{title}**", ""] if title else []
        lines.append("| " + " | ".join(_HEADINGS) + " |")
        aligned = ["---"] * _TEXT_COLUMNS + ["---:"] * (len(_HEADINGS) - _TEXT_COLUMNS)
        lines.append("|" + "|".join(aligned) + "|")
        for texts, marks in _cells(chosen):
            cells = [
                f"**{cell}**" if mark else cell
                for cell, mark in zip(map(_markdown, texts), marks, strict=True)
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, _NOTE]) + "\n"


def results_latex(rows: Sequence[ResultRow]) -> str:
    """Return the rows and group means as tabulars in percent (package booktabs)."""
    parts = ["% \\usepackage{booktabs}"]
    for title, chosen in _tables(rows):
        lines = [f"% {_one_line(title)}"] if title else []
        columns = "l" * _TEXT_COLUMNS + "r" * (len(_HEADINGS) - _TEXT_COLUMNS)
        lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
        lines += [" & ".join(map(_latex, _HEADINGS)) + r" \\", "\\midrule"]
        for texts, marks in _cells(chosen):
            cells = [
                f"\\textbf{{{cell}}}" if mark else cell
                for cell, mark in zip(map(_latex, texts), marks, strict=True)
            ]
            lines.append(" & ".join(cells) + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}"]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, f"% {_NOTE}"]) + "\n"


_NOTE = (
    "Percent. FPR95, ID positive: OOD accepted when 95 % of ID are; OOD positive: ID rejected when "
    "95 % of OOD are. Means are unweighted."
)

_FIGURES: tuple[tuple[Callable[[EvalMetrics], float | None], int], ...] = (
    (lambda found: found.auroc, 1),
    (lambda found: None, 0),
    (lambda found: found.aupr_in, 1),
    (lambda found: found.aupr_out, 1),
    (lambda found: found.fpr95_id_pos, -1),
    (lambda found: found.fpr95_ood_pos, -1),
    (lambda found: found.id_accuracy, 0),
)
"""Each figure, and whether more (1) or less (-1) of it is better; 0: nothing is marked."""


def _tables(rows: Sequence[ResultRow]) -> list[tuple[str, list[ResultRow]]]:
    """Return titled tables: one an ID side, each detector's means after its sets."""
    tables = []
    for side in dict.fromkeys((row.id, row.spectrum) for row in rows):
        own = [row for row in rows if (row.id, row.spectrum) == side]
        title = f"ID: {side[0]}" + (", full spectrum" if side[1] else "")
        ordered: list[ResultRow] = []
        for fit in dict.fromkeys(map(side_of, own)):
            of_fit = [row for row in own if side_of(row) == fit]
            means = [
                mean
                for mean in group_means(of_fit)
                if sum(row.group == mean.group for row in of_fit) > 1
            ]
            ordered += [*of_fit, *means]
        tables.append((printable(title), ordered))
    return tables


def _cells(rows: Sequence[ResultRow]) -> list[tuple[list[str], list[bool]]]:
    best: dict[tuple[str, int], float] = {}
    for row in rows:
        for place, (figure, sign) in enumerate(_FIGURES):
            value = figure(row.metrics)
            if sign and value is not None and _comparable(row):
                key = (row.ood, place)
                held = best.get(key, -float("inf"))
                best[key] = max(held, sign * value)
    found = []
    for row in rows:
        texts, marks = [_named(row), printable(row.ood), row.group], [False] * _TEXT_COLUMNS
        for place, (figure, sign) in enumerate(_FIGURES):
            value = figure(row.metrics)
            low, high = row.metrics.auroc_ci_low, row.metrics.auroc_ci_high
            if place == 1:
                ends = "-" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}"
                texts.append(ends)
            else:
                texts.append(percent(value))
            wins = sign and value is not None and _comparable(row)
            marks.append(bool(wins and sign * (value or 0.0) == best[row.ood, place]))
        found.append((texts, marks))
    return found


def _comparable(row: ResultRow) -> bool:
    """Say whether a row can be the best: shifted ID images should not be told apart at all."""
    return not row.stream and row.group != "shift"


def _named(row: ResultRow) -> str:
    extra = [f"{row.shots}-shot"] if row.shots is not None else []
    extra += [f"seed {row.seed}"] if row.seed is not None else []
    extra += [row.stream] if row.stream else []
    return printable(row.detector) + (f" ({', '.join(extra)})" if extra else "")


def _markdown(text: str) -> str:
    for letter in "\\|*_<>`[]":
        text = text.replace(letter, f"\\{letter}")
    return text


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
} | {letter: f"\\{letter}" for letter in "&%$#_"}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _text(text: str) -> bytes:
    # An undecodable byte in a name becomes \udcXX, which JSON reads back as it was.
    return text.encode("utf-8", "backslashreplace")
