"""Read the labelled images a method learns from, for the commands that fit methods."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.cli.prepare import (
    ClassOptions,
    ModelOptions,
    ReadOptions,
    Source,
    labelled,
    sources_of,
    with_labels,
)
from vlood.cli.talk import progress, warn
from vlood.engines.records import printable
from vlood.engines.training_images import LabelledBatch, TrainingSet, training_set
from vlood.errors import UsageError
from vlood.prompts.classes import ClassName
from vlood.training.few_shot import check_shots

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.features.cache import FeatureCache

_SHOWN_ERRORS = 20


def training_source(
    train: Sequence[str] | None, labels: Path | None, shots: Sequence[int], read: ReadOptions
) -> Source | None:
    """Read --train before a model is loaded, or return None where nothing is trained."""
    for name, value in (("--shots", shots), ("--train-labels", labels)):
        if value and not train:
            raise UsageError(f"{name}: goes with --train, the labelled images to learn from")
    if not train:
        return None
    for count in shots:
        check_shots(count)
    if "-" in train:
        raise UsageError("--train -: stdin is not read here; name files, folders or lists")
    source = sources_of(train)
    source.check(read)
    return source if labels is None else with_labels(source, labels, "--train-labels")


def training_set_of(
    source: Source,
    wanted: ClassOptions,
    backbone: Backbone | None,
    run: ModelOptions,
    read: ReadOptions,
    store: FeatureCache | None,
    *,
    local: bool,
    quiet: bool,
) -> TrainingSet:
    """Encode the training images, and say which are not used."""
    named = wanted.side.classes or tuple(map(ClassName.of, wanted.side.names()))
    total = source.count(read) if sys.stderr.isatty() and not quiet else None
    with progress("training images", total, quiet=quiet) as bar:

        def told() -> Iterator[LabelledBatch]:
            for batch in labelled(source, backbone, run, read, store, local=local):
                yield batch
                bar.advance(len(batch.ids))

        found = training_set(told(), named)
    left_out = found.left_out()
    if left_out is not None:
        warn(printable(left_out), quiet=quiet)
    for path, reason in list(found.unreadable.items())[:_SHOWN_ERRORS]:
        warn(f"{printable(path)}: {printable(reason)}", quiet=quiet)
    if found.unreadable:
        images = "image" if len(found.unreadable) == 1 else "images"
        warn(f"{len(found.unreadable)} training {images} could not be read", quiet=quiet)
    return found
