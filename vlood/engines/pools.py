"""A pool of images to choose from: embeddings in a file on disk, names in memory.

However large the pool is, one block of embeddings is in memory at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.embeddings import STORE_FILE, Embeddings, read_embeddings
from vlood.features.store import EmbeddingStore
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.item import ImageItem

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

NO_LABEL = -1
_SAME_MODEL = ("architecture", "config", "weights")
_BLOCK = 8192


class RowFile:
    """Rows float32 [N, D] that are written to an unnamed file one block at a time.

    They are written, not stored through a map: a full disk is then an error instead of a crash.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.dim = dim
        self.count = 0

    def append(self, rows: NDArray[np.floating]) -> None:
        """Add rows [n, D]."""
        self._file.write(np.ascontiguousarray(rows, np.float32).tobytes())
        self.count += len(rows)

    def rows(self) -> NDArray[np.float32]:
        """Return what was written, mapped from disk."""
        self._file.flush()
        if self.count == 0:
            return np.zeros((0, self.dim), np.float32)
        return np.memmap(self._file, np.float32, "r", shape=(self.count, self.dim))


@dataclass(eq=False)
class Pool:
    """N images that could be read, and those that could not.

    Attributes:
        file: raw embeddings of the N images.
        paths: N paths or ids.
        given: N label numbers that a labelled source says, or NO_LABEL.
        items: the N images, or none for stored embeddings.
        digests: N digests of contents, or none for stored embeddings.
        errors: reasons by path.
        broken: how many images of each given label could not be read.
        left_out: images of a labelled source whose label is none of those wanted.
    """

    file: RowFile
    paths: list[str] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    items: list[ImageItem] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    broken: dict[int, int] = field(default_factory=dict)
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def stored(self) -> bool:
        """Say whether the pool is embeddings, without their images."""
        return bool(self.paths) and not self.items

    def digest(self) -> str:
        """Return a digest of what the pool holds, in its order, whatever files are called."""
        found = blake2b(digest_size=16)
        if self.stored:
            rows = self.file.rows()
            for start in range(0, len(rows), _BLOCK):
                found.update(np.asarray(rows[start : start + _BLOCK]).tobytes())
        for one in self.digests:
            found.update(one)
        return found.hexdigest()


def add_images(
    pool: Pool,
    items: Iterable[ImageItem],
    backbone: Backbone,
    settings: StreamSettings,
    *,
    cache: FeatureCache | None,
    index: dict[str, int] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Encode images into a pool, each once; a bad one is kept as an error.

    Args:
        pool: grows.
        items: the images.
        backbone: the model.
        settings: how they are read.
        cache: where embeddings are remembered.
        index: label numbers by label: given for a labelled source, of which the images of other
            labels are left out unread.
        advance: called with the number of images done.
    """
    chosen = items if index is None else _labelled(pool, items, index)
    for batch in encode_images(chosen, backbone, settings, cache=cache):
        for row in batch.positions.tolist():
            item = batch.items[row]
            pool.items.append(item)
            pool.paths.append(item.path)
            pool.given.append(NO_LABEL if index is None else index[item.label or ""])
        pool.digests.extend(batch.digests)
        pool.file.append(batch.features.raw)
        for row, reason in batch.errors.items():
            item = batch.items[row]
            pool.errors[item.path] = reason
            if index is not None:
                label = index[item.label or ""]
                pool.broken[label] = pool.broken.get(label, 0) + 1
        advance(len(batch.items))


def _labelled(pool: Pool, items: Iterable[ImageItem], index: dict[str, int]) -> Iterator[ImageItem]:
    for item in items:
        if item.label in index:
            yield item
        else:
            pool.left_out += 1


def add_stored(pool: Pool, paths: Sequence[Path], width: int, model: dict[str, str] | None) -> None:
    """Copy stored embeddings into a pool; stores are read a part at a time.

    Args:
        pool: grows.
        paths: files of embeddings, or folders made by ``vlood embed``.
        width: the width they must have.
        model: the identity of the model of the label texts, where there is one.

    Raises:
        UsageError: a file cannot be read, has another width, or is of another model.
    """
    for path in paths:
        for block in _blocks(path):
            _check(path, block, width, model)
            pool.file.append(block.features)
            pool.paths.extend(block.ids)
            pool.given.extend([NO_LABEL] * len(block))


def _blocks(path: Path) -> Iterator[Embeddings]:
    if (path / STORE_FILE).is_file():
        yield from EmbeddingStore.open(path).batches(_BLOCK)
    else:
        yield read_embeddings(path)


def _check(path: Path, block: Embeddings, width: int, model: dict[str, str] | None) -> None:
    if block.features.shape[1] != width:
        raise UsageError(
            f"--pool {path}: rows have {block.features.shape[1]} numbers, but the label texts have "
            f"{width}; both must come from the same model"
        )
    meta: dict[str, Any] = block.meta
    if model is not None and any(
        name in meta and meta[name] != model.get(name) for name in _SAME_MODEL
    ):
        raise UsageError(
            f"--pool {path}: was made with another model ({meta.get('model')}); use that --model, "
            "or embed the images again"
        )
    bad = ~np.isfinite(block.features).all(axis=1) | ~block.features.any(axis=1)
    if bad.any():
        raise UsageError(
            f"--pool {path}: {int(bad.sum())} embeddings are NaN, infinite or all zeros, the first "
            f"is {block.ids[int(bad.argmax())]!r}; remove them or embed those images again"
        )
