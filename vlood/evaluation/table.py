"""Show evaluation results as a table for the terminal, in percent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from vlood.evaluation.metrics import EvalMetrics
from vlood.evaluation.report_files import printable
from vlood.evaluation.results import ResultRow, group_means, side_of

_Cell = Callable[[EvalMetrics], str]


def results_table(rows: Sequence[ResultRow], *, title: str | None = None) -> Table:
    """Return a table of the rows, a detector's group means below its datasets.

    A mean over one dataset would repeat its row and is left out, and so is a column that says
    nothing: the detector when there is one, the method where it is the detector's name, the ID set
    when there is one (the caption names it), the group when no dataset has one, an accuracy or an
    interval nobody measured. The caption says what is positive in each FPR.
    """
    names = _name_columns(rows)
    figures = _figure_columns(rows)
    table = Table(
        title=title,
        caption=_caption(rows),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        # One space between columns: with short names the table fits 80 characters.
        padding=(0, 1, 0, 0),
    )
    for header in names:
        table.add_column(header, overflow="fold", no_wrap=header == "Group")
    for header in figures:
        table.add_column(header, justify="right", no_wrap=True)

    def add(row: ResultRow, *, mean: bool, last: bool) -> None:
        cells = [Text(printable(name(row))) for name in names.values()]
        cells += [Text(figure(row.metrics)) for figure in figures.values()]
        table.add_row(*cells, style="italic" if mean else None, end_section=last)

    means = _telling_means(rows)
    detectors = list(dict.fromkeys(map(side_of, rows)))
    for detector in detectors:
        own = [(row, False) for row in rows if side_of(row) == detector]
        own += [(row, True) for row in means if side_of(row) == detector]
        for i, (row, mean) in enumerate(own):
            last = len(own) > 1 and i == len(own) - 1 and detector != detectors[-1]
            add(row, mean=mean, last=last)
    return table


def results_tables(rows: Sequence[ResultRow]) -> list[Table]:
    """Return `results_table` for each ID side: the ID set itself, and with its shifted forms."""
    sides = list(dict.fromkeys((row.id, row.spectrum) for row in rows))
    tables = []
    for side in sides:
        own = [row for row in rows if (row.id, row.spectrum) == side]
        title = "Full spectrum: shifted ID images on the ID side too" if side[1] else None
        tables.append(results_table(own, title=title))
    return tables


def percent(fraction: float | None) -> str:
    """Return a fraction as percent with two digits, a dash when it is not known."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _marked(row: ResultRow) -> str:
    name = row.detector
    if row.shots is not None:
        name += f" {row.shots}-shot"
    if row.seed is not None:
        name += f" seed {row.seed}"
    return f"{name} * {row.stream}" if row.stream else name


def _telling_means(rows: Sequence[ResultRow]) -> list[ResultRow]:
    sizes = Counter((side_of(row), row.group) for row in rows)
    return [mean for mean in group_means(rows) if sizes[side_of(mean), mean.group] > 1]


def _name_columns(rows: Sequence[ResultRow]) -> dict[str, Callable[[ResultRow], str]]:
    columns: dict[str, Callable[[ResultRow], str]] = {}
    if len({(row.detector, row.method, row.seed, row.shots) for row in rows}) > 1:
        columns["Detector"] = _marked
        if any(row.method != row.detector for row in rows):
            columns["Method"] = lambda row: row.method
    if len({row.id for row in rows}) > 1:
        columns["ID"] = lambda row: row.id
    columns["OOD"] = lambda row: row.ood
    if any(row.group != "-" for row in rows):
        columns["Group"] = lambda row: row.group
    return columns


def _figure_columns(rows: Sequence[ResultRow]) -> dict[str, _Cell]:
    columns: dict[str, _Cell] = {"AUROC": lambda metrics: percent(metrics.auroc)}
    if any(row.metrics.auroc_ci_low is not None for row in rows):
        columns["95 % CI"] = _interval
    columns["AUPR\nin"] = lambda metrics: percent(metrics.aupr_in)
    columns["AUPR\nout"] = lambda metrics: percent(metrics.aupr_out)
    columns["FPR95\nID+"] = lambda metrics: percent(metrics.fpr95_id_pos)
    columns["FPR95\nOOD+"] = lambda metrics: percent(metrics.fpr95_ood_pos)
    if any(row.metrics.id_accuracy is not None for row in rows):
        columns["ID\nacc."] = lambda metrics: percent(metrics.id_accuracy)
    return columns


def _interval(metrics: EvalMetrics) -> str:
    if metrics.auroc_ci_low is None or metrics.auroc_ci_high is None:
        return "-"
    return f"{100 * metrics.auroc_ci_low:.1f}-{100 * metrics.auroc_ci_high:.1f}"


def _caption(rows: Sequence[ResultRow]) -> Text:
    lines = []
    if rows and len(set(map(side_of, rows))) == 1:
        detector, method = rows[0].detector, rows[0].method
        shown = _marked(rows[0])
        lines.append(f"Detector: {shown}" + ("" if method == detector else f" ({method})"))
    if len({(row.id, row.metrics.n_id) for row in rows}) == 1:
        lines.append(f"ID: {rows[0].id}, {rows[0].metrics.n_id:,} images")
    if any(row.stream for row in rows):
        lines.append("* Scores depend on the other images and their order: not to be compared.")
    lines.append(
        "Percent. FPR95 ID+: OOD accepted when 95 % of ID are; "
        "OOD+: ID rejected when 95 % of OOD are."
    )
    return Text("\n".join(printable(line) for line in lines))
