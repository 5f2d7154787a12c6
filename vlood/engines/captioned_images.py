"""Captioned images for a method to learn from: encoded once, and what is left out."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.captions import Captioned, LeftOut, Read
from vlood.images.item import ImageItem
from vlood.training.captioned import CaptionedFeatures

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

UNREADABLE = "the image cannot be read"
_EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class CaptionSet:
    """The images that have a caption, and what became of the others.

    Attributes:
        images: embeddings and captions.
        left_out: how many were left out for each reason.
        examples: a few of each reason's, as "path: why".
    """

    images: CaptionedFeatures
    left_out: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]

    def sentences(self) -> list[str]:
        """Say what was left out, a sentence a reason."""
        return [
            f"--captions: {count} left out, for {reason} ({'; '.join(self.examples[reason])})"
            for reason, count in sorted(self.left_out.items())
        ]


class Account:
    """Count what is left out, and keep a few examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, path: str, reason: str, detail: str = "") -> None:
        """Count one."""
        self.counts[reason] += 1
        held = self.examples.setdefault(reason, [])
        if len(held) < _EXAMPLES:
            held.append(f"{path}: {detail}" if detail else path)


def usable(read: Iterable[Read], account: Account) -> Iterator[Captioned]:
    """Yield what has an image and a caption; account for the rest."""
    for one in read:
        if isinstance(one, LeftOut):
            account.add(one.path, one.reason, one.detail)
        else:
            yield one


def caption_set(
    read: Iterable[Read],
    backbone: Backbone,
    settings: StreamSettings,
    *,
    cache: FeatureCache | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> CaptionSet:
    """Encode the captioned images, through the cache, in their order.

    Args:
        read: from :func:`~vlood.images.captions.find_captions`.
        backbone: the model.
        settings: how images are read.
        cache: keeps the embeddings, or None.
        advance: told of so many images done.

    Raises:
        UsageError: nothing could be used.
    """
    account = Account()
    waiting: deque[str] = deque()

    def items() -> Iterator[ImageItem]:
        for one in usable(read, account):
            waiting.append(one.caption)
            yield one.item

    rows: list[NDArray[np.float32]] = []
    captions: list[str] = []
    ids: list[str] = []
    for batch in encode_images(items(), backbone, settings, cache=cache):
        own = [waiting.popleft() for _ in batch.items]
        for row in batch.positions.tolist():
            captions.append(own[row])
            ids.append(batch.items[row].path)
        rows.append(batch.features.raw)
        for row, reason in batch.errors.items():
            account.add(batch.items[row].path, UNREADABLE, reason)
        advance(len(batch.items))
    if not captions:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in account.counts.items())
        raise UsageError(
            f"--captions: no image with a caption could be used ({reasons or 'nothing is there'}); "
            "a shard holds key.jpg and key.txt or key.json, a table the columns path and caption"
        )
    images = CaptionedFeatures.of(np.concatenate(rows), captions, ids)
    examples = {reason: tuple(some) for reason, some in account.examples.items()}
    return CaptionSet(images, dict(account.counts), examples)
