"""Read the labelled images a method learns from, for the commands that fit methods."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.cli.class_options import ClassOptions
from vlood.cli.model_options import ModelOptions, ReadOptions, stream_settings
from vlood.cli.sources import Source, labelled, sources_of, with_labels
from vlood.cli.talk import progress, warn, warn_unreadable
from vlood.engines.detectors import settings_by_method
from vlood.engines.fitted import Fitted
from vlood.engines.negatives import NegativesChoice
from vlood.engines.printable import printable
from vlood.engines.training_checks import ReadErrors
from vlood.engines.training_images import (
    Candidates,
    LabelledBatch,
    TrainingSet,
    few_shot_set,
    labelled_images,
    training_set,
)
from vlood.engines.tuning import ItemViews, TuningRun
from vlood.engines.tuning_costs import RegionNeeds, RunCost, run_cost
from vlood.errors import UsageError
from vlood.images.sources import ImageItem
from vlood.methods.contract import Method, make_settings
from vlood.prompts.classes import ClassName
from vlood.training.few_shot import check_shots, sample_shots
from vlood.training.labelled import LabelledFeatures

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.features.cache import FeatureCache


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
    draw: tuple[int, int] | None = None,
    negatives: NegativesChoice | None = None,
) -> TrainingSet:
    """Encode the training images, and say which are not used.

    With ``draw``, shots and a seed, images are drawn first and only those are read. Images of
    ``negatives`` that were found are taken too.
    """
    words = _words_of(negatives)
    named = wanted.side.classes or tuple(map(ClassName.of, wanted.side.names()))
    total = source.count(read) if sys.stderr.isatty() and not quiet and draw is None else None
    if draw is not None:
        total = draw[0] * (len(named) + len(words))
    errors = ReadErrors()
    with errors.explaining(), progress("training images", total, quiet=quiet) as bar:

        def told(batches: Iterable[LabelledBatch]) -> Iterator[LabelledBatch]:
            for batch in errors.noted(batches):
                yield batch
                bar.advance(len(batch.ids))

        if draw is not None and source.embeddings is None:
            assert backbone is not None
            model, settings = backbone, stream_settings(run, read)
            found = few_shot_set(
                Candidates.of(source.items(read), named, words),
                lambda items: told(
                    labelled_images(items, model, settings, cache=store, local=local)
                ),
                named,
                *draw,
                negatives=len(words),
            )
        else:
            found = training_set(
                told(labelled(source, backbone, run, read, store, local=local)), named, words
            )
    left_out = found.left_out()
    if left_out is not None:
        warn(printable(left_out), quiet=quiet)
    images = "image" if len(found.unreadable) == 1 else "images"
    summary = f"{len(found.unreadable)} training {images} could not be read"
    warn_unreadable(found.unreadable, summary, quiet=quiet)
    return found


def _words_of(negatives: NegativesChoice | None) -> tuple[str, ...]:
    return () if negatives is None or negatives.found is None else negatives.found.names


def views_of(
    source: Source,
    backbone: Backbone | None,
    run: ModelOptions,
    read: ReadOptions,
    store: FeatureCache | None,
) -> ItemViews | None:
    """Return what gives augmented views of a source's images; None of embeddings."""
    if source.embeddings is not None or backbone is None:
        return None
    settings = stream_settings(run, read)
    return ItemViews(lambda: source.items(read), backbone, settings, store)


def cost_of(
    fit: Callable[[LabelledFeatures, TuningRun], Fitted],
    method: Method,
    source: Source,
    wanted: ClassOptions,
    backbone: Backbone | None,
    run: ModelOptions,
    read: ReadOptions,
    store: FeatureCache | None,
    draw: tuple[int, int] | None,
    seed: int,
    quiet: bool,
    negatives: NegativesChoice | None = None,
    synthetic: Source | None = None,
) -> RunCost:
    """Measure what training would cost; no image is decoded."""
    named = wanted.side.classes or tuple(map(ClassName.of, wanted.side.names()))
    words = _words_of(negatives)
    items: list[ImageItem] | None = None
    if source.embeddings is None:
        candidates = Candidates.of(source.items(read), named, words)
        items, labels = list(candidates.items), candidates.labels
    else:
        local = method.learns_from_whole_regions
        labels = training_set_of(
            source,
            wanted,
            backbone,
            run,
            read,
            store,
            local=local,
            quiet=quiet,
            negatives=negatives,
        ).images.labels
    if draw is not None:
        names = [each.name for each in named]
        rows = sample_shots(labels, *draw, names, negatives=len(words))
        labels = labels[rows]
        items = None if items is None else [items[row] for row in rows.tolist()]
    if synthetic is not None:
        labels, items = _with_synthetic(labels, items, synthetic, read, len(named), len(words))
    values = settings_by_method([method], wanted.settings)[method.name]
    own = make_settings(method, values)
    views = int(getattr(own, "views", 0))
    return run_cost(
        method.name,
        fit,
        labels,
        items,
        backbone,
        stream_settings(run, read),
        store,
        views=views,
        seed=seed,
        local="local" in method.record.needs,
        loops=method.record.loops or "text-tower" in method.record.needs,
        regions=RegionNeeds.of(method, own),
    )


def _with_synthetic(
    labels: NDArray[np.int64],
    items: list[ImageItem] | None,
    source: Source,
    read: ReadOptions,
    classes: int,
    negatives: int,
) -> tuple[NDArray[np.int64], list[ImageItem] | None]:
    """Add made images, whose labels would be mined: for a cost any of the negatives will do."""
    if items is None:
        count = sum(len(one.ids) for one in source.embeddings or ())
    else:
        added = list(source.items(read))
        items, count = [*items, *added], len(added)
    mined = classes + np.arange(count) % max(1, negatives)
    return np.concatenate([labels, mined]).astype(np.int64), items
