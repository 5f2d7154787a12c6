"""Read ``--synthetic``: made images that lie just outside the classes, and need no labels."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from vlood.cli.model_options import ModelOptions, ReadOptions
from vlood.cli.sources import Source, labelled, sources_of
from vlood.cli.talk import progress, warn_unreadable
from vlood.engines.synthetic_images import with_synthetic
from vlood.engines.training_images import LabelledBatch, TrainingSet
from vlood.errors import UsageError
from vlood.methods.contract import Method

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.features.cache import FeatureCache
    from vlood.negatives.negative_features import NegativeFeatures


def synthetic_source(
    inputs: Sequence[str] | None, method: Method, train: Source | None, read: ReadOptions
) -> Source | None:
    """Look at --synthetic before a model is loaded; None where there is none.

    Raises:
        UsageError: the method learns nothing from them, there is no --train, there are no images,
            or images and embeddings are mixed.
    """
    if not inputs:
        return None
    if not method.record.synthetic_images:
        raise UsageError(f"--synthetic: --method {method.name} learns nothing from made images")
    if train is None:
        raise UsageError("--synthetic: goes with --train, labelled images of the classes")
    if "-" in inputs:
        raise UsageError("--synthetic -: stdin is not read here; name files, folders or lists")
    source = sources_of(inputs)
    source.check(read)
    if (source.embeddings is None) != (train.embeddings is None):
        raise UsageError(
            "--synthetic: give images where --train has images, or embeddings where it has "
            "embeddings"
        )
    return source


def joined(
    found: TrainingSet,
    source: Source,
    classes: int,
    negatives: NegativeFeatures,
    backbone: Backbone | None,
    run: ModelOptions,
    read: ReadOptions,
    store: FeatureCache | None,
    *,
    quiet: bool,
) -> TrainingSet:
    """Encode the made images through the cache and join them; tell of those that cannot be read."""
    total = source.count(read) if sys.stderr.isatty() and not quiet else None
    errors: dict[str, str] = {}
    with progress("made images", total, quiet=quiet) as bar:

        def told(batches: Iterable[LabelledBatch]) -> Iterator[LabelledBatch]:
            for batch in batches:
                errors.update({batch.ids[row]: reason for row, reason in batch.errors.items()})
                yield batch
                bar.advance(len(batch.ids))

        made = with_synthetic(
            found,
            told(labelled(source, backbone, run, read, store, local=False)),
            classes,
            negatives,
        )
    images = "image" if len(errors) == 1 else "images"
    warn_unreadable(errors, f"{len(errors)} made {images} could not be read", quiet=quiet)
    return made
