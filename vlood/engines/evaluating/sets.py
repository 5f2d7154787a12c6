"""What an evaluation looks at: sets of images or embeddings, and what is known of each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.features.embeddings import Embeddings
from vlood.images.item import ImageItem
from vlood.images.shifts import Shift
from vlood.images.sources import find_images

ID = "id"
"""The group of the ID set; the others are those of `results.GROUPS`."""


@dataclass(frozen=True)
class EvalSet:
    """One set to evaluate on.

    Attributes:
        name: unique in the evaluation.
        group: ``id``, or one of `results.GROUPS`.
        inputs: what the user named: files, folders, lists, shards or embeddings.
        root: where relative paths of lists start, or None.
        embeddings: what the inputs hold, where they are embeddings.
        shift: how every picture is made worse, for a set made of the ID images; or None.
    """

    name: str
    group: str
    inputs: tuple[str, ...]
    root: Path | None = None
    embeddings: tuple[Embeddings, ...] | None = None
    shift: Shift | None = None

    def items(self) -> Iterator[ImageItem]:
        """Yield the images in order; wrong inputs are refused at the call.

        Raises:
            UsageError: an input does not exist or holds no images.
        """
        return find_images(self.inputs, root=self.root)

    def count(self) -> int:
        """Return how many inputs there are, listing them."""
        if self.embeddings is not None:
            return sum(len(one.ids) for one in self.embeddings)
        return sum(1 for _ in self.items())

    def described(self) -> dict[str, object]:
        """Return what decides its images, JSON-able."""
        return {
            "group": self.group,
            "inputs": list(self.inputs),
            "root": None if self.root is None else str(self.root),
            "shift": None if self.shift is None else str(self.shift),
        }


@dataclass(frozen=True)
class SetImages:
    """The N images of a set that could be read.

    Attributes:
        name: of the set.
        group: of the set.
        paths: what records call the images [N].
        labels: their own labels [N], None where they have none.
        digests: hexadecimal digests of their contents [N].
        unreadable: reasons by path, of the images left out.
        nearest: the negatives nearest to each image [N] with their cosines, the nearest first;
            None where no negatives were at hand.
        shift: how the pictures were made worse, or None.
    """

    name: str
    group: str
    paths: Sequence[str]
    labels: Sequence[str | None]
    digests: Sequence[str]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    nearest: Sequence[Sequence[tuple[str, float]]] | None = None
    shift: Shift | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labelled(self) -> int:
        """How many images came with a label."""
        return sum(label is not None for label in self.labels)

    def true(self, class_index: Mapping[str, int]) -> NDArray[np.int64]:
        """Return the class of each image [N] by its label, -1 where it names no known class."""
        found = (-1 if one is None else class_index.get(one, -1) for one in self.labels)
        return np.fromiter(found, np.int64, len(self))

    def without(self, rows: Sequence[int]) -> SetImages:
        """Return the set without some of its images."""
        gone = set(rows)
        kept = [row for row in range(len(self)) if row not in gone]
        return SetImages(
            self.name,
            self.group,
            [self.paths[row] for row in kept],
            [self.labels[row] for row in kept],
            [self.digests[row] for row in kept],
            self.unreadable,
            None if self.nearest is None else [self.nearest[row] for row in kept],
            self.shift,
        )


def check_sets(sets: Sequence[EvalSet]) -> None:
    """Refuse sets that cannot be compared, before anything slow is done.

    Raises:
        UsageError: two sets have the very same inputs or the same name, or an input is wrong.
    """
    seen: dict[tuple[object, ...], str] = {}
    for one in sets:
        key = (tuple(_place(text, one.root) for text in one.inputs), one.shift)
        if key in seen:
            raise UsageError(
                f"the sets {seen[key]} and {one.name} are the same input {one.inputs[0]}; leave "
                "one of them out"
            )
        seen[key] = one.name
    names = [one.name for one in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two sets are called {twice}; name them apart, as in --ood {twice}-2=FOLDER"
        )
    for one in sets:
        if one.embeddings is None:
            one.items()


def _place(text: str, root: Path | None) -> tuple[str, str]:
    """Return an input with its ways of writing made one."""
    return str(Path(text).absolute()), "" if root is None else str(root.absolute())
