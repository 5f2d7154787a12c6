"""Write a folder of embeddings so that it can be killed at any moment and resumed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError, VloodError
from vlood.features.atomic import PARTIAL_SUFFIX, fsync_folder, write_atomically
from vlood.features.closing import ClosedAtExit
from vlood.features.embeddings import STORE_FILE
from vlood.features.store_folder import (
    MANIFEST_FILE,
    SCHEMA,
    StorePart,
    digest_of,
    good_parts,
    read_lines,
    read_state,
)

CARD_FILE = "README.md"
# Parts end between batches, at the first of these; few files, little lost when killed.
PART_ROWS = 1024
PART_BYTES = 64 << 20
# What a run records without its deciding the embeddings; a resumed run may differ in it.
PROVENANCE = "provenance"
_LOCK_FILE = ".lock"


class EmbeddingStoreWriter(ClosedAtExit):
    """Write a store batch by batch.

    Args:
        folder: a new or empty folder; with ``resume``, also one with an unfinished store.
        meta: JSON-able description of what decides the embeddings (model, weights,
            preprocessing...); its entry ``provenance``, if any, may differ on resume.
        resume: go on after the last good part of the folder.

    Raises:
        UsageError: the folder holds something else, or a store of other settings.
        VloodError: the folder cannot be written, or another run is writing it.

    """

    def __init__(self, folder: Path, meta: Mapping[str, Any], resume: bool = False) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads(json.dumps(meta))
        self.complete = False
        self._dim: int | None = None
        self._local_shape: tuple[int, int] | None = None
        self._parts: list[StorePart] = []
        self._buffer = _Buffer()
        self._lock: IO[bytes] | None = None
        self._failed = False
        with _explained(folder):
            self._check_folder(resume)
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            try:
                if (folder / STORE_FILE).exists():
                    self._resume()
                else:
                    self._write_state()
            except BaseException:
                self._unlock()
                raise

    @property
    def done(self) -> int:
        """Return how many inputs, unreadable ones included, are committed: whole batches."""
        return sum(part.rows + part.errors for part in self._parts)

    @property
    def errors(self) -> int:
        """Return how many of the committed inputs could not be read."""
        return sum(part.errors for part in self._parts)

    def committed_inputs(self) -> Iterator[list[str]]:
        """Yield the ids of each committed part, unreadable inputs after the others of a batch."""
        for part in self._parts:
            yield [line["id"] for line in read_lines(self.folder / part.ids_file)]

    def append(
        self,
        ids: Sequence[str],
        labels: Sequence[str | None] | None,
        features: NDArray[np.floating],
        local: NDArray[np.floating] | None = None,
        errors: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Take one batch; it is committed with its part, at the latest by :meth:`close`.

        Args:
            ids: the inputs that could be read.
            labels: their labels; None for none.
            features: [n, D], one row an id.
            local: [n, R, D], kept in its own floating type.
            errors: (id, reason) of the inputs that could not be read.

        Raises:
            ValueError: the lengths or the widths do not fit together.
            VloodError: the folder cannot be written.

        """
        self._check_batch(ids, labels, features, local)
        if self.complete:
            self.complete = False
            with _explained(self.folder, self):
                self._write_state()
        for row, one in enumerate(ids):
            label = labels[row] if labels is not None else None
            self._buffer.lines.append({"id": one, **({} if label is None else {"label": label})})
        self._buffer.lines.extend({"id": one, "error": reason} for one, reason in errors)
        if len(ids):
            self._buffer.features.append(np.array(features, dtype=np.float32))
            if local is not None:
                self._buffer.local.append(np.array(local))
        if len(self._buffer.lines) >= PART_ROWS or self._buffer.size >= PART_BYTES:
            self.commit()

    def commit(self) -> None:
        """Write what is buffered as one part, then its manifest line."""
        if not self._buffer.lines:
            return
        from safetensors.numpy import save

        name = f"part-{len(self._parts) + 1:06d}"
        lines = "".join(json.dumps(line) + "\n" for line in self._buffer.lines).encode()
        tensors = {"features": self._buffer.joined(self._buffer.features, (0, self._dim or 0))}
        if self._local_shape is not None:
            tensors["local"] = self._buffer.joined(self._buffer.local, (0, *self._local_shape))
        rows = len(tensors["features"])
        data = save(tensors)
        part = StorePart(
            name, rows, len(self._buffer.lines) - rows, digest_of(data), digest_of(lines)
        )
        with _explained(self.folder, self):
            write_atomically(self.folder / part.features_file, data)
            write_atomically(self.folder / part.ids_file, lines)
            with open(self.folder / MANIFEST_FILE, "ab") as manifest:
                manifest.write(json.dumps(asdict(part)).encode() + b"\n")
                manifest.flush()
                os.fsync(manifest.fileno())
        self._parts.append(part)
        self._buffer = _Buffer()

    def finish(self) -> None:
        """Commit, and mark the store complete."""
        self.commit()
        self.complete = True
        with _explained(self.folder, self):
            self._write_state()
            write_atomically(self.folder / CARD_FILE, self._card().encode())
        self._unlock()

    def close(self) -> None:
        """Commit whole batches and stop here; the store can be resumed."""
        try:
            if not self._failed:
                self.commit()
        finally:
            self._unlock()

    def _check_folder(self, resume: bool) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: is a file; name a folder for the embeddings")
        if (self.folder / STORE_FILE).exists():
            if not resume:
                raise UsageError(
                    f"{self.folder}: holds embeddings already; use --resume to go on with them, or "
                    "another folder"
                )
        elif self.folder.is_dir() and any(_foreign(path) for path in self.folder.iterdir()):
            raise UsageError(f"{self.folder}: is not empty; name a new folder for the embeddings")

    def _resume(self) -> None:
        state = read_state(self.folder)
        changed = _differences(state["meta"], self.meta)
        if changed:
            raise UsageError(
                f"--resume: {self.folder} was made with other settings ({', '.join(changed)}); use "
                "the same ones, or another folder"
            )
        self._parts, good_bytes = good_parts(self.folder)
        self._dim = state["dim"]
        self._local_shape = tuple(state["local_shape"]) if state["local_shape"] else None
        self.complete = bool(state["complete"]) and self.done == state["inputs"]
        manifest = self.folder / MANIFEST_FILE
        if manifest.exists():
            with open(manifest, "r+b") as stream:
                stream.truncate(good_bytes)
                os.fsync(stream.fileno())
        kept = {name for part in self._parts for name in (part.features_file, part.ids_file)}
        for path in self.folder.iterdir():
            if _is_part(path) and path.name not in kept:
                path.unlink()
        fsync_folder(self.folder)

    def _check_batch(
        self,
        ids: Sequence[str],
        labels: Sequence[str | None] | None,
        features: NDArray[np.floating],
        local: NDArray[np.floating] | None,
    ) -> None:
        if labels is not None and len(labels) != len(ids):
            raise ValueError(f"{len(labels)} labels for {len(ids)} ids")
        if not len(ids):
            return
        if features.ndim != 2 or len(features) != len(ids):
            raise ValueError(f"features of shape {features.shape} for {len(ids)} ids")
        local_shape = None if local is None else tuple(local.shape[1:])
        if local is not None and (local.ndim != 3 or len(local) != len(ids)):
            raise ValueError(f"local features of shape {local.shape} for {len(ids)} ids")
        if self._dim is None:
            self._dim, self._local_shape = features.shape[1], local_shape
            with _explained(self.folder, self):
                self._write_state()
        if (features.shape[1], local_shape) != (self._dim, self._local_shape):
            raise ValueError(
                f"features [{features.shape[1]}] and local {local_shape} in a store of "
                f"[{self._dim}] and {self._local_shape}"
            )

    def _write_state(self) -> None:
        state = {
            "schema": SCHEMA,
            "kind": "vlood embeddings",
            "meta": self.meta,
            "dim": self._dim,
            "local_shape": self._local_shape,
            "complete": self.complete,
            "inputs": self.done,
        }
        write_atomically(self.folder / STORE_FILE, (json.dumps(state, indent=1) + "\n").encode())

    def _card(self) -> str:
        rows = sum(part.rows for part in self._parts)
        lines = ["# Image embeddings", "", f"{rows} embeddings of {self._dim or 0} numbers"]
        lines[-1] += ", made by `vlood embed`; not normalised."
        if self.done > rows:
            lines.append(f"{self.done - rows} inputs could not be read; the part lists say why.")
        described = {k: v for k, v in self.meta.items() if k != PROVENANCE}
        lines += ["", *(f"- {name}: {value}" for name, value in sorted(described.items()))]
        lines += ["", "Use the folder wherever vlood takes images; `vlood show` describes it.", ""]
        return "\n".join(lines)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class _Buffer:
    """The batches of the part that is being gathered."""

    def __init__(self) -> None:
        self.lines: list[dict[str, str]] = []
        self.features: list[NDArray[np.float32]] = []
        self.local: list[NDArray[Any]] = []

    @property
    def size(self) -> int:
        return sum(array.nbytes for array in (*self.features, *self.local))

    @staticmethod
    def joined(arrays: Sequence[NDArray[Any]], empty: tuple[int, ...]) -> NDArray[Any]:
        return np.concatenate(arrays) if arrays else np.empty(empty, dtype=np.float32)


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    names = sorted((set(stored) | set(wanted)) - {PROVENANCE})
    return [name for name in names if stored.get(name) != wanted.get(name)]


def _is_part(path: Path) -> bool:
    return path.name.startswith("part-") or path.name.endswith(PARTIAL_SUFFIX)


def _foreign(path: Path) -> bool:
    """Tell what a writer that was killed at its very start did not leave behind."""
    return path.name != _LOCK_FILE and not path.name.endswith(PARTIAL_SUFFIX)


def _locked(folder: Path) -> IO[bytes] | None:
    """Hold the folder for this process where the platform can; the system lets go at its end."""
    try:
        import fcntl
    except ImportError:
        return None
    stream = open(folder / _LOCK_FILE, "ab")  # noqa: SIM115 (held until the writer ends)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise VloodError(
            f"{folder}: another vlood embed is writing there; wait for it, or use another folder"
        ) from error
    except OSError:
        # Some network file systems have no locks.
        stream.close()
        return None
    return stream


@contextlib.contextmanager
def _explained(folder: Path, writer: EmbeddingStoreWriter | None = None) -> Iterator[None]:
    """Tell a failing write in one sentence; the writer then keeps to what is committed."""
    try:
        yield
    except OSError as error:
        kept = ""
        if writer is not None:
            writer._failed = True
            kept = (
                f"; the {writer.done} inputs done so far are kept, and --resume goes on from them"
            )
        reason = error.strerror or str(error)
        raise VloodError(f"{folder}: cannot be written ({reason}){kept}") from error
