"""Tables from `vlood eval`, run as a user runs it: what is written under a table is what ran."""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benches.environment import shared_folder
from benches.measuring import BenchError, environment, percent

Row = dict[str, Any]
FIGURES = ("auroc", "fpr95_id_pos")
HEADINGS = (
    *(("near AUROC", 1), ("near FPR95", 1), ("far AUROC", 1), ("far FPR95", 1)),
    ("ID accuracy", 1),
)
WIDEST = 116


def vlood(folder: Path, *arguments: str) -> str:
    """Run a command of vlood in a folder; return what it prints.

    Raises:
        BenchError: it failed; has the end of what it said.
    """
    code = "import torch; from vlood.cli import main; torch.set_num_threads(1); main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{shown(arguments)}\n{done.stderr[-2000:]}")
    return done.stdout


def evaluated(
    folder: Path, *arguments: str, command: Sequence[str] = ("eval",), resamples: int = 0
) -> list[Row]:
    """Run `vlood eval` (or a suite) and return its records, intervals from so many draws."""
    shutil.rmtree(folder / "report", ignore_errors=True)
    asked = (*command, *arguments, "--resamples", str(resamples), "--format", "jsonl")
    lines = vlood(folder, *asked, "-o", "report", "--quiet").splitlines()
    return [json.loads(line) for line in lines]


def shown(arguments: Sequence[str]) -> str:
    return f"vlood {shlex.join(arguments)}"


def wrapped(*arguments: str) -> tuple[str, ...]:
    """Return a command of vlood as lines of a shell, cut where options begin."""
    words = ["vlood", *(word if "{" in word else shlex.quote(word) for word in arguments)]
    parts: list[list[str]] = []
    for word in words:
        if word.startswith("-") or not parts:
            parts.append([])
        parts[-1].append(word)
    lines: list[str] = []
    for part in map(" ".join, parts):
        if lines and len(lines[-1]) + len(part) < WIDEST:
            lines[-1] += f" {part}"
        else:
            lines.append(f"    {part}" if lines else part)
    return tuple(f"{line} \\" if line is not lines[-1] else line for line in lines)


def by_group(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[list[float]]]:
    """Return each contestant's runs: near and far AUROC and FPR95, and ID accuracy, in percent.

    Args:
        rows: of one or more evaluations; a run is all rows with one seed and ``run`` field.
        names: the fields that name a contestant.
    """
    runs: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Row]]] = {}
    for row in rows:
        if row["group"] not in ("near", "far") or row.get("spectrum") == "full":
            continue
        contestant = tuple(row[name] for name in names)
        runs.setdefault(contestant, {}).setdefault((row.get("run"), row["seed"]), []).append(row)
    return {
        contestant: [_figures(some) for some in one.values()] for contestant, one in runs.items()
    }


def _figures(rows: list[Row]) -> list[float]:
    found = []
    for group in ("near", "far"):
        within = [row for row in rows if row["group"] == group]
        found += [100 * statistics.fmean(row[name] for row in within) for name in FIGURES]
    return [*found, 100 * rows[0]["id_accuracy"]]


def cells(runs: list[list[float]]) -> list[Any]:
    """Return a cell a figure: the number of one run, or the mean and deviation of several."""
    return [spread(list(values)) for values in zip(*runs, strict=True)]


def spread(values: list[float], digits: int = 2) -> Any:
    """Return a number, or mean and standard deviation of several."""
    mean = round(statistics.fmean(values), digits)
    if len(values) == 1:
        return mean
    return {"mean": mean, "sd": round(statistics.stdev(values), digits)}


def world_folder(folder: Path, seed: int, name: str = "world") -> Path:
    """Draw the world's pictures into ``folder/name``: id/train, id/test, near, far."""
    from vlood.engines.demo import world_pictures, write_world

    shutil.rmtree(folder / name, ignore_errors=True)
    write_world(folder / name, world_pictures(seed))
    return folder / name


def over_worlds(
    folder: Path, seeds: Sequence[int], arguments: Callable[[int], Sequence[str]]
) -> list[Row]:
    """Evaluate on the pictures of each seed; rows say in ``run`` which they are of."""
    found = []
    for seed in seeds:
        world_folder(folder, seed)
        found += [{**row, "run": seed} for row in evaluated(folder, *arguments(seed))]
    return found


def link_shared(folder: Path) -> None:
    """Put the shared data beside the runs, so that commands read as a user would write them."""
    shared = shared_folder()
    if shared is None:
        raise BenchError("needs the folder of test data: ../shared, or VLOOD_SHARED")
    for name in ("photos", "models", "embeddings"):
        if not (folder / name).exists():
            (folder / name).symlink_to(shared.resolve() / name)


def accuracy_and_auroc(row: Row) -> tuple[float, float]:
    return percent(row["id_accuracy"], 1), percent(row["auroc"], 1)
