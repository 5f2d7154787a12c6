"""Quality on photographs with the small CLIP of the shared data: every table from `vlood eval`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benches.evaluating import HEADINGS, by_group, cells, evaluated, link_shared, wrapped
from benches.measuring import Measured

MODEL = ("--model", "local-dir:models/photo-tiny", "--classes", "imagenette")
ID = ("--id", "photos/id_imagenette/test")
TRAIN = ("--train", "photos/id_imagenette/train")
NEAR = {
    "imagewoof": "near_imagewoof",
    "imagenet990": "near_imagenet990",
    "caltech101": "near_caltech101",
    "cifar100": "near_cifar100",
    "tin": "near_tin",
}
FAR = {
    "dtd10": "far_dtd10",
    "scenes": "far_scenes_intel",
    "eurosat": "far_eurosat",
    "sketch": "far_pacs_sketch",
    "food101": "far_food101_64",
    "mnist": "far_mnist",
    "cifar10": "id_cifar10/test",
}
FROM_IMAGES = "knn,mahalanobis,relative-mahalanobis,gen,vim,tip-adapter,palm,linear-probe,cooked"


def sets(near: Sequence[str] = tuple(NEAR), far: Sequence[str] = tuple(FAR)) -> tuple[str, ...]:
    """Return the options that name the sets."""
    named = [f"near:{name}=photos/{NEAR[name]}" for name in near]
    named += [f"far:{name}=photos/{FAR[name]}" for name in far]
    return (*ID, *(part for one in named for part in ("--ood", one)))


def photos(options: argparse.Namespace) -> Iterator[Measured]:
    """Methods that train nothing, and NegLabel with negatives mined from ImageNet-21k's words."""
    yield _measured("photos", "methods", ("--method", "energy,neglabel,gl-mcm,mcm"), "name")


def photos_images(options: argparse.Namespace) -> Iterator[Measured]:
    """Detectors that learn from embeddings of 100 training images a class."""
    asked = ("--method", FROM_IMAGES, *TRAIN)
    yield _measured("photos-images", "methods", asked, "name")


def photos_prompts(options: argparse.Namespace) -> Iterator[Measured]:
    """CoOp and LoCoOp with 8 shots, three seeds, by where they start."""
    for name, settings in (
        ("16 random vectors", ()),
        ("a photo of a", ("--set", "init=a photo of a")),
        ("4 random vectors", ("--set", "context_length=4")),
    ):
        methods = "mcm,gl-mcm,coop,locoop" if not settings else "coop,locoop"
        asked = ("--method", methods, *TRAIN, "--shots", "8", "--seeds", "1,2,3", *settings)
        yield _measured("photos-prompts", name, asked, "name", caption=(f"Start: {name}.",))


def photos_local_prompt(options: argparse.Namespace) -> Iterator[Measured]:
    """Local-Prompt with the published settings by shots, two near and two far sets."""
    asked = ("--method", "local-prompt,mcm,gl-mcm", *TRAIN, "--shots", "1,2,4,8,16")
    yield _measured(
        *("photos-local-prompt", "methods", (*asked, "--seeds", "1,2,3"), "name", "shots"),
        some=sets(("imagewoof", "caltech101"), ("dtd10", "food101")),
    )


def _measured(
    result: str,
    name: str,
    asked: Sequence[str],
    *names: str,
    some: tuple[str, ...] | None = None,
    caption: tuple[str, ...] = (),
) -> Measured:
    arguments = (*asked, *MODEL, *(some or sets()))
    with tempfile.TemporaryDirectory() as scratch:
        link_shared(Path(scratch))
        rows = evaluated(Path(scratch), *arguments)
    named = [{**row, "name": row["detector"].partition(f" {row['shots']}-shot")[0]} for row in rows]
    found = by_group(named, *names)
    rows: list[tuple[Any, ...]] = [
        (*(0 if part is None else part for part in key), *cells(runs))
        for key, runs in found.items()
    ]
    return Measured(
        *(result, name),
        (*("method", "shots")[: len(names)], *HEADINGS),
        tuple(rows),
        keys=len(names),
        caption=caption,
        commands=wrapped("eval", *arguments, "-o", "report"),
    )
