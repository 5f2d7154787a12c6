"""The report's tables, ready to be set: cells with their text, sort key and marks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vlood.evaluation.metrics import EvalMetrics
from vlood.evaluation.report.standings import OOD_GROUPS, Standing, balanced_mean
from vlood.evaluation.report.verdict import Verdict, comparison
from vlood.evaluation.report.wording import p_text, percent, shown_name
from vlood.evaluation.results import ResultRow, group_means
from vlood.evaluation.significance import PairedRow, tied_with_best


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        name: its heading.
        about: what it is, in a few words.
        field: of `EvalMetrics`.
        better: 1 where more is better, -1 where less is, 0 where neither.
    """

    name: str
    about: str
    field: str
    better: int


COLUMNS = (
    Column("AUROC", "chance that an ID image scores higher than an OOD image", "auroc", 1),
    Column("FPR95 ID+", "OOD accepted when 95 % of ID are", "fpr95_id_pos", -1),
    Column("FPR95 OOD+", "ID rejected when 95 % of OOD are", "fpr95_ood_pos", -1),
    Column("AUPR in", "precision and recall, ID positive", "aupr_in", 1),
    Column("AUPR out", "precision and recall, OOD positive", "aupr_out", 1),
    Column("ID acc.", "ID images given their own class", "id_accuracy", 1),
    Column("OSCR", "ID accepted and given their own class, over OOD accepted", "oscr", 1),
    Column("TPR at thr.", "ID accepted at the deployed threshold", "tpr", 0),
    Column("FPR at thr.", "OOD accepted at the deployed threshold", "fpr", 0),
)


@dataclass(frozen=True)
class Cell:
    """A figure: its text, interval, sort key, and whether it wins."""

    text: str
    interval: str = ""
    key: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class TableRow:
    """One detector on one set, or on a group of them."""

    detector: str
    stream: str
    ood: str
    group: str
    mean: bool
    first: bool
    n: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ResultTable:
    """Rows by OOD set; columns nobody measured are left out."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    tested: bool


def result_table(rows: Sequence[ResultRow], comparisons: Sequence[PairedRow]) -> ResultTable:
    """Set out the rows by OOD set, group means after their groups, winners marked.

    The best AUROC of a set is marked, and those a paired test does not tell from it as tied; in
    other columns only the best. Detectors that depend on other images, sets with one detector to
    compare, and shifted ID images, which should not be told apart at all, get no marks.
    """
    columns = tuple(
        column
        for column in COLUMNS
        if any(getattr(row.metrics, column.field) is not None for row in rows)
    )
    sizes: dict[str, set[str]] = {}
    for row in rows:
        sizes.setdefault(row.group, set()).add(row.ood)
    means = [mean for mean in group_means(rows) if len(sizes[mean.group]) > 1]
    blocks: dict[tuple[str, bool], list[ResultRow]] = {}
    for group in (*OOD_GROUPS, "shift"):
        for row in rows:
            if row.group == group:
                blocks.setdefault((row.ood, False), []).append(row)
        for mean in means:
            if mean.group == group:
                blocks.setdefault((mean.ood, True), []).append(mean)
    listed = []
    for (ood, mean_block), block in blocks.items():
        tested = [] if mean_block else comparisons
        marks = {column.field: _marks(block, column, tested, ood) for column in columns}
        for i, row in enumerate(block):
            cells = tuple(
                _cell(row.metrics, column, marks[column.field].get(row.detector, ""))
                for column in columns
            )
            listed.append(
                TableRow(
                    detector=shown_name(row.detector),
                    stream=row.stream,
                    ood=shown_name(row.ood),
                    group="" if row.group == "-" else row.group,
                    mean=mean_block,
                    first=i == 0,
                    n=row.metrics.n_ood,
                    cells=cells,
                )
            )
    return ResultTable(columns, tuple(listed), bool(comparisons))


def _marks(
    block: Sequence[ResultRow], column: Column, comparisons: Sequence[PairedRow], ood: str
) -> dict[str, str]:
    values = {
        row.detector: column.better * value
        for row in block
        if not row.stream
        and row.group != "shift"
        and (value := getattr(row.metrics, column.field)) is not None
    }
    if len(values) < 2 or not column.better or len(set(values.values())) == 1:
        return {}
    if column.field == "auroc" and any(row.ood == ood for row in comparisons):
        best, tied = tied_with_best(comparisons, ood, values)
        return {best: "best", **dict.fromkeys(tied, "tied with best")}
    top = max(values.values())
    return {name: "best" for name, value in values.items() if value == top}


def _cell(metrics: EvalMetrics, column: Column, mark: str) -> Cell:
    value = getattr(metrics, column.field)
    low = getattr(metrics, f"{column.field}_ci_low", None)
    high = getattr(metrics, f"{column.field}_ci_high", None)
    interval = "" if low is None or high is None else f"{percent(low)}–{percent(high)}"
    return Cell(percent(value), interval, value, mark)


@dataclass(frozen=True)
class SummaryRow:
    """A detector in the table under the verdict."""

    name: str
    method: str
    stream: str
    mark: str
    cells: tuple[Cell, ...]
    versus: tuple[str, str] | None


@dataclass(frozen=True)
class Summary:
    """The table under the verdict: its headings with what they mean, and a row a detector."""

    headings: tuple[tuple[str, str], ...]
    rows: tuple[SummaryRow, ...]
    versus: bool


def summary(judged: Verdict, comparisons: Sequence[PairedRow]) -> Summary:
    """Set out where each detector stands, with the test against the best."""
    ranked = judged.standings
    groups = [g for g in ("near", "far") if any(g in each.groups for each in ranked)]
    several = any(len(each.sets) > 1 for each in ranked)
    headings = [
        ("Mean AUROC" if several else "AUROC", "every group of OOD sets counts the same"),
        *((f"{group.capitalize()} AUROC", f"mean over {group}-OOD sets") for group in groups),
        ("FPR95 ID+", "mean share of OOD accepted when 95 % of ID are"),
        ("ID accuracy", "ID images given their own class"),
        ("ID accepted", "of 100, at the detector’s threshold"),
        ("OOD accepted", "of 100, at the detector’s threshold"),
    ]
    table = [
        [
            each.mean,
            *(each.groups.get(group) for group in groups),
            each.fpr95,
            each.id_accuracy,
            each.id_accepted,
            each.ood_accepted,
        ]
        for each in ranked
    ]
    # A column nobody measured is left out.
    shown = [i for i in range(len(headings)) if any(line[i] is not None for line in table)]
    best = next((each for each in ranked if each.name == judged.best), None)
    rows = []
    for each, line in zip(ranked, table, strict=True):
        mark = ""
        if len([one for one in ranked if not one.stream]) > 1:
            mark = "best" if each.name == judged.best else ""
            mark = "tied with best" if each.name in judged.tied else mark
        cells = [Cell(percent(line[i]), "", line[i]) for i in shown]
        if each.low is not None and each.high is not None:
            cells[0] = replace(cells[0], interval=f"{percent(each.low)}–{percent(each.high)}")
        rows.append(
            SummaryRow(
                name=shown_name(each.name),
                method=shown_name(each.method) if each.method != each.name else "",
                stream=each.stream,
                mark=mark,
                cells=tuple(cells),
                versus=_versus(best, each, comparisons),
            )
        )
    versus = any(row.versus for row in rows)
    return Summary(tuple(headings[i] for i in shown), tuple(rows), versus)


def _versus(
    best: Standing | None, each: Standing, rows: Sequence[PairedRow]
) -> tuple[str, str] | None:
    found = None if best is None or best is each else comparison(rows, best, each)
    if found is None:
        return None
    row, lead, low, high = found

    def points(value: float) -> str:
        return f"{100 * value:+.1f}".replace("-", "−")

    # The row's own detector comes first here: less than the best is negative.
    return points(-lead), f"{points(-high)} to {points(-low)}, {p_text(row.p_holm)}"


@dataclass(frozen=True)
class CurvePoint:
    """A detector fitted from some shots, over its seeds: means and spreads, fractions."""

    shots: int
    seeds: int
    values: Mapping[str, tuple[float, float, float]]


CURVE_METRICS: tuple[tuple[str, str, Callable[[EvalMetrics], float | None]], ...] = (
    ("auroc", "Mean AUROC", lambda metrics: metrics.auroc),
    ("fpr95", "Mean FPR95 ID+", lambda metrics: metrics.fpr95_id_pos),
    ("accuracy", "ID accuracy", lambda metrics: metrics.id_accuracy),
)


def learning_curves(rows: Sequence[ResultRow]) -> dict[str, list[CurvePoint]]:
    """Return each detector's points by shots; every group of OOD sets counts the same.

    A value is (mean, lowest, highest) over the seeds.
    """
    fits: dict[str, dict[int, dict[int | None, list[ResultRow]]]] = {}
    for row in rows:
        if row.shots is not None and row.group in OOD_GROUPS:
            by_shots = fits.setdefault(row.detector, {})
            by_shots.setdefault(row.shots, {}).setdefault(row.seed, []).append(row)
    return {
        detector: [
            CurvePoint(shots, len(by_seed), _spread(list(by_seed.values())))
            for shots, by_seed in sorted(by_shots.items())
        ]
        for detector, by_shots in fits.items()
    }


def _spread(fits: Sequence[Sequence[ResultRow]]) -> dict[str, tuple[float, float, float]]:
    spreads = {}
    for key, _, read in CURVE_METRICS:
        means = []
        for rows in fits:
            known = {
                row.ood: (row.group, value)
                for row in rows
                if (value := read(row.metrics)) is not None
            }
            if known:
                means.append(balanced_mean(known)[0])
        if means:
            spreads[key] = (sum(means) / len(means), min(means), max(means))
    return spreads
