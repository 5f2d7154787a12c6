"""Draw ROC curves and score histograms as PNG files.

Figures are made as objects, without pyplot, so nothing global changes and threads may draw at once.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlood.errors import UsageError
from vlood.evaluation.metrics import auroc, checked_scores, fpr_at_tpr, roc_curve
from vlood.evaluation.report_files import shortened, write_file

# Okabe and Ito's palette, apart for every common colour vision; yellow is too faint for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_ID_COLOUR = "#9A9A9A"
_LONGEST_NAME = 34
_DOTS_AN_INCH = 150
# Inches: around the panels, below them for the axis and its name, above each for its heading.
_LEFT, _RIGHT, _TOP, _AXIS, _HEADING = 0.75, 0.75, 0.75, 0.75, 0.42


def save_roc(
    path: Path,
    id_scores: ArrayLike,
    ood_scores: Mapping[str, ArrayLike],
    *,
    title: str = "ROC",
) -> None:
    """Draw one ROC curve an OOD set, ID positive, with its AUROC and its FPR95 marked.

    Args:
        path: the PNG to write, whole or not at all.
        id_scores: [N], higher = more ID.
        ood_scores: scores [M] of each OOD set by its name; each set keeps its line style in
            `save_score_histogram`.
        title: heading, e.g. the detector's name.

    Raises:
        UsageError: a side is empty or not finite.
        VloodError: the file cannot be written.
    """
    figure = _figure(title, width=6.0, height=5.2)
    axes = figure.add_subplot()
    _plain(axes)
    axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=1, zorder=1)
    axes.axhline(0.95, color="#BBBBBB", linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    axes.text(1.01, 0.95, "TPR 95 %", fontsize=8, color="#777777", va="center")
    handles, names = [], []
    for i, (name, scores) in enumerate(ood_scores.items()):
        curve = roc_curve(id_scores, scores)
        (line,) = axes.plot(
            np.append(0.0, curve.fpr), np.append(0.0, curve.tpr), zorder=3, **_style(i)
        )
        fpr95 = fpr_at_tpr(id_scores, scores)
        axes.plot(fpr95, 0.95, "o", markersize=4, color=line.get_color(), zorder=4, clip_on=False)
        handles.append(line)
        names.append(
            f"{shortened(name, _LONGEST_NAME)}: AUROC {100 * auroc(id_scores, scores):.1f} %, "
            f"FPR95 {100 * fpr95:.1f} %"
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("FPR: share of OOD accepted (ID positive)")
    axes.set_ylabel("TPR: share of ID accepted")
    _legend_below(figure, handles, names)
    _save(figure, path)


def save_score_histogram(
    path: Path,
    id_scores: ArrayLike,
    ood_scores: Mapping[str, ArrayLike],
    *,
    threshold: float | None = None,
    title: str = "Scores",
) -> None:
    """Draw the scores of the ID set (filled) and of each OOD set (lines) in shared bins.

    One panel an OOD set, its ID behind it, all on the same axes. Heights are shares of each set's
    own images, so sets of different size compare.

    Args:
        path: the PNG to write, whole or not at all.
        id_scores: [N], higher = more ID.
        ood_scores: scores [M] of each OOD set by its name; at least one set.
        threshold: the detector's; images at or above it are called ID.
        title: heading, e.g. the detector's name.

    Raises:
        UsageError: there is no OOD set, or a side is empty or not finite.
        VloodError: the file cannot be written.
    """
    inlier = checked_scores(id_scores, "ID")
    outliers = {name: checked_scores(scores, "OOD") for name, scores in ood_scores.items()}
    if not outliers:
        raise UsageError("There is no OOD set to draw beside the ID scores; name at least one.")
    edges = _shared_edges([inlier, *outliers.values()])
    figure = _figure(title, width=7.0, height=1.2 + max(2.4, 1.7 * len(outliers)))
    panels = figure.subplots(len(outliers), sharex=True, sharey=True, squeeze=False)[:, 0]
    for i, (axes, (name, scores)) in enumerate(zip(panels, outliers.items(), strict=True)):
        _plain(axes)
        filled = axes.stairs(
            _percent_a_bin(inlier, edges), edges, fill=True, color=_ID_COLOUR, alpha=0.55, zorder=2
        )
        axes.stairs(_percent_a_bin(scores, edges), edges, zorder=3, **_style(i))
        axes.set_title(
            f"OOD: {shortened(name, _LONGEST_NAME)} ({_images(scores.size)})",
            fontsize=9,
            loc="left",
            color=_style(i)["color"],
            parse_math=False,
        )
    handles, names = [filled], [f"ID ({_images(inlier.size)})"]
    low, high = edges[0], edges[-1]
    if threshold is not None:
        handles += [axes.axvline(threshold, color="#000000", linewidth=1.0) for axes in panels][:1]
        names.append(f"threshold {threshold:.4g} (lower scores are called OOD)")
        # A threshold outside all scores is news too.
        low, high = min(low, threshold), max(high, threshold)
    panels[0].set_xlim(low - 0.01 * (high - low), high + 0.01 * (high - low))
    panels[0].set_ylim(bottom=0)
    panels[-1].set_xlabel("score (higher = more in-distribution)")
    panels[-1].ticklabel_format(axis="x", useOffset=False)
    figure.supylabel("share of the set's images, %", fontsize=10, x=0.02)
    _legend_below(figure, handles, names)
    _save(figure, path)


def _shared_edges(sets: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return bin edges over all sets, as fine as the smallest one bears."""
    low = min(float(scores.min()) for scores in sets)
    high = max(float(scores.max()) for scores in sets)
    middle = (low + high) / 2
    if high - low < 1e-9 * max(1.0, abs(middle)):
        low, high = middle - 0.5 * max(1.0, abs(middle)), middle + 0.5 * max(1.0, abs(middle))
    # Few images in many bins are a comb; many in few bins hide the shape.
    bins = int(np.clip(2 * np.sqrt(min(scores.size for scores in sets)), 12, 50))
    return np.linspace(low, high, bins + 1)


def _percent_a_bin(scores: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = 100 * np.histogram(scores, edges)[0] / scores.size
    return shares


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n:,} images"


def _figure(title: str, *, width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Margins by hand: matplotlib's own layout engines draw a figure of many panels several times.
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.suptitle(shortened(title, 70), fontsize=12, parse_math=False)
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)


def _style(i: int) -> dict[str, Any]:
    """Give the i-th set a colour, and a new dash each time: colour is never the only difference."""
    return {
        "color": _COLOURS[i % len(_COLOURS)],
        "linestyle": _DASHES[i % len(_DASHES)],
        "linewidth": 1.6,
    }


def _legend_below(figure: Any, handles: list[Any], names: list[str]) -> None:
    """Name the sets under the axes, where no curve is hidden whatever their number."""
    # The text is set afterwards: a name starting with "_" would be left out, "$" read as a formula.
    legend = figure.legend(
        handles,
        ["-"] * len(handles),
        loc="lower left",
        borderaxespad=0.2,
        frameon=False,
        fontsize=9,
        handlelength=3.2,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    # Every line of the legend gets its own room, so that the axes keep theirs.
    rows = len(handles)
    height, width = figure.get_figheight() + 0.2 * rows, figure.get_figwidth()
    figure.set_figheight(height)
    figure.suptitle(figure.get_suptitle(), fontsize=12, parse_math=False, y=1 - 0.12 / height)
    panels = len(figure.axes)
    figure.subplots_adjust(
        left=_LEFT / width,
        right=1 - _RIGHT / width,
        top=1 - _TOP / height,
        bottom=(_AXIS + 0.2 * rows) / height,
        # Room for a panel's heading, as a share of its own height.
        hspace=0.0 if panels < 2 else _HEADING * panels / (height - _TOP - _AXIS - 0.2 * rows),
    )


def _save(figure: Any, path: Path) -> None:
    png = io.BytesIO()
    # No software name inside: the same scores give the same bytes.
    figure.savefig(png, format="png", dpi=_DOTS_AN_INCH, metadata={"Software": None})
    write_file(path, png.getvalue())
