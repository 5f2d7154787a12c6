"""The run of ``vlood tune``: its folder, what is shown of it, and what it would cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from vlood.cli.talk import Progress, progress, warn
from vlood.engines.fitted import Fitted
from vlood.engines.tuning import TuningRun, ViewSource
from vlood.engines.tuning_costs import RunCost
from vlood.training.checkpoints import RunFolder, without_times
from vlood.training.loop import StepReport


def run_folder(output: Path, *, resume: bool, log: Path | None) -> RunFolder:
    """Return the folder of a run, beside the detector's: ``DIR.run``."""
    return RunFolder(output.with_name(output.name + ".run"), resume, log)


def watched(
    fit: Callable[[TuningRun], Fitted], folder: RunFolder, views: ViewSource | None, *, quiet: bool
) -> tuple[Fitted, str | None]:
    """Fit with a progress line that shows the loss; return the log too, where the loop ran.

    Ctrl-C keeps the last state, and says how to go on.
    """
    try:
        with progress("training", None, quiet=quiet) as bar:
            run = TuningRun(folder, on_step=shown(bar), views=views)
            fitted = fit(run)
    except KeyboardInterrupt:
        if folder.path.exists():
            warn(f"the run is kept in {folder.path}; the same command with --resume goes on")
        raise
    if fitted.learned is None or not folder.log_path.is_file():
        return fitted, None
    return fitted, without_times(folder.log_path.read_bytes()).decode()


def shown(bar: Progress) -> Callable[[StepReport], None]:
    """Return what shows each step on a progress line."""

    def show(report: StepReport) -> None:
        bar.reach(report.step, report.steps, f"loss {report.loss:.3f}")

    return show


def print_cost(cost: RunCost) -> None:
    """Say what a run would cost: JSON when piped, words on a terminal."""
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(asdict(cost)) + "\n")
        return
    lines = [
        f"{cost.method} on {cost.images:,} training images of {cost.classes:,} classes, "
        f"on {cost.device}",
        f"  to encode    {cost.to_encode:,} pictures ({cost.cached:,} are in the cache), about "
        f"{_time(cost.encode_seconds)}",
    ]
    if cost.steps is not None and cost.step_seconds is not None:
        lines += [
            f"  trained      {cost.trainable:,} numbers",
            f"  steps        {cost.steps:,} of {cost.step_seconds:.3g} s, about "
            f"{_time(cost.train_seconds or 0.0)}",
        ]
    else:
        lines.append("  steps        none: its solver takes seconds on encoded images")
    if cost.peak_memory_bytes is not None:
        lines.append(f"  memory       about {_size(cost.peak_memory_bytes)} at most")
    maps = ""
    if cost.store_bytes:
        maps = f", {_size(cost.store_bytes)} for regional maps while training"
    lines.append(
        f"  disk         {_size(cost.cache_bytes)} in the cache, {_size(cost.state_bytes)} for the "
        f"run's state{maps}"
    )
    sys.stdout.write("\n".join(lines) + "\n")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
