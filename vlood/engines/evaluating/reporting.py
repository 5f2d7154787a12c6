"""Write everything an evaluation found into a report's folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlood.detector.calibration import significant
from vlood.engines.evaluating.comparing import (
    Contestant,
    Evaluation,
    compared,
    reading_threshold,
)
from vlood.engines.evaluating.score_files import file_part
from vlood.engines.evaluating.sets import EvalSet, SetImages
from vlood.engines.printable import path_cell
from vlood.errors import ImageError
from vlood.evaluation.report.inputs import NearestWords, ReportDetector, ReportInputs, ReportSet
from vlood.evaluation.report_files import write_file
from vlood.evaluation.result_files import write_results
from vlood.evaluation.results import ResultRow
from vlood.evaluation.severity import SeverityRow
from vlood.evaluation.significance import PairedRow
from vlood.images.decode import DecodeSettings, decode
from vlood.images.item import ImageItem

_SIDE = 224


@dataclass(frozen=True)
class Measured:
    """The figures of an evaluation.

    Attributes:
        rows: one a detector and set.
        comparisons: detectors tested against each other.
        severity: the severity curves.
    """

    rows: Sequence[ResultRow]
    comparisons: Sequence[PairedRow] = ()
    severity: Sequence[SeverityRow] = ()


def write_figures(folder: Path, found: Evaluation, measured: Measured) -> None:
    """Write tables, tests, severity curves and pictures.

    A picture shows a detector with all OOD sets; a test-time one has a picture for each, since its
    scores of the ID images differ from one to the next.

    Raises:
        VloodError: the folder cannot be written.
    """
    write_results(folder, measured.rows)
    if measured.comparisons:
        _write_records(folder, "comparisons", [row.record() for row in measured.comparisons])
    if measured.severity:
        _write_records(folder, "severity", [row.record() for row in measured.severity])
    _write_pictures(folder, found)


def report_inputs(
    found: Evaluation,
    measured: Measured,
    sets: Sequence[EvalSet],
    *,
    title: str,
    provenance: Mapping[str, Mapping[str, str]],
    notes: Sequence[str],
) -> ReportInputs:
    """Gather what the page shows.

    Args:
        found: the evaluation.
        measured: its figures.
        sets: where the images are, for the pictures of a gallery.
        title: of the page.
        provenance: sections of facts.
        notes: what a reader must know.
    """
    every = [found.known, *found.others.values()]
    shown = compared(found.contestants)
    return ReportInputs(
        title=title,
        sets=[_report_set(found, one) for one in every],
        detectors=[_report_detector(found, one) for one in shown],
        rows=measured.rows,
        comparisons=measured.comparisons,
        severity=measured.severity,
        nearest=_nearest(every),
        picture=_opener(sets, every),
        provenance=provenance,
        notes=notes,
    )


def _report_set(found: Evaluation, one: SetImages) -> ReportSet:
    """Return a set with its labels as the classes are called; other labels stay as they are."""
    shift = ("", 0) if one.shift is None else (one.shift.name, one.shift.severity)
    names = found.class_names
    labels = [
        label if number < 0 else names[number]
        for label, number in zip(one.labels, one.true(found.class_index).tolist(), strict=True)
    ]
    group = "id" if one is found.known else one.group
    return ReportSet(one.name, group, one.paths, labels, *shift)


def _report_detector(found: Evaluation, one: Contestant) -> ReportDetector:
    threshold, note = reading_threshold(found, one)
    judged = {name: found.judged[one.name, name] for name in found.others}
    judged[found.known.name] = found.id_side(one, next(iter(found.others)))
    scores = {name: each.scores for name, each in judged.items()}
    if one.threshold is not None:
        scores = {name: significant(each.scores) for name, each in judged.items()}
    if one.per_class:
        # Shown relative to each class's own threshold, so that one line decides for all.
        scores = {name: one.relative(each) for name, each in judged.items()}
        threshold = 0.0
        note += "; scores are shown relative to each class's own threshold"
    return ReportDetector(
        name=one.shown,
        method=one.method,
        class_names=found.class_names,
        threshold=threshold,
        threshold_note=note,
        scores=scores,
        predicted={name: each.predicted for name, each in judged.items()},
        stream=one.stream,
    )


def _nearest(sets: Sequence[SetImages]) -> NearestWords | None:
    held = [one for one in sets if one.nearest is not None]
    if not held:
        return None
    words = {word: None for one in held for each in one.nearest or () for word, _ in each}
    number = {word: row for row, word in enumerate(words)}
    index, similarity = {}, {}
    for one in held:
        near = one.nearest or ()
        width = max((len(each) for each in near), default=0)
        rows = np.full((len(near), width), -1, np.int64)
        cosines = np.zeros((len(near), width), np.float32)
        for row, each in enumerate(near):
            for place, (word, cosine) in enumerate(each):
                rows[row, place], cosines[row, place] = number[word], cosine
        index[one.name], similarity[one.name] = rows, cosines
    return NearestWords(tuple(words), index, similarity)


def _opener(
    sets: Sequence[EvalSet], images: Sequence[SetImages]
) -> Callable[[str, int], Image.Image | None]:
    """Return what opens the image in a row of a set; a set is listed when first asked for."""
    places = {one.name: one for one in sets if one.embeddings is None}
    held = {one.name: one for one in images}
    listed: dict[str, dict[str, ImageItem]] = {}

    def open_image(name: str, row: int) -> Image.Image | None:
        if name not in places:
            return None
        if name not in listed:
            listed[name] = {path_cell(item.path): item for item in places[name].items()}
        item = listed[name].get(path_cell(held[name].paths[row]))
        if item is None:
            return None
        settings = DecodeSettings(fast=True, shift=places[name].shift)
        try:
            return decode(item.read(), settings, draft_side=_SIDE)
        except ImageError:
            return None

    return open_image


def _write_records(folder: Path, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_file(folder / f"{name}.csv", text.getvalue().encode("utf-8", "backslashreplace"))
    data = json.dumps(records, indent=2, ensure_ascii=False) + "\n"
    write_file(folder / f"{name}.json", data.encode("utf-8", "backslashreplace"))


def _write_pictures(folder: Path, found: Evaluation) -> None:
    from vlood.evaluation.plots import save_roc, save_score_histogram

    pictures: list[tuple[Contestant, list[SetImages]]] = []
    for one in compared(found.contestants):
        others = list(found.others.values())
        pictures += [(one, [each]) for each in found.ood()] if one.stream else [(one, others)]
    for one, others in pictures:
        suffix = "" if len(pictures) == 1 else f"-{file_part(one.shown)}"
        suffix += f"-{file_part(others[0].name)}" if one.stream else ""
        known = found.id_side(one, others[0].name).scores
        by_name = {each.name: found.judged[one.name, each.name].scores for each in others}
        save_roc(folder / f"roc{suffix}.png", known, by_name, title=f"ROC, {one.shown}")
        histogram = folder / f"scores{suffix}.png"
        threshold = None if one.per_class else one.threshold
        save_score_histogram(
            histogram, known, by_name, threshold=threshold, title=f"Scores, {one.shown}"
        )
