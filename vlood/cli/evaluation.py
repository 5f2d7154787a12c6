"""Carry out an evaluation for a command: detectors, scores, figures, report, rows on stdout."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vlood.cli import options as opt
from vlood.cli.guard import SOME_UNREADABLE
from vlood.cli.prepare import (
    ClassOptions,
    ModelOptions,
    ReadOptions,
    check_together,
    check_width,
    detectors_of,
    embedding_width,
    load_model,
    open_cache,
    open_detector,
    scored,
    sources_of,
    stream_settings,
)
from vlood.cli.talk import note, progress, warn
from vlood.detector.saved import check_backbone
from vlood.engines.evaluating.calibrating import calibratable, calibrated
from vlood.engines.evaluating.comparing import comparisons, result_rows, severity_rows
from vlood.engines.evaluating.provenance import provenance, run_facts
from vlood.engines.evaluating.reporting import Measured, report_inputs, write_figures
from vlood.engines.evaluating.run import Entrant, Request, entrant_of, run
from vlood.engines.evaluating.sets import EvalSet, check_sets
from vlood.engines.evaluating.state import check_folder
from vlood.engines.records import printable
from vlood.engines.scoring import is_stream
from vlood.errors import UsageError
from vlood.evaluation.report.page import write_report_page
from vlood.prompts.classes import ClassName, label_lookup

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.saved import SavedDetector
    from vlood.engines.evaluating.run import Outcome
    from vlood.engines.scoring import ScoredBatch
    from vlood.evaluation.metrics import FprMode
    from vlood.evaluation.results import ResultRow
    from vlood.features.cache import FeatureCache

FPR_MODES = ("canonical", "interp", "nearest")
_SHOWN_ERRORS = 20


@dataclass(frozen=True)
class EvalOptions:
    """What a command was asked for, beside the sets.

    Attributes:
        folders: saved detectors, instead of classes and methods.
        classes: read options of classes and methods, or None with saved detectors.
        fpr_mode: one of `FPR_MODES`.
        resamples: bootstrap draws; 0: no intervals.
        overlap: what becomes of images on both sides.
        calibrate_on: images that set thresholds, or none.
        tpr: the share of them to keep.
        output: the report's folder, or None.
        mode: what becomes of a report that is there.
        save_figures: whether detectors keep their rows.
        format: of the rows on stdout, or None.
        seed: of everything random.
        title: of the page.
        notes: sentences for the page.
        sections: more facts for its last section.
        quiet: no progress and no notes.
    """

    folders: Sequence[Path] = ()
    classes: ClassOptions | None = None
    fpr_mode: str = "canonical"
    resamples: int = 1000
    overlap: str = "refuse"
    calibrate_on: Sequence[str] = ()
    tpr: float = 0.95
    output: Path | None = None
    mode: str = "new"
    save_figures: bool = False
    format: opt.Format | None = None
    seed: int = 0
    title: str = ""
    notes: Sequence[str] = field(default_factory=tuple)
    sections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    quiet: bool = False

    def check(self) -> None:
        """Refuse what cannot be, before anything slow is done.

        Raises:
            UsageError: a value is unknown, or options do not go together.
        """
        if self.fpr_mode not in FPR_MODES:
            raise UsageError(f"--fpr-mode {self.fpr_mode}: expected {', '.join(FPR_MODES)}")
        if self.format is opt.Format.parquet:
            raise UsageError(
                "--format parquet: a result has few rows; use jsonl, csv or table, or -o FOLDER, "
                "which holds results.parquet"
            )
        if self.mode in ("resume", "append") and self.output is None:
            raise UsageError(f"--{self.mode}: needs -o FOLDER, the report to go on with")
        if self.save_figures and not self.folders:
            raise UsageError("--save-figures: needs --detector, the folders to write into")
        if self.output is not None:
            check_folder(self.output, self.mode)


def mode_of(resume: bool, append: bool, overwrite: bool) -> str:
    """Return what becomes of a report that is there.

    Raises:
        UsageError: more than one was asked for.
    """
    chosen = [
        name
        for name, given in (("resume", resume), ("append", append), ("overwrite", overwrite))
        if given
    ]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]}: give one of them")
    return chosen[0] if chosen else "new"


def carry_out(
    sets: Sequence[EvalSet], how: EvalOptions, model: ModelOptions, read: ReadOptions
) -> None:
    """Evaluate, write the report, print the rows.

    Raises:
        UsageError: something named does not fit together.
        typer.Exit: some images could not be read (3).
    """
    started, clock = datetime.now(timezone.utc), time.monotonic()
    held = [open_detector(folder) for folder in how.folders]
    if held:
        check_together(held, how.folders)
    check_sets(sets)
    wanted = how.classes or ClassOptions.of_saved(held[0], None, None, None, how.folders[0])
    cache = open_cache(model)
    by_arrays = bool(wanted.side.class_embeddings) or bool(held)
    calibrating = sources_of(how.calibrate_on) if how.calibrate_on else None
    by_arrays = by_arrays and all(one.embeddings is not None for one in sets)
    by_arrays = by_arrays and (calibrating is None or calibrating.embeddings is not None)
    backbone = None if by_arrays else load_model(model)
    entrants = _entrants(held, how, wanted, backbone, cache)
    for one in sets:
        if one.embeddings is not None:
            width = embedding_width(entrants[0].detector)
            check_width(list(one.embeddings), list(one.inputs), width)
    if how.calibrate_on:
        entrants = _calibrated(entrants, how, backbone, model, read, cache)
    first = entrants[0].detector
    named_classes = wanted.side.classes or tuple(map(ClassName.of, first.class_names))
    request = Request(
        sets=sets,
        entrants=entrants,
        class_index=label_lookup(named_classes),
        settings=stream_settings(model, read),
        backbone=backbone,
        cache=cache,
        folder=how.output,
        mode=how.mode,
        overlap=how.overlap,
        seed=how.seed,
    )

    @contextmanager
    def watch(one: EvalSet) -> Iterator[Callable[[int], None]]:
        total = one.count() if sys.stderr.isatty() and not how.quiet else None
        with progress(f"{one.group.upper()} {one.name}", total, quiet=how.quiet) as bar:
            yield bar.advance

    outcome = run(request, watch=watch)
    _tell(outcome, how.quiet)
    measured = _measured(outcome, how)
    if how.output is not None:
        seconds = time.monotonic() - clock
        facts = run_facts(_command(), f"{started:%Y-%m-%dT%H:%M:%SZ}", seconds, outcome.encoded)
        _write_report(how, outcome, measured, sets, backbone, facts)
    rows = list(measured.rows)
    if how.save_figures:
        _save_figures(held, how.folders, rows)
    print_rows(rows, how.format)
    _report_unreadable(outcome, how.quiet)


def _entrants(
    held: Sequence[SavedDetector],
    how: EvalOptions,
    wanted: ClassOptions,
    backbone: Backbone | None,
    cache: FeatureCache | None,
) -> list[Entrant]:
    if not held:
        detectors = detectors_of(wanted, backbone, cache, quiet=how.quiet)
        return [entrant_of(one, one.method) for one in detectors]
    found = []
    for saved, folder in zip(held, how.folders, strict=True):
        if backbone is not None:
            check_backbone(saved, backbone.identity(), f"--detector {folder}")
        given: dict[str, object] = {}
        if saved.threshold is not None:
            given = {"threshold": saved.threshold, "threshold_note": "set by hand"}
        elif saved.calibration is not None:
            calibration = saved.calibration
            given = {
                "threshold": calibration.threshold,
                "per_class": calibration.per_class,
                "threshold_note": f"set to keep {calibration.target_tpr:.0%} of the "
                f"{calibration.n:,} images it was calibrated on",
            }
        if is_stream(saved.detector):
            given = {}
        found.append(entrant_of(saved.detector, folder.resolve().name, **given))
    return found


def _calibrated(
    entrants: Sequence[Entrant],
    how: EvalOptions,
    backbone: Backbone | None,
    model: ModelOptions,
    read: ReadOptions,
    cache: FeatureCache | None,
) -> list[Entrant]:
    """Set the thresholds of the detectors that score each image by itself."""
    source = sources_of(how.calibrate_on)
    if "-" in source.inputs:
        raise UsageError("--calibrate-on -: stdin is not read here; name files or folders")
    source.check(read)
    detectors = [one.detector for one in calibratable(entrants)]
    if source.embeddings is not None:
        check_width(source.embeddings, source.inputs, embedding_width(entrants[0].detector))
    total = source.count(read) if sys.stderr.isatty() and not how.quiet else None
    with progress("calibrating", total, quiet=how.quiet) as bar:

        def told() -> Iterator[ScoredBatch]:
            for batch in scored(source, detectors, backbone, model, read, cache):
                bar.advance(len(batch.ids))
                yield batch

        return calibrated(entrants, told(), how.tpr)


def _measured(outcome: Outcome, how: EvalOptions) -> Measured:
    found = outcome.evaluation
    mode: FprMode = how.fpr_mode  # type: ignore[assignment]
    count = len(found.contestants) * len(found.others)
    with progress("measuring", count, quiet=how.quiet) as bar:
        rows = result_rows(
            found, fpr_mode=mode, resamples=how.resamples, seed=how.seed, advance=bar.advance
        )
    return Measured(rows, comparisons(found), severity_rows(found))


def _write_report(
    how: EvalOptions,
    outcome: Outcome,
    measured: Measured,
    sets: Sequence[EvalSet],
    backbone: Backbone | None,
    facts: dict[str, str],
) -> None:
    assert how.output is not None
    runs = [*outcome.state.runs, facts]
    statistics = {
        "false positive rates": how.fpr_mode,
        "bootstrap draws": f"{how.resamples:,}, seed {how.seed}",
        "images on both sides": how.overlap,
    }
    inputs = report_inputs(
        outcome.evaluation,
        measured,
        sets,
        title=how.title or f"Which images {outcome.evaluation.known.name} does not hold",
        provenance={
            **provenance(outcome.evaluation, backbone, runs, statistics),
            **how.sections,
        },
        notes=[*how.notes, *outcome.notes],
    )
    write_figures(how.output, outcome.evaluation, measured)
    write_report_page(how.output / "report.html", inputs)
    replace(outcome.state, complete=True, runs=runs).save(how.output)
    note(f"report in {how.output}: open report.html", quiet=how.quiet)


def _command() -> str:
    """Return the command as it was typed, its program's folder left out."""
    return shlex.join(["vlood", *sys.argv[1:]])


def _tell(outcome: Outcome, quiet: bool) -> None:
    found = outcome.evaluation
    known = found.known
    unmatched = known.labelled - int((known.true(found.class_index) >= 0).sum())
    if unmatched:
        warn(
            f"--id: the labels of {unmatched} of {len(known)} images are none of the classes; "
            "accuracy is over the others",
            quiet=quiet,
        )
    for text in outcome.notes:
        if "could not be read" not in text:  # said at the end, with their names
            warn(text, quiet=quiet)


def _save_figures(
    held: Sequence[SavedDetector], folders: Sequence[Path], rows: Sequence[ResultRow]
) -> None:
    """Keep each detector's rows in its folder and on its card."""
    from vlood.detector.folder import save_detector

    for saved, folder in zip(held, folders, strict=True):
        name = folder.resolve().name
        figures = [row.record() for row in rows if row.detector == name]
        save_detector(folder, replace(saved, figures=figures))


def print_rows(rows: Sequence[ResultRow], format: opt.Format | None) -> None:
    """Print rows as JSON Lines, CSV or a table."""
    from vlood.evaluation.results import results_csv

    chosen = format or (opt.Format.table if sys.stdout.isatty() else opt.Format.jsonl)
    if chosen is opt.Format.csv:
        sys.stdout.write(results_csv(rows))
    elif chosen is opt.Format.jsonl:
        for row in rows:
            sys.stdout.write(json.dumps(row.record(), ensure_ascii=True) + "\n")
    else:
        from rich.console import Console

        from vlood.evaluation.table import results_tables

        console = Console(highlight=False)
        for table in results_tables(rows):
            console.print(table)


def _report_unreadable(outcome: Outcome, quiet: bool) -> None:
    found = outcome.evaluation
    every = [found.known, *found.others.values()]
    unreadable = {path: reason for one in every for path, reason in one.unreadable.items()}
    if not unreadable:
        return
    for path, reason in list(unreadable.items())[:_SHOWN_ERRORS]:
        warn(f"{printable(path)}: {printable(reason)}", quiet=quiet)
    warn(f"{len(unreadable)} inputs could not be read and were left out", quiet=quiet)
    raise typer.Exit(SOME_UNREADABLE)
