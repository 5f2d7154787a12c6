"""What the page shows of each detector, and the data its threshold slider reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlood.evaluation.metrics import auroc, fpr_at_tpr, roc_curve
from vlood.evaluation.report.charts import (
    ScorePanel,
    roc_figure,
    score_axis,
    score_panel,
    swatch,
)
from vlood.evaluation.report.classes import attracted_counts, class_lines
from vlood.evaluation.report.inputs import ReportDetector, ReportInputs, ReportSet
from vlood.evaluation.report.mistakes import (
    Mistakes,
    Where,
    accepted_ood,
    nearest_words,
    predicted_of,
    rejected_id,
    scores_of,
    wrong_class,
)
from vlood.evaluation.report.standings import (
    balanced_mean,
    id_set,
    ood_sets,
    threshold_sets,
)
from vlood.evaluation.report.thresholds import ThresholdGrid, nearest_to, threshold_grid
from vlood.evaluation.report.thumbnails import Thumbnails
from vlood.evaluation.report.wording import (
    LONGEST_PATH,
    count_text,
    percent,
    score_text,
    shown_name,
)

GALLERY = 24
FLIPS_EACH_SIDE = 40
CLASSES_SHOWN = 50
CLASSES_LISTED = 1000

_GALLERIES = (
    ("accepted", "OOD images accepted", "highest scores first"),
    ("rejected", "ID images rejected", "lowest scores first"),
    ("wrong", "Accepted ID images given a wrong class", "highest scores first"),
)


def detector_views(
    inputs: ReportInputs, thumbnails: Thumbnails
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what the template shows of each detector, and what the script reads."""
    by_name = {each.name: each for each in inputs.sets}
    galleries = [_mistakes(each, inputs.sets) for each in inputs.detectors]
    flips = [
        nearest_to(
            {one.name: scores_of(each, one) for one in threshold_sets(inputs.sets)},
            each.threshold,
            FLIPS_EACH_SIDE,
        )
        for each in inputs.detectors
    ]
    # Pictures are taken in turn, the most telling of every list first, so that a spent budget
    # leaves no detector without any.
    lists = [found.images for kinds in galleries for found in kinds.values()] + flips
    for rank in range(max((len(images) for images in lists), default=0)):
        for images in lists:
            if rank < len(images):
                thumbnails.add(*images[rank])
    views, data = [], []
    for i, detector in enumerate(inputs.detectors):

        def card(where: Where, detector: ReportDetector = detector) -> dict[str, Any]:
            return _card(inputs, by_name[where[0]], detector, where, thumbnails)

        grid = _grid(detector, inputs.sets)
        axis, panels = _panels(detector, inputs.sets, f"d{i}")
        rows = _threshold_rows(grid, inputs.sets)
        views.append(
            {
                "id": f"d{i}",
                "name": shown_name(detector.name),
                "method": shown_name(detector.method),
                "stream": detector.stream,
                "threshold": score_text(detector.threshold),
                "threshold_note": shown_name(detector.threshold_note.rstrip("."), 200),
                "panels": panels,
                "roc": _roc(detector, inputs.sets, f"d{i}"),
                "grid": {"start": grid.start, "last": len(grid.thresholds) - 1, "rows": rows},
                "value_text": value_text(grid, inputs.sets),
                "galleries": [
                    {
                        "key": key,
                        "title": title,
                        "order": order,
                        "total": galleries[i][key].total,
                        "cards": [card(where) for where in galleries[i][key].images],
                    }
                    for key, title, order in _GALLERIES
                ],
                "classes": _classes(detector, inputs.sets),
            }
        )
        data.append(
            {
                "thresholds": grid.thresholds.tolist(),
                "labels": [score_text(value) for value in grid.thresholds.tolist()],
                "start": grid.start,
                "axis": axis,
                "sets": [
                    {
                        "group": each.group if each in ood_sets(inputs.sets) else "",
                        "total": grid.totals[each.name],
                        "accepted": grid.accepted[each.name].tolist(),
                    }
                    for each in threshold_sets(inputs.sets)
                    if each.name in grid.totals
                ],
                "flips": [card(where) for where in flips[i]],
            }
        )
    return views, data


def _mistakes(detector: ReportDetector, sets: Sequence[ReportSet]) -> dict[str, Mistakes]:
    return {
        "accepted": accepted_ood(detector, sets, GALLERY),
        "rejected": rejected_id(detector, sets, GALLERY),
        "wrong": wrong_class(detector, sets, GALLERY),
    }


def _card(
    inputs: ReportInputs,
    each: ReportSet,
    detector: ReportDetector,
    where: Where,
    thumbnails: Thumbnails,
) -> dict[str, Any]:
    row = where[1]
    predicted = predicted_of(detector, each)
    score = float(scores_of(detector, each)[row])
    guess = detector.class_names[int(predicted[row])] if predicted.size else ""
    label = each.labels[row]
    return {
        "thumb": thumbnails.add(*where),
        "path": shown_name(each.paths[row], LONGEST_PATH),
        "set": shown_name(each.name),
        "ood": each.group in ("near", "far", "-"),
        "label": "" if label is None else shown_name(label),
        "predicted": shown_name(guess),
        "score": score,
        "score_text": score_text(score),
        "nearest": [
            f"{shown_name(name, 40)} {similarity:.2f}"
            for name, similarity in nearest_words(inputs.nearest, where)[:3]
        ],
    }


def _grid(detector: ReportDetector, sets: Sequence[ReportSet]) -> ThresholdGrid:
    inside = id_set(sets)
    others = {
        each.name: scores
        for each in threshold_sets(sets)
        if each is not inside and (scores := scores_of(detector, each)).size
    }
    return threshold_grid(
        scores_of(detector, inside), others, detector.threshold, id_name=inside.name
    )


def _threshold_rows(grid: ThresholdGrid, sets: Sequence[ReportSet]) -> list[dict[str, Any]]:
    rows = []
    for each in threshold_sets(sets):
        if each.name in grid.totals:
            count, total = int(grid.accepted[each.name][grid.start]), grid.totals[each.name]
            rows.append(
                {
                    "name": shown_name(each.name),
                    "group": {"id": "ID", "-": "OOD", "shift": "shifted ID"}.get(
                        each.group, f"{each.group} OOD"
                    ),
                    "id": each.group == "id",
                    "total": total,
                    "accepted": count,
                    "share": percent(count / total if total else 0.0),
                }
            )
    return rows


def value_text(grid: ThresholdGrid, sets: Sequence[ReportSet]) -> str:
    """Say what the start threshold accepts; the script says the same of others."""
    inside = id_set(sets).name
    shares = {
        each.name: (each.group, _share(grid, each.name))
        for each in ood_sets(sets)
        if each.name in grid.totals
    }
    text = f"{score_text(float(grid.thresholds[grid.start]))}: accepts "
    text += f"{percent(_share(grid, inside))} % of ID"
    return text + (f" and {percent(balanced_mean(shares)[0])} % of OOD" if shares else "")


def _share(grid: ThresholdGrid, name: str) -> float:
    return int(grid.accepted[name][grid.start]) / max(1, grid.totals[name])


def _panels(
    detector: ReportDetector, sets: Sequence[ReportSet], prefix: str
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Draw a histogram an OOD set; also return where scores lie on all of them."""
    inside = scores_of(detector, id_set(sets))
    outside = [each for each in ood_sets(sets) if scores_of(detector, each).size]
    if not inside.size or not outside:
        return {}, []
    axis = score_axis(
        [inside, *(scores_of(detector, each) for each in outside)], detector.threshold
    )
    panels = []
    drawn: ScorePanel | None = None
    for i, each in enumerate(outside):
        scores = scores_of(detector, each)
        area = percent(auroc(inside, scores))
        label = (
            f"Histogram of scores: {shown_name(id_set(sets).name)} (ID, median "
            f"{score_text(float(_median(inside)))}) and {shown_name(each.name)} (OOD, median "
            f"{score_text(float(_median(scores)))}); AUROC {area} %."
        )
        drawn = score_panel(inside, scores, axis, detector.threshold, i, f"{prefix}-h{i}", label)
        panels.append(
            {
                "name": shown_name(each.name),
                "about": f"{'' if each.group == '-' else each.group + ', '}"
                f"{count_text(len(each), 'image')}",
                "auroc": area,
                "svg": drawn.svg,
            }
        )
    assert drawn is not None
    scale = drawn.width / (axis.high - axis.low)
    return {"low": axis.low, "high": axis.high, "scale": scale}, panels


def _median(scores: Any) -> float:
    import numpy as np

    return float(np.median(scores))


def _roc(detector: ReportDetector, sets: Sequence[ReportSet], prefix: str) -> dict[str, Any] | None:
    inside = scores_of(detector, id_set(sets))
    outside = [each for each in ood_sets(sets) if scores_of(detector, each).size]
    if not inside.size or not outside:
        return None
    curves = [roc_curve(inside, scores_of(detector, each)) for each in outside]
    entries = [
        {
            "name": shown_name(each.name),
            "auroc": percent(auroc(inside, scores_of(detector, each))),
            "fpr95": percent(fpr_at_tpr(inside, scores_of(detector, each))),
            **swatch(i),
        }
        for i, each in enumerate(outside)
    ]
    label = "ROC curves, ID positive. " + " ".join(
        f"{entry['name']}: AUROC {entry['auroc']} %, FPR95 {entry['fpr95']} %." for entry in entries
    )
    return {"svg": roc_figure(curves, f"{prefix}-roc", label), "entries": entries}


def _classes(detector: ReportDetector, sets: Sequence[ReportSet]) -> dict[str, Any] | None:
    lines = class_lines(detector, sets)
    attracted = int(attracted_counts(detector, sets).sum())
    if not attracted and not any(line.n for line in lines):
        return None
    rows = [
        {
            "name": shown_name(line.name),
            "n": line.n,
            "accuracy": percent(line.accuracy),
            "accuracy_key": line.accuracy,
            "accepted": percent(line.accepted),
            "accepted_key": line.accepted,
            "confused": shown_name(line.confused),
            "confused_count": line.confused_count,
            "attracted": line.attracted,
            "attracted_share": percent(line.attracted / attracted if attracted else None),
        }
        for line in lines[:CLASSES_LISTED]
    ]
    return {
        "shown": rows[:CLASSES_SHOWN],
        "rest": rows[CLASSES_SHOWN:],
        "left_out": max(0, len(lines) - CLASSES_LISTED),
        "total": len(lines),
        "attracted": attracted,
    }
