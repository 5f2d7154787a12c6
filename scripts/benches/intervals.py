"""Metrics with bootstrap intervals: time and memory; and commands as a user starts them."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benches.evaluating import world_folder
from benches.measuring import BenchError, Measured, anonymous_megabytes, environment, watched_memory

DRAWS = 1000


def statistics(options: argparse.Namespace) -> Iterator[Measured]:
    """Every figure of two large sets, with intervals."""
    from vlood.evaluation.bootstrap import figure_intervals

    count = options.count or 100_000
    rng = np.random.default_rng(0)
    known, strange = rng.normal(1, 1, count), rng.normal(0, 1, count)
    before, begun = anonymous_megabytes(), time.process_time()
    with watched_memory() as peak:
        figure_intervals(known, strange, resamples=DRAWS, seed=0)
    seconds = time.process_time() - begun
    yield Measured(
        *("statistics", "bootstrap"),
        ("measured", "s on one core", "MB over the arrays"),
        (
            (
                f"{count:,} ID and {count:,} OOD scores: AUROC, both AUPR, both FPR95, "
                f"{DRAWS:,} bootstrap draws",
                *(round(seconds, 1), round(peak[0] - before)),
            ),
        ),
    )


def demo(options: argparse.Namespace) -> Iterator[Measured]:
    """The demo and a pick as a user starts them, with an empty cache: CPU time and the clock's."""
    commands = (
        ("demo",),
        ("demo", "--quick"),
        (
            *("pick", "--id", "world/id/test", "--ood", "near:p=world/near"),
            *("--ood", "far:l=world/far", "--classes", "world", "--model", "bundled"),
            *("--budget", "90s"),
        ),
    )
    rows = []
    for arguments in commands:
        with tempfile.TemporaryDirectory() as scratch:
            if "world" in arguments:
                world_folder(Path(scratch), 0)
            before, begun = children_seconds(), time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", "from vlood.cli import main; main()", *arguments],
                cwd=Path(scratch),
                env={**environment(), "XDG_CACHE_HOME": f"{scratch}/cache"},
                capture_output=True,
                text=True,
                check=False,
            )
            clock = time.perf_counter() - begun
        if done.returncode:
            raise BenchError(done.stderr[-2000:])
        shown = f"`vlood {' '.join(arguments)}`"
        rows.append((shown, round(children_seconds() - before), round(clock)))
    yield Measured(*("demo", "commands"), ("command", "s of CPU", "s by the clock"), tuple(rows))


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
