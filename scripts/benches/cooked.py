"""COOkeD with a classifier that is trained from scratch here, on the pictogram world."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from benches.evaluating import Row, evaluated, vlood, wrapped
from benches.measuring import Measured, percent

DRAWN = (
    'python -c "from pathlib import Path; from itertools import chain; from vlood.images.world '
    "import *",
    "for one in chain(id_images('train', 100), id_images('test', 40), near_images(16), "
    "far_images(16)):",
    '    Path(one.path).parent.mkdir(parents=True, exist_ok=True); one.image.save(one.path)"',
)
CLASSIFIER = (
    *("tune", "classifier", "--classes", "world", "--train", "id/train", "--set"),
    *("arch=test_resnet", "--set", "size=64", "--set", "batch_size=64", "--set", "epochs=40"),
    *("--set", "smallest_crop=0.35", "-o", "net"),
)
COOKED = (
    *("tune", "cooked", "--model", "bundled", "--classes", "world", "--train", "id/train"),
    *("--classifier", "net"),
)
SETS = ("--id", "id/test", "--ood", "near:near=near", "--ood", "far:far=far")
MEMBERS = ("classifier", "clip", "probe", "clip+probe", "classifier+clip+probe")
SCORES = ("msp", "entropy")


def world_classifier(options: argparse.Namespace) -> Iterator[Measured]:
    """Each member alone and together, by both scores, with intervals over the images."""
    detectors = {
        f"{members}, {score}": f"{members}-{score}" for members in MEMBERS for score in SCORES
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw(folder)
        vlood(folder, *CLASSIFIER)
        for members in MEMBERS:
            for score in SCORES:
                settings = ("--set", f"members={members}", "--set", f"score={score}")
                vlood(folder, *COOKED, *settings, "-o", f"{members}-{score}")
        given = (part for one in detectors.values() for part in ("--detector", one))
        rows = evaluated(folder, *given, *SETS, resamples=1000)
    found = {(row["detector"], row["group"]): row for row in rows}
    table: list[tuple[Any, ...]] = []
    for shown, place in detectors.items():
        near, far = (found[place, group] for group in ("near", "far"))
        figures = (interval(near), percent(near["fpr95_id_pos"], 1))
        figures += (interval(far), percent(far["fpr95_id_pos"], 1))
        table.append((shown, percent(near["id_accuracy"], 1), *figures))
    yield Measured(
        *("world-cooked-classifier", "members"),
        (
            *("members, score", ("ID accuracy", 1), ("near AUROC", 1), ("near FPR95", 1)),
            *(("far AUROC", 1), ("far FPR95", 1)),
        ),
        tuple(table),
        commands=(
            *(*DRAWN, *wrapped(*CLASSIFIER)),
            *wrapped(*COOKED, "--set", "members=MEMBERS", "--set", "score=SCORE", "-o", "DIR"),
            *wrapped("eval", "--detector", "DIR", *SETS, "-o", "report"),
        ),
        bundled=True,
    )


def draw(folder: Path) -> None:
    """Draw 100 pictures of each class to train, 40 to test, and 16 of each other thing."""
    from vlood.images import world

    known = (world.id_images("train", 100), world.id_images("test", 40))
    for one in chain(*known, world.near_images(16), world.far_images(16)):
        path = folder / one.path
        path.parent.mkdir(parents=True, exist_ok=True)
        one.image.save(path)


def interval(row: Row) -> dict[str, float]:
    ends = {"mean": "auroc", "low": "auroc_ci_low", "high": "auroc_ci_high"}
    return {name: percent(row[key], 1) for name, key in ends.items()}
