"""Quality on the pictogram world, the bundled model: every table from `vlood eval`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benches.evaluating import (
    HEADINGS,
    by_group,
    cells,
    evaluated,
    over_worlds,
    vlood,
    world_folder,
    wrapped,
)
from benches.measuring import Measured

SEEDS = (0, 1, 2)
DRAWN = (
    'python -c "from pathlib import Path; from vlood.engines.demo import *; '
    "write_world(Path('world'), world_pictures(SEED))\""
)
MODEL = ("--model", "bundled", "--classes", "world")
SETS = ("--id", "world/id/test", "--ood", "near:near=world/near", "--ood", "far:far=world/far")
SUITE = ("bench", "world")
TRAIN = ("--train", "world/id/train")
ZERO_SHOT = "mcm,msp,max-logit,energy,entropy,gl-mcm"
NEGATIVES = "neglabel,adaneg,tanl"
FROM_IMAGES = (
    "knn,mahalanobis,relative-mahalanobis,gmm,gen,kl-matching,vim,residual,react,ash,"
    "tip-adapter,abet,palm,tagood,linear-probe,cooked"
)
LOCAL_PROMPT = (
    *("--set", "local-prompt.init=a photo of a", "--set", "local-prompt.negative_prompts=12"),
    *("--set", "local-prompt.learning_rate=0.03", "--set", "local-prompt.clip=0.1"),
    *("--set", "local-prompt.epochs=100"),
)


def world(options: argparse.Namespace) -> Iterator[Measured]:
    """Every method that trains nothing, on three worlds."""
    yield _over_seeds("world", ("--method", ZERO_SHOT))


def world_negatives(options: argparse.Namespace) -> Iterator[Measured]:
    """Methods with negatives mined from the world's own words, on three worlds."""
    yield _over_seeds("world-negatives", ("--method", NEGATIVES, "--negatives", "bundled"))


def world_images(options: argparse.Namespace) -> Iterator[Measured]:
    """Every method that learns from the training images' embeddings, on three worlds."""
    yield _over_seeds("world-images", ("--method", FROM_IMAGES, *TRAIN))


def _over_seeds(result: str, asked: Sequence[str]) -> Measured:
    arguments = (*asked, *MODEL, *SETS)
    with tempfile.TemporaryDirectory() as scratch:
        rows = over_worlds(Path(scratch), SEEDS, lambda seed: (*arguments, "--seed", str(seed)))
    return Measured(
        *(result, "seeds"),
        ("method", *HEADINGS),
        tuple((name, *cells(runs)) for (name,), runs in by_group(rows, "detector").items()),
        commands=(DRAWN, *wrapped("eval", *arguments, "--seed", "SEED", "-o", "report")),
        bundled=True,
    )


def world_prompts(options: argparse.Namespace) -> Iterator[Measured]:
    """CoOp and LoCoOp by shots, beside what they start from."""
    yield _by_shots("world-prompts", "mcm,gl-mcm,coop,locoop", "1,2,4,8,16", ())


def world_local_prompt(options: argparse.Namespace) -> Iterator[Measured]:
    """Local-Prompt by shots."""
    yield _by_shots("world-local-prompt", "local-prompt,mcm,gl-mcm", "1,2,4,8,16", LOCAL_PROMPT)


def world_few_shot(options: argparse.Namespace) -> Iterator[Measured]:
    """Detectors on embeddings with few images of each class."""
    methods = "knn,mahalanobis,relative-mahalanobis,tip-adapter,linear-probe,cooked"
    # A covariance needs two images of some class.
    yield _by_shots("world-few-shot", methods, "2,4,8,16", ())


def _by_shots(result: str, methods: str, shots: str, settings: Sequence[str]) -> Measured:
    arguments = ("--method", methods, *MODEL, *TRAIN, "--shots", shots, "--seeds", "1,2,3")
    arguments = (*arguments, *SETS, *settings)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        world_folder(folder, 0)
        rows = evaluated(folder, *arguments)
        # What is trained scores by another method: its name is in front of the shots.
        named = [
            {**row, "name": row["detector"].partition(f" {row['shots']}-shot")[0]} for row in rows
        ]
        found = by_group(named, "name", "shots")
    return Measured(
        *(result, "shots"),
        ("method", "shots", *HEADINGS),
        tuple((name, shots or 0, *cells(runs)) for (name, shots), runs in found.items()),
        keys=2,
        commands=(
            DRAWN.replace("SEED", "0"),
            *wrapped("eval", *arguments, "-o", "report"),
        ),
        bundled=True,
    )


def world_cooked(options: argparse.Namespace) -> Iterator[Measured]:
    """COOkeD beside single detectors: wrong labels, names gone, blurred pictures."""
    asked = (
        *("--root", "world", "--method", "cooked,linear-probe,mcm,knn", *TRAIN),
        *("--label-noise", "0,0.2,0.4", "--name-shift", "0,0.5,1"),
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        world_folder(folder, 0)
        rows = evaluated(folder, *asked, command=SUITE)
    found = []
    for spectrum, joined in (("", ""), ("full", ", blurred pictures join the ID side")):
        some = [{**row, "spectrum": ""} for row in rows if row["spectrum"] == spectrum]
        found += [
            (f"{name}{joined}", *cells(runs))
            for (name,), runs in by_group(some, "detector").items()
            if not joined or name in ("cooked", "linear-probe", "mcm", "knn")
        ]
    yield Measured(
        *("world-cooked", "settings"),
        ("detector", *HEADINGS),
        tuple(found),
        commands=(DRAWN.replace("SEED", "0"), *wrapped(*SUITE, *asked, "-o", "report")),
        bundled=True,
    )


def world_layers(options: argparse.Namespace) -> Iterator[Measured]:
    """Mahalanobis over every layer of the tower, with outliers and without."""
    model = ("--model", "layers:bundled", "--classes", "world")
    rows: list[tuple[str, float, float]] = []

    def measured(folder: Path, title: str, *detector: str) -> None:
        found = by_group(evaluated(folder, *detector, *SETS), "method")
        ((figures,),) = found.values()
        rows.append((title, round(figures[0], 1), round(figures[2], 1)))

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        world_folder(folder, 0)
        measured(
            *(folder, "`mahalanobis` (the tower's own embedding)"),
            *("--method", "mahalanobis", *MODEL, *TRAIN),
        )
        for title, settings, outliers in (
            ("`mahalanobis-layers`, equal weights", (), None),
            ("the same, `step=0.002`", ("--set", "step=0.002"), None),
            ("`mahalanobis-layers`, the far pictures as outliers", (), "far"),
            ("`mahalanobis-layers`, the near pictures as outliers", (), "near"),
        ):
            if outliers:
                store = f"{outliers}.store"
                vlood(
                    folder, "embed", f"world/{outliers}", "--model", "layers:bundled", "-o", store
                )
                settings = (*settings, "--set", f"outliers={store}")
            made = f"detector-{len(rows)}"
            vlood(folder, "tune", "mahalanobis-layers", *model, *TRAIN, *settings, "-o", made)
            measured(folder, title, "--detector", made)
    yield Measured(
        *("world-layers", "layers"),
        ("detector", ("near AUROC", 1), ("far AUROC", 1)),
        tuple(rows),
        commands=(
            DRAWN.replace("SEED", "0"),
            "vlood embed world/far --model layers:bundled -o far.store",
            *wrapped(
                *("tune", "mahalanobis-layers", *model, *TRAIN),
                *("--set", "outliers=far.store", "-o", "deep"),
            ),
            *wrapped("eval", "--detector", "deep", *SETS, "-o", "report"),
        ),
        bundled=True,
    )
