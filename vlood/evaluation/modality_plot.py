"""Draw where images and texts lie, a panel a model, and their figures as bars below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.evaluation.modality import ModalityFigures, gap_plane
from vlood.evaluation.plots import _figure, _plain, _save
from vlood.evaluation.report_files import shortened

# Okabe and Ito's blue and vermilion.
_IMAGES, _TEXTS = "#0072B2", "#D55E00"
_MOST_DOTS = 2000
_MOST_LINES = 50
_BARS = (("modality_gap", "modality gap"), ("alignment", "alignment"), ("uniformity", "uniformity"))


@dataclass(frozen=True, eq=False)
class Shown:
    """One panel: a name, embeddings of images [N, D] with labels [N], of texts [K, D], figures."""

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    texts: NDArray[np.float32]
    figures: ModalityFigures


def save_modality_picture(path: Path, shown: Sequence[Shown]) -> None:
    """Draw a panel an entry, all to one scale, and bars of the three figures.

    Thin lines join a class's text with the centre of its images. At most 2,000 images are drawn,
    evenly picked.

    Args:
        path: the PNG to write, whole or not at all.
        shown: what to draw, at least one.

    Raises:
        VloodError: the file cannot be written.
    """
    figure = _figure("Images and texts", width=max(6.0, 3.9 * len(shown)), height=7.4)
    # Bars in a grid of their own: there are always three, and any number of panels.
    upper = figure.add_gridspec(1, len(shown), left=0.12, right=0.97, bottom=0.45, top=0.87)
    lower = figure.add_gridspec(1, 3, left=0.09, right=0.97, bottom=0.13, top=0.33, wspace=0.35)
    planes = [gap_plane(one.images, one.texts) for one in shown]
    far = 1.05 * max(float(np.abs(np.concatenate(plane)).max()) for plane in planes)
    for column, (one, (images, texts)) in enumerate(zip(shown, planes, strict=True)):
        axes = figure.add_subplot(upper[0, column])
        _plain(axes)
        _panel(axes, one, images, texts)
        axes.set(xlim=(-far, far), ylim=(-far, far), aspect="equal")
        axes.set_title(shortened(one.name, 30), fontsize=9, parse_math=False)
        if column == 0:
            axes.set_ylabel("largest spread beside it", labelpad=1)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="upper center",
        bbox_to_anchor=(0.5, 0.955),
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    figure.text(0.53, 0.385, "along the modality gap", ha="center", fontsize=10)
    for column, (field, title) in enumerate(_BARS):
        _bars(figure.add_subplot(lower[0, column]), shown, field, title)
    _save(figure, path)


def _panel(axes: Any, one: Shown, images: NDArray[np.float64], texts: NDArray[np.float64]) -> None:
    picked = np.unique(np.linspace(0, len(images) - 1, min(len(images), _MOST_DOTS)).astype(int))
    if len(texts) <= _MOST_LINES:
        for label in np.unique(one.labels[one.labels >= 0]).tolist():
            ends = np.stack([images[one.labels == label].mean(axis=0), texts[label]])
            axes.plot(ends[:, 0], ends[:, 1], color="#999999", linewidth=0.7, zorder=2)
    axes.scatter(
        images[picked, 0], images[picked, 1], s=7, color=_IMAGES, alpha=0.35, linewidths=0,
        zorder=1, label="images",
    )  # fmt: skip
    axes.scatter(
        texts[:, 0], texts[:, 1], s=26, color=_TEXTS, marker="^", zorder=3, label="class texts"
    )


def _bars(axes: Any, shown: Sequence[Shown], field: str, title: str) -> None:
    values = [getattr(one.figures, field) for one in shown]
    _plain(axes)
    heights = [0.0 if value is None else value for value in values]
    places = range(len(shown))
    drawn = axes.bar(places, heights, color=_IMAGES, width=0.6)
    axes.bar_label(
        drawn,
        ["no labels" if value is None else f"{value:.3f}" for value in values],
        fontsize=8,
        padding=2,
    )
    axes.axhline(0, color="#555555", linewidth=0.8)
    axes.margins(y=0.25)
    axes.set_title(title, fontsize=9)
    axes.set_xticks(places, ["" for _ in shown])
    for place, one in zip(places, shown, strict=True):
        axes.text(
            place, -0.06, shortened(one.name, 16), transform=axes.get_xaxis_transform(), fontsize=8,
            ha="right", va="top", rotation=20, parse_math=False,
        )  # fmt: skip
