"""The folder `vlood embed` writes: committed parts of embeddings, and a manifest that counts them.

    store.json                 what made the embeddings, their width, whether the store is complete
    manifest.jsonl             one line a part: its files' digests and how many rows it has
    part-000001.safetensors    features [n, D] and perhaps local [n, R, D]
    part-000001.jsonl          one line an input: id and label, or id and error

A part counts when its manifest line is there, which is written after both files have their names.
Killed anywhere, the store is what its manifest says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.features.embeddings import Embeddings, check_features
from vlood.features.store_folder import (
    MANIFEST_FILE,
    StorePart,
    damaged,
    is_good,
    read_lines,
    read_manifest,
    read_state,
)
from vlood.features.store_writer import EmbeddingStoreWriter

__all__ = ["EmbeddingStore", "EmbeddingStoreWriter", "StoredLocalRows"]


class EmbeddingStore:
    """A finished store, read part by part."""

    def __init__(self, folder: Path, state: Mapping[str, Any], parts: Sequence[StorePart]) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = dict(state["meta"])
        self.dim = int(state["dim"] or 0)
        self.local_shape: tuple[int, int] | None = (
            tuple(state["local_shape"]) if state["local_shape"] else None
        )
        self.complete = bool(state["complete"])
        self.parts = tuple(parts)
        self.ids: list[str] = []
        self.errors: list[tuple[str, str]] = []
        labels: list[str] = []
        for part in parts:
            ids_before, errors_before = len(self.ids), len(self.errors)
            for line in read_lines(folder / part.ids_file):
                if "error" in line:
                    self.errors.append((line["id"], line["error"]))
                else:
                    self.ids.append(line["id"])
                    labels.append(line.get("label", ""))
            counted = (len(self.ids) - ids_before, len(self.errors) - errors_before)
            if counted != (part.rows, part.errors):
                raise damaged(folder / part.ids_file)
        self.labels = labels if any(labels) else None

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False, partial: bool = False) -> EmbeddingStore:
        """Open a store.

        Args:
            folder: made by `vlood embed`.
            verify: compare every part with its digest first.
            partial: take an unfinished store as well, as far as it goes.

        Raises:
            UsageError: there is no store, or it is unfinished.
            VloodError: it is damaged, or of a newer kind.

        """
        state = read_state(folder)
        if not state["complete"] and not partial:
            raise UsageError(
                f"{folder}: the embeddings are not complete; run the same `vlood embed` again with "
                "--resume"
            )
        parts = [part for part, _ in read_manifest(folder)]
        if state["complete"] and sum(part.rows + part.errors for part in parts) != state["inputs"]:
            raise damaged(folder / MANIFEST_FILE)
        for part in parts:
            if verify and not is_good(folder, part):
                raise damaged(folder / part.features_file)
        return cls(folder, state, parts)

    def __len__(self) -> int:
        return len(self.ids)

    def features(self) -> NDArray[np.float32]:
        """Read every embedding: float32 [N, D]."""
        whole = np.empty((len(self), self.dim), dtype=np.float32)
        for start, part in self._starts():
            if part.rows:
                whole[start : start + part.rows] = self._read(part, "features", slice(None))
        return whole

    def batches(self, size: int = 1024) -> Iterator[Embeddings]:
        """Yield embeddings in order, at most ``size`` at a time; no more is in memory at once."""
        for start, part in self._starts():
            for at in range(0, part.rows, size):
                inside = slice(at, min(at + size, part.rows))
                rows = slice(start + inside.start, start + inside.stop)
                yield Embeddings(
                    features=self._read(part, "features", inside),
                    ids=self.ids[rows],
                    labels=None if self.labels is None else self.labels[rows],
                    local=None if self.local_shape is None else self._read(part, "local", inside),
                    meta=self.meta,
                )

    def embeddings(self) -> Embeddings:
        """Return the whole store; local embeddings stay on disk until they are sliced.

        Raises:
            UsageError: it holds no embedding, or rows that nothing can be computed from.

        """
        features = check_features(self.folder, self.features())
        local = None if self.local_shape is None else StoredLocalRows(self)
        return Embeddings(features, self.ids, self.labels, local, self.meta)

    def local_rows(self, rows: slice) -> NDArray[np.float32]:
        """Read local embeddings: float32 [n, R, D].

        Raises:
            ValueError: the slice has a step.

        """
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("local embeddings are read in runs, without a step")
        assert self.local_shape is not None
        blocks = [np.empty((0, *self.local_shape), dtype=np.float32)]
        for at, part in self._starts():
            first, last = max(start - at, 0), min(stop - at, part.rows)
            if first < last:
                blocks.append(self._read(part, "local", slice(first, last)))
        return np.concatenate(blocks)

    def _starts(self) -> Iterator[tuple[int, StorePart]]:
        start = 0
        for part in self.parts:
            yield start, part
            start += part.rows

    def _read(self, part: StorePart, name: str, rows: slice) -> NDArray[np.float32]:
        """Copy rows out of a memory-mapped part."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / part.features_file
        try:
            with safe_open(path, framework="numpy") as file:
                read: NDArray[Any] = file.get_slice(name)[rows]
        except (SafetensorError, OSError) as error:
            raise damaged(path) from error
        if len(read) != len(range(*rows.indices(part.rows))):
            raise damaged(path)
        return read.astype(np.float32, copy=False)


class StoredLocalRows:
    """The local embeddings [N, R, D] of a store, read when sliced."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        return self._store.local_rows(rows)
