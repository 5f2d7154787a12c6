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
from vlood.cli.class_options import ClassOptions
from vlood.cli.entrants import Fits, Tools, fitted_entrants, saved_entrants, with_thresholds
from vlood.cli.guard import SOME_UNREADABLE
from vlood.cli.model_options import (
    ModelOptions,
    ReadOptions,
    load_model,
    open_cache,
    stream_settings,
)
from vlood.cli.saved_detectors import check_together, open_detector, with_global_prompts_of
from vlood.cli.sources import Source, check_width, embedding_width
from vlood.cli.talk import note, progress, warn, warn_unreadable
from vlood.engines.evaluating.calibrating import remembered
from vlood.engines.evaluating.comparing import comparisons, result_rows, severity_rows
from vlood.engines.evaluating.provenance import provenance, run_facts
from vlood.engines.evaluating.reporting import Measured, report_inputs, write_figures
from vlood.engines.evaluating.run import Request, run
from vlood.engines.evaluating.sets import EvalSet, check_sets
from vlood.engines.evaluating.state import RUN_FILE, check_folder
from vlood.errors import UsageError
from vlood.evaluation.report.page import write_report_page
from vlood.methods import registry
from vlood.prompts.classes import ClassName, label_lookup

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.saved import SavedDetector
    from vlood.engines.evaluating.run import Outcome
    from vlood.evaluation.metrics import FprMode
    from vlood.evaluation.results import ResultRow

FPR_MODES = ("canonical", "interp", "nearest")


@dataclass(frozen=True)
class EvalOptions:
    """What a command was asked for, beside the sets.

    Attributes:
        folders: saved detectors, instead of classes and methods.
        classes: read options of classes and methods, or None with saved detectors.
        fpr_mode: one of `FPR_MODES`.
        resamples: bootstrap draws; 0: no intervals.
        overlap: what becomes of images on both sides.
        fits: how methods that learn are repeated.
        calibrate_on: images that set thresholds, or None.
        tpr: the share of them to keep.
        output: the report's folder, or None.
        mode: what becomes of a report that is there.
        save_figures: whether detectors keep their rows.
        global_prompts: a detector whose prompts those of local-prompt score with, or None.
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
    fits: Fits = field(default_factory=Fits)
    calibrate_on: Source | None = None
    tpr: float = 0.95
    output: Path | None = None
    mode: str = "new"
    save_figures: bool = False
    global_prompts: Path | None = None
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
        if self.global_prompts is not None and (not self.folders or self.save_figures):
            raise UsageError(
                "--global-prompts: goes with --detector, one of local-prompt, and without "
                "--save-figures; `vlood apply` makes a detector of both"
            )
        if self.calibrate_on is not None and "-" in self.calibrate_on.inputs:
            raise UsageError("--calibrate-on -: stdin is not read here; name files or folders")
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


def _with_prompts(held: list[SavedDetector], folder: Path | None) -> list[SavedDetector]:
    """Put the global prompts into the detectors that take them; refuse them where none does."""
    takes = [one.detector.method == "local-prompt" for one in held]
    if not any(takes):
        return [with_global_prompts_of(one, folder) for one in held]
    return [
        with_global_prompts_of(one, folder) if fits else one
        for one, fits in zip(held, takes, strict=True)
    ]


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
        held = _with_prompts(held, how.global_prompts)
        check_together(held, how.folders)
    check_sets(sets)
    wanted = how.classes or ClassOptions.of_saved(held[0], None, None, None, how.folders[0])
    cache = open_cache(model)
    backbone = load_model(model) if _needs_model(sets, how, wanted, bool(held)) else None
    tools = Tools(backbone, model, read, cache, how.quiet)
    if held:
        entrants = saved_entrants(held, how.folders, backbone)
    else:
        entrants = fitted_entrants(wanted, how.fits, how.seed, tools)
    for one in sets:
        if one.embeddings is not None:
            width = embedding_width(entrants[0].detector)
            check_width(list(one.embeddings), list(one.inputs), width)
    calibration: dict[str, object] | None = None
    if how.calibrate_on is not None:
        calibration = {"inputs": list(how.calibrate_on.inputs), "tpr": how.tpr}
        held_before = None
        if how.mode == "resume" and how.output is not None and (how.output / RUN_FILE).exists():
            held_before = remembered(entrants, how.output, calibration)
        entrants = held_before or with_thresholds(entrants, how.calibrate_on, how.tpr, tools)
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
        calibration=calibration,
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


def _needs_model(
    sets: Sequence[EvalSet], how: EvalOptions, wanted: ClassOptions, saved: bool
) -> bool:
    """Say whether anything has to be encoded: texts, or images of any side."""
    if any(one.embeddings is None for one in sets):
        return True
    if how.fits.train is not None and how.fits.train.embeddings is None:
        return True
    if how.calibrate_on is not None and how.calibrate_on.embeddings is None:
        return True
    by_name = all(registry.get(name).record.names_only for name in wanted.methods)
    return not (saved or wanted.side.class_embeddings or by_name)


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
        title=how.title or f"Out-of-distribution detection on {outcome.evaluation.known.name}",
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
    from vlood.detector.folder import adapter_of, save_detector

    for saved, folder in zip(held, folders, strict=True):
        name = folder.resolve().name
        figures = [row.record() for row in rows if row.detector == name]
        save_detector(folder, replace(saved, figures=figures), adapter=adapter_of(folder))


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
    summary = f"{len(unreadable)} inputs could not be read and were left out"
    warn_unreadable(unreadable, summary, quiet=quiet)
    raise typer.Exit(SOME_UNREADABLE)
