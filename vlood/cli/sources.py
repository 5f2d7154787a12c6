"""The inputs of a command: images to encode, or embeddings that are there already."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.cli.model_options import ModelOptions, ReadOptions, stream_settings
from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.engines.scoring import ScoredBatch, Scorer
    from vlood.engines.training_images import LabelledBatch
    from vlood.features.cache import FeatureCache
    from vlood.features.embeddings import Embeddings
    from vlood.images.sources import ImageItem
    from vlood.methods.contract import Detector


@dataclass(frozen=True)
class Source:
    """One set of inputs: images to encode, or embeddings that are there already."""

    inputs: list[str]
    embeddings: list[Embeddings] | None

    def items(self, read: ReadOptions) -> Iterator[ImageItem]:
        """Yield the images, in order; inputs that cannot be images are refused at the call."""
        from vlood.images.sources import find_images

        return find_images(
            self.inputs,
            root=read.root,
            stdin=sys.stdin.buffer,
            null_separated=read.null_separated,
        )

    def check(self, read: ReadOptions) -> None:
        """Refuse wrong inputs now, before anything slow is done.

        Raises:
            UsageError: an input does not exist or holds no images.
        """
        if self.embeddings is None:
            self.items(read)

    def count(self, read: ReadOptions) -> int | None:
        """Return how many inputs there are; None where only reading them would tell."""
        if self.embeddings is not None:
            return sum(len(one.ids) for one in self.embeddings)
        if "-" in self.inputs:
            return None
        return sum(1 for _ in self.items(read))


def sources_of(inputs: Sequence[str]) -> Source:
    """Tell images from embeddings.

    Raises:
        UsageError: the two are mixed.
    """
    from vlood.features.embeddings import looks_like_embeddings, read_embeddings

    if not inputs:
        raise UsageError("no inputs; name image files, folders, lists, embeddings, or - for stdin")
    stored = [text for text in inputs if text != "-" and looks_like_embeddings(Path(text))]
    if not stored:
        return Source(list(inputs), None)
    if len(stored) < len(inputs):
        other = next(text for text in inputs if text not in stored)
        raise UsageError(
            f"{stored[0]} holds embeddings and {other} does not; score images and embeddings apart"
        )
    return Source(list(inputs), [read_embeddings(Path(text)) for text in stored])


def with_labels(source: Source, path: Path, option: str) -> Source:
    """Give the rows of one embedding file the labels of another file.

    Raises:
        UsageError: the source is not one file of embeddings, or has another number of rows.
    """
    from vlood.features.row_names import read_labels

    if source.embeddings is None or len(source.embeddings) != 1:
        raise UsageError(
            f"{option}: goes with one file of embeddings; images take their labels from folders or "
            "lists"
        )
    labels = read_labels(path)
    stored = source.embeddings[0]
    if len(labels) != len(stored.ids):
        raise UsageError(
            f"{option} {path}: {len(labels)} labels for the {len(stored.ids)} rows of "
            f"{source.inputs[0]}; give one a row, in the same order"
        )
    return replace(source, embeddings=[replace(stored, labels=labels)])


def scored(
    source: Source,
    detectors: Sequence[Detector] | Scorer,
    backbone: Backbone | None,
    options: ModelOptions,
    read: ReadOptions,
    cache: FeatureCache | None,
) -> Iterator[ScoredBatch]:
    """Yield the scored batches of a source, whichever it holds; images need the backbone."""
    from vlood.engines.scoring import score_embeddings, score_images

    if source.embeddings is not None:
        for one in source.embeddings:
            yield from score_embeddings(one, detectors)
        return
    assert backbone is not None
    settings = stream_settings(options, read)
    yield from score_images(source.items(read), backbone, detectors, settings, cache=cache)


def labelled(
    source: Source,
    backbone: Backbone | None,
    options: ModelOptions,
    read: ReadOptions,
    cache: FeatureCache | None,
    *,
    local: bool = False,
) -> Iterator[LabelledBatch]:
    """Yield the embeddings of training images with their labels; images need the backbone."""
    from vlood.engines.training_images import labelled_embeddings, labelled_images

    if source.embeddings is not None:
        for one in source.embeddings:
            yield from labelled_embeddings(one, local=local)
        return
    assert backbone is not None
    settings = stream_settings(options, read)
    yield from labelled_images(source.items(read), backbone, settings, cache=cache, local=local)


def embedding_width(detector: Detector) -> int:
    """Return the width of the embeddings a detector scores."""
    from vlood.methods import registry

    return registry.width(detector)


def check_width(embeddings: Sequence[Embeddings], inputs: Sequence[str], width: int) -> None:
    """Refuse embeddings that are not as wide as the class embeddings."""
    for one, name in zip(embeddings, inputs, strict=True):
        if one.features.shape[1] != width:
            raise UsageError(
                f"{name}: rows have {one.features.shape[1]} numbers, but the class embeddings have "
                f"{width}; both must come from the same model"
            )
