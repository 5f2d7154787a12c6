"""The report's figures: score histograms, ROC curves, and lines over shots or severity.

They hold no names, only numbers and the report's own words: the page writes names beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.evaluation.metrics import RocCurve
from vlood.evaluation.report.svg import (
    ID_FILL,
    MARK,
    MUTED,
    RULE,
    SERIES,
    series_colour,
    svg_of,
)

DASHES = ("", "6 2.5", "1.5 2", "6 2 1.5 2", "3 1.5")
"""Dashes of the series, so that colour is never the only difference."""

MARKERS = "osD^v"
MARKER_PATHS = (
    "M5 1.5a3.5 3.5 0 1 0 .01 0z",
    "M1.8 1.8h6.4v6.4h-6.4z",
    "M5 .6L9.4 5 5 9.4 .6 5z",
    "M5 1.2L9 8.4H1z",
    "M5 8.8L9 1.6H1z",
)
"""Shapes of the dots of `interval_figure`, and the same in a legend, 10 wide and high."""

ROC_POINTS = 200
"""Points of a drawn ROC curve, at most."""

_FONT = 9.5


@dataclass(frozen=True)
class Axis:
    """The score axis the histograms of one detector share.

    Attributes:
        edges: of the bins [B + 1].
        low: left end.
        high: right end.
        top: height of the highest bin of any set, percent.
    """

    edges: NDArray[np.float64]
    low: float
    high: float
    top: float


@dataclass(frozen=True)
class ScorePanel:
    """A histogram and how its threshold line moves.

    Attributes:
        svg: the figure.
        left: place of `low` on it.
        width: from `low` to `high`.
    """

    svg: str
    left: float
    width: float


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        x: [P].
        y: [P], percent.
        low: lower edge of its band [P], or None.
        high: upper edge.
        series: its colour and dash.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None
    high: Sequence[float] | None
    series: int


def score_axis(sets: Sequence[NDArray[np.float64]], threshold: float) -> Axis:
    """Return one axis for all sets of scores [N], with bins as fine as the smallest one bears."""
    filled = [scores for scores in sets if scores.size]
    low = min(float(scores.min()) for scores in filled)
    high = max(float(scores.max()) for scores in filled)
    if high - low < 1e-9 * max(1.0, abs(low)):
        low, high = low - 0.5 * max(1.0, abs(low)), high + 0.5 * max(1.0, abs(high))
    bins = int(np.clip(2 * np.sqrt(min(scores.size for scores in filled)), 12, 48))
    edges = np.linspace(low, high, bins + 1)
    top = max(float(_percent_a_bin(scores, edges).max()) for scores in filled)
    # A threshold outside all scores is news too.
    if np.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    room = 0.015 * (high - low)
    return Axis(edges, low - room, high + room, top)


def score_panel(
    id_scores: NDArray[np.float64],
    scores: NDArray[np.float64],
    axis: Axis,
    threshold: float,
    series: int,
    prefix: str,
    label: str,
) -> ScorePanel:
    """Draw the scores [M] of one set (a line) over those of the ID set [N] (filled).

    Heights are shares of each set's own images, so sets of different size compare.
    """
    figure, axes = _figure(290, 128, left=24, right=8, top=6, bottom=30)
    axes.stairs(_percent_a_bin(id_scores, axis.edges), axis.edges, fill=True, color=ID_FILL)
    axes.stairs(
        _percent_a_bin(scores, axis.edges),
        axis.edges,
        color=series_colour(series),
        linewidth=1.4,
    )
    if np.isfinite(threshold):
        axes.axvline(threshold, color=MARK, linewidth=1.1).set_gid("mark-threshold")
    axes.set_xlim(axis.low, axis.high)
    axes.set_ylim(0, 1.06 * axis.top)
    _ticks(axes, x=5, y=3)
    axes.set_xlabel("score", color=MUTED, fontsize=_FONT, labelpad=2)
    place = axes.get_position()
    return ScorePanel(
        svg_of(figure, prefix, label), 290 * float(place.x0), 290 * float(place.width)
    )


def roc_figure(curves: Sequence[RocCurve], prefix: str, label: str) -> str:
    """Draw ROC curves, ID positive, in the order of their series."""
    figure, axes = _figure(360, 360, left=44, right=12, top=10, bottom=40)
    axes.plot([0, 100], [0, 100], color=RULE, linewidth=0.9)
    axes.axhline(95, color=RULE, linewidth=0.9)
    axes.text(100, 94, "95 %", color=MUTED, fontsize=_FONT, ha="right", va="top")
    for i, curve in enumerate(curves):
        x, y = thinned(curve)
        axes.plot(100 * x, 100 * y, **_stroke(i))
    axes.set(xlim=(0, 100), ylim=(0, 101))
    _ticks(axes, x=5, y=5)
    axes.set_xlabel("OOD images accepted, %", color=MUTED, fontsize=_FONT + 1)
    axes.set_ylabel("ID images accepted, %", color=MUTED, fontsize=_FONT + 1)
    return svg_of(figure, prefix, label)


def thinned(curve: RocCurve, most: int = ROC_POINTS) -> tuple[NDArray[np.float64], ...]:
    """Return a curve's FPR and TPR from (0, 0) on, at most `most` points.

    Points are spaced evenly along fpr + tpr, so no gap is longer than about 2 / `most` either way
    but where the curve itself jumps, and steep and level stretches keep their shape.
    """
    x, y = np.append(0.0, curve.fpr), np.append(0.0, curve.tpr)
    # Points in the middle of a straight run say nothing.
    bends = (np.diff(x)[1:] * np.diff(y)[:-1] != np.diff(x)[:-1] * np.diff(y)[1:]).nonzero()[0] + 1
    kept = np.concatenate([[0], bends, [x.size - 1]])
    x, y = x[kept], y[kept]
    if x.size > most:
        along = x + y
        chosen = np.unique(np.searchsorted(along, np.linspace(0.0, along[-1], most)))
        x, y = x[chosen], y[chosen]
    return x, y


def line_figure(
    lines: Sequence[Line], x_name: str, prefix: str, label: str, *, doubling: bool = False
) -> str:
    """Draw lines in percent over a few steps; bands are spreads.

    Args:
        lines: in any order.
        x_name: what the steps are.
        prefix: of ids.
        label: text alternative.
        doubling: whether steps that double are equally far apart.
    """
    figure, axes = _figure(300, 190, left=34, right=10, top=8, bottom=34)
    for line in lines:
        if line.low is not None and line.high is not None:
            axes.fill_between(
                line.x, line.low, line.high, color=series_colour(line.series), alpha=0.16, lw=0
            )
    for line in lines:
        axes.plot(line.x, line.y, marker="o", markersize=3, **_stroke(line.series))
    steps = sorted({x for line in lines for x in line.x})
    if doubling and steps[0] > 0:
        axes.set_xscale("log", base=2)
    _ticks(axes, x=6, y=5)
    axes.set_xticks(steps, labels=[f"{step:g}" for step in steps])
    axes.minorticks_off()
    axes.set_xlabel(x_name, color=MUTED, fontsize=_FONT, labelpad=2)
    return svg_of(figure, prefix, label)


def interval_figure(
    sets: Sequence[Sequence[tuple[float, float | None, float | None, int]]],
    prefix: str,
    label: str,
    row_height: float,
) -> tuple[str, str]:
    """Draw a dot and its interval for every detector, one band of rows a set, and their axis.

    Args:
        sets: by set, of each detector its value and interval, percent, and its series.
        prefix: of ids.
        label: text alternative.
        row_height: of one band, points.
    """
    height = row_height * len(sets)
    figure, axes = _figure(420, height, left=6, right=10, top=0, bottom=0)
    for place, dots in enumerate(sets):
        for i, (value, low, high, series) in enumerate(dots):
            y = place + (i + 1) / (len(dots) + 1)
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=series_colour(series), linewidth=1.3)
            marker = MARKERS[series % len(MARKERS)]
            axes.plot([value], [y], marker, color=series_colour(series), markersize=3.6)
    for place in range(len(sets) + 1):
        axes.axhline(place, color=RULE, linewidth=0.6)
    axes.set_ylim(len(sets), 0)
    _ticks(axes, x=8, y=1)
    axes.spines[:].set_visible(False)
    axes.tick_params(labelbottom=False, labelleft=False)
    axes.grid(True, axis="x", color=RULE, linewidth=0.6)
    axes.grid(False, axis="y")
    # The axis is a figure of its own, so that names beside the rows line up with them.
    strip, scale = _figure(420, 16, left=6, right=10, top=0, bottom=15)
    scale.set_xlim(axes.get_xlim())
    _ticks(scale, x=8, y=1)
    scale.tick_params(labelleft=False)
    scale.spines["left"].set_visible(False)
    scale.grid(False)
    return svg_of(figure, prefix, label), svg_of(strip, f"{prefix}-axis", "")


def swatch(series: int) -> Mapping[str, str]:
    """Return the class, dash and marker of a series, for a legend."""
    return {
        "class": f"s-c{series % SERIES}",
        "dash": DASHES[series % len(DASHES)],
        "filled": f"f-c{series % SERIES}",
        "marker": MARKER_PATHS[series % len(MARKER_PATHS)],
    }


def _percent_a_bin(scores: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = 100 * np.histogram(scores, edges)[0] / max(1, scores.size)
    return shares


def _stroke(series: int) -> dict[str, Any]:
    dash = DASHES[series % len(DASHES)]
    pattern = tuple(float(length) for length in dash.split())
    return {
        "color": series_colour(series),
        # In multiples of the line width, as matplotlib wants them.
        "linestyle": (0, tuple(length / 1.5 for length in pattern)) if pattern else "solid",
        "linewidth": 1.5,
    }


def _figure(
    width: float, height: float, *, left: float, right: float, top: float, bottom: float
) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    axes = figure.add_axes(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - top - bottom) / height,
        )
    )
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(MUTED)
        spine.set_linewidth(0.7)
    return figure, axes


def _ticks(axes: Any, *, x: int, y: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(x))
    axes.yaxis.set_major_locator(MaxNLocator(y))
    axes.tick_params(length=0, pad=3, labelsize=_FONT, labelcolor=MUTED)
    if axes.get_xscale() == "linear":
        axes.ticklabel_format(useOffset=False)
    axes.grid(True, axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
