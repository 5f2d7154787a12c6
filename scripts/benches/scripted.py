"""Benches that are scripts of their own, run as they are; their lines become tables.

`scripts/ablate-lapt`, `scripts/follow-contexts` and `scripts/measure-cma` say more than a table
holds, while they run: they stay commands by themselves.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benches.environment import ROOT
from benches.evaluating import link_shared, spread
from benches.measuring import BenchError, Measured, environment

CMA_WAYS = ("zero-shot", "flyp: lambda_value=0", "cma 0.001:", "cma 0.1: lambda_value=0.1")
CMA_ON_PHOTOS = (
    *("zero-shot", "flyp lora: lambda_value=0", "cma lora:"),
    "cma full: tune=full learning_rate=1e-4",
)
CMA_SHORT = (CMA_WAYS[0], CMA_WAYS[1], CMA_WAYS[3])
CMA_SHIFTS = ("fog:4", "gaussian-noise:4", "motion-blur:4")
CMA_COLUMNS = (
    *(("ID accuracy", 1), ("NegLabel AUROC", 2), ("FPR95", 1), ("MCM AUROC", 1), ("gap", 3)),
    *("CPU s", "memory, GB", "kept, MB"),
)
# Differences over the same shots and starts, with Student's 95 % interval.
CMA_GAINS = (
    *(("accuracy over zero-shot", 1), ("AUROC over zero-shot", 2), ("AUROC over FLYP", 2)),
    ("gap over zero-shot", 3),
)


def script(name: str, *arguments: str, folder: Path = ROOT) -> list[str]:
    """Run a script in a folder and return the lines that it prints.

    Raises:
        BenchError: it failed.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *arguments],
        cwd=folder,
        env={**environment(), "VLOOD_BENCH_HERE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"scripts/{name}: {done.stderr[-2000:]}")
    return done.stdout.splitlines()


def world_lapt(options: argparse.Namespace) -> Iterator[Measured]:
    """LAPT from class names and a pool of unlabelled pictures, with parts left out."""
    runs: dict[str, list[list[float]]] = {}
    for line in script("ablate-lapt"):
        found = re.fullmatch(r"seed \d+: (.*): ([\d. ]+)", line)
        if found:
            runs.setdefault(found[1], []).append([float(one) for one in found[2].split()])
    rows = []
    for name, figures in runs.items():
        *shares, seconds = zip(*figures, strict=True)
        cells = [spread([100 * one for one in some]) for some in shares]
        rows.append((name, *cells, round(sum(seconds) / len(seconds)) or None))
    yield Measured(
        *("world-lapt", "variants"),
        ("method", ("near AUROC", 1), ("far AUROC", 1), ("ID accuracy", 1), "s of CPU"),
        tuple(rows),
        commands=("scripts/ablate-lapt",),
        bundled=True,
    )


def world_contexts(options: argparse.Namespace) -> Iterator[Measured]:
    """What CoOp learns epoch by epoch, by where its vectors start."""
    asked = ("--method", "coop", "--shots", "2,16")
    rows: list[tuple[Any, ...]] = []
    for line in script("follow-contexts", *asked):
        one = json.loads(line)
        named = one.get("template"), 0, None
        if "start" in one:
            named = one["start"], one["shots"], one["epoch"]
        figures = [one.get("train_loss"), one["test_loss"], 100 * one["test_accuracy"]]
        figures += [100 * one[f"far {score}"] for score in ("mcm", "msp", "gl-mcm")]
        rows.append((*named, *(None if each is None else round(each, 4) for each in figures)))
    yield Measured(
        *("world-contexts", "epochs"),
        (
            *("start", "shots", "epoch", ("training loss", 3), ("held-out loss", 3)),
            *(("held-out accuracy", 1), ("far AUROC, MCM", 1), ("MSP", 1), ("GL-MCM", 1)),
        ),
        tuple(rows),
        keys=3,
        commands=(shlex.join(("scripts/follow-contexts", *asked)),),
        bundled=True,
    )


def world_cma(options: argparse.Namespace) -> Iterator[Measured]:
    """CMA and FLYP on the pictogram world, three seeds: as the model knows it, and degraded."""
    for shift in (None, *CMA_SHIFTS):
        with tempfile.TemporaryDirectory() as scratch:
            draw_for_cma(Path(scratch) / "world", shift)
            yield _ways(
                *("world-cma", "ways" if shift is None else shift.partition(":")[0]),
                *(Path(scratch), CMA_WAYS if shift is None else CMA_SHORT, "near"),
                *("--classes", "world", "--train", "world/id/train", "--id", "world/id/test"),
                *("--ood", "world/near", "--limit", "480"),
                bundled=True,
                caption=None if shift is None else f"Every picture, of training too, with {shift}.",
            )


def photos_cma(options: argparse.Namespace) -> Iterator[Measured]:
    """CMA and FLYP on photographs, three seeds."""
    with tempfile.TemporaryDirectory() as scratch:
        link_shared(Path(scratch))
        for name, near in (("imagenette", "near_imagewoof"), ("cifar10", "near_cifar100")):
            yield _ways(
                *("photos-cma", name, Path(scratch), CMA_ON_PHOTOS, near),
                *("--model", "local-dir:models/photo-tiny", "--classes", name),
                *("--train", f"photos/id_{name}/train", "--id", f"photos/id_{name}/test"),
                *("--ood", f"photos/{near}", "--limit", "500"),
            )


def draw_for_cma(folder: Path, shift: str | None = None) -> None:
    """Draw 40 pictures of each class to train, as many to test, and 20 of each near name.

    With a shift every picture is degraded by it, those of training too: a place that the model
    does not know.
    """
    from itertools import chain

    from vlood.images import world
    from vlood.images.shifts import parse_shift, shifted

    pictures = (world.id_images("train", 40), world.id_images("test", 40), world.near_images(20))
    worse = None if shift is None else parse_shift(shift)
    for number, one in enumerate(chain(*pictures)):
        path = folder / one.path
        path.parent.mkdir(parents=True, exist_ok=True)
        image = one.image
        if worse is not None:
            image = shifted(image, worse.name, worse.severity, number)
        image.save(path)


def _ways(
    result: str,
    name: str,
    folder: Path,
    ways: Sequence[str],
    near: str,
    *arguments: str,
    bundled: bool = False,
    caption: str | None = None,
) -> Measured:
    asked = (*arguments, "--shots", "16", "--seeds", "0,1,2")
    given = [part for way in ways for part in ("--way", way)]
    runs: dict[str, list[dict[str, float]]] = {}
    for line in script("measure-cma", *asked, *given, folder=folder):
        one = json.loads(line)
        runs.setdefault(one["way"], []).append(one)

    def cell(some: list[dict[str, float]], key: str, factor: float = 100, digits: int = 2) -> Any:
        values = [factor * one[key] for one in some]
        return spread(values[:1] if len(set(values)) == 1 else values, digits)

    rows = [
        (
            way,
            cell(some, "id_accuracy"),
            cell(some, f"neglabel {near} auroc"),
            cell(some, f"neglabel {near} fpr95"),
            cell(some, f"mcm {near} auroc"),
            cell(some, "gap", 1, 4),
            round(sum(one["cpu_seconds"] for one in some) / len(some)),
            round(max(one["peak_bytes"] for one in some) / 1e9, 2),
            round(some[0]["kept_bytes"] / 1e6, 1) or None,
            *(
                _gain(some, runs[base], key, factor, digits)
                for base, key, factor, digits in (
                    (ways[0], "id_accuracy", 100, 2),
                    (ways[0], f"neglabel {near} auroc", 100, 2),
                    (ways[1].partition(":")[0], f"neglabel {near} auroc", 100, 2),
                    (ways[0], "gap", 1, 4),
                )
            ),
        )
        for way, some in runs.items()
    ]
    return Measured(
        *(result, name),
        ("way", *CMA_COLUMNS, *CMA_GAINS),
        tuple(rows),
        commands=(f"{shlex.join(('scripts/measure-cma', *asked))} \\", f"    {shlex.join(given)}"),
        bundled=bundled,
        caption=() if caption is None else (caption,),
    )


def _gain(
    some: list[dict[str, float]],
    base: list[dict[str, float]],
    key: str,
    factor: float,
    digits: int,
) -> dict[str, float] | None:
    """Return the mean of paired differences and its interval, or None over itself."""
    from scipy.stats import t

    if some is base or some[0]["way"] == "zero-shot":
        return None
    gains = [factor * (one[key] - other[key]) for one, other in zip(some, base, strict=True)]
    mean, deviation = statistics.fmean(gains), statistics.stdev(gains)
    half = float(t.ppf(0.975, len(gains) - 1)) * deviation / len(gains) ** 0.5
    shown = {"mean": mean, "low": mean - half, "high": mean + half}
    return {name: round(value, digits) for name, value in shown.items()}
