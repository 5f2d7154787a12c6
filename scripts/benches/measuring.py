"""Clocks, memory, processes of their own, and what a bench hands over."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches.environment import ROOT


class BenchError(Exception):
    """A measurement that did not come about; the message says why."""


@dataclass(frozen=True)
class Measured:
    """A table's figures, before it is written when and where they were measured.

    Args:
        result: name of the result file that the table belongs in.
        name: of the table in it.
        columns: headings, or (heading, decimals).
        rows: cells, see benches.results.
        keys: how many leading columns name a row.
        caption: lines above the table, where they are the bench's to say.
        commands: what was run, where it is not the bench's own command alone.
        bundled: whether the figures are of the bundled model, and go with its weights.
    """

    result: str
    name: str
    columns: tuple[str | tuple[str, int], ...]
    rows: tuple[tuple[Any, ...], ...]
    keys: int = 1
    caption: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    bundled: bool = False


def timed(work: Callable[[], Any], repeat: int = 1) -> tuple[float, Any]:
    """Return the shortest time of some runs in seconds, and what the last one returned."""
    best, result = float("inf"), None
    for _ in range(repeat):
        started = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - started)
    return best, result


def timed_on_cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of processor time of a run, and what it returned."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def synchronise(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


@contextlib.contextmanager
def watched_memory() -> Iterator[list[float]]:
    """Watch the process's own memory, in MB; mapped files are the system's to give and take."""
    peak, stop = [anonymous_megabytes()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], anonymous_megabytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()


def anonymous_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call a module's function in a process of its own, so that its peak of memory is its own."""
    code = (
        f"import json, sys\nfrom {work.__module__} import {work.__name__} as work\n"
        "print(json.dumps(work(*json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(done.stderr[-2000:] or f"the process ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def environment() -> dict[str, str]:
    """Return the environment for a process that imports this checkout and these benches."""
    paths = [str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def rounded(value: float, digits: int = 3) -> float:
    """Round to so many significant digits."""
    return float(f"{value:.{digits}g}")


def percent(value: float, digits: int = 2) -> float:
    return round(100 * float(value), digits)
