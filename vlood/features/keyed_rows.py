"""A folder of part files, read and written as one table: 16-byte key -> row.

Several processes and threads may use one folder at once. A part is complete when its name appears
and never changes afterwards; parts written by others are seen when the folder is opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.features.atomic import PARTIAL_SUFFIX
from vlood.features.closing import ClosedAtExit
from vlood.features.parts import (
    KEY_BYTES,
    PART_SUFFIX,
    DamagedPartError,
    Part,
    new_part_path,
    open_part,
    write_part,
)

log = logging.getLogger(__name__)

# A buffer this large is committed without being asked.
_COMMIT_BYTES = 32 << 20
# Parts smaller than half of this are merged when there are many; a merge reads blocks of rows.
_MERGED_BYTES = 128 << 20
_MERGE_BLOCK_BYTES = 4 << 20
# Fresh keys move from the dictionary to the sorted array at this many, to bound the memory.
_FOLD_AT = 50_000
# A partial file this old belongs to a writer that was killed.
_STALE_SECONDS = 24 * 3600.0


class KeyedRows(ClosedAtExit):
    """A persistent table of fixed-width rows under 16-byte keys.

    Nothing about the disk ever stops a run: a folder that is absent reads as empty, a damaged part
    is dropped with a warning, and the first failure to write is one warning, after which the table
    keeps only its latest rows, in memory.

    Args:
        folder: where the parts are; made at the first commit.
        dim: the numbers in a row.
        dtype: the type of a row's numbers.
        before_write: called with the bytes a commit is about to add; it returns a reason not to
            write, or None.
        merge_at: merge the small parts when there are this many.

    """

    def __init__(
        self,
        folder: Path,
        dim: int,
        dtype: np.dtype[np.generic],
        *,
        before_write: Callable[[int], str | None] | None = None,
        merge_at: int = 32,
    ) -> None:
        if dim < 1:
            raise ValueError(f"dim is {dim}; a row holds at least one number")
        self.folder = folder
        self.dim = dim
        self.dtype = dtype.newbyteorder("<")
        self.merge_at = merge_at
        self._before_write = before_write
        self._lock = threading.RLock()
        self._stopped = False
        self._parts: list[Part] = []
        # Committed rows: sorted keys and, alongside, (part << 32 | row).
        self._keys: NDArray[np.bytes_] = np.empty(0, dtype=f"S{KEY_BYTES}")
        self._places: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        # Rows committed by this process and not yet folded into the sorted array.
        self._fresh: dict[bytes, int] = {}
        # Rows of this process not yet committed; where nothing can be written, the latest ones,
        # and in _older those before them, which can be read but no longer count as held.
        self._pending: dict[bytes, NDArray[np.generic]] = {}
        self._older: dict[bytes, NDArray[np.generic]] = {}
        self._open_parts()

    def __len__(self) -> int:
        with self._lock:
            return len(self._keys) + len(self._fresh) + len(self._pending)

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            return key in self._pending or self._place(key) is not None

    def get(self, keys: Sequence[bytes]) -> NDArray[np.generic]:
        """Return the rows of ``keys``, in their order: [n, dim].

        Raises:
            KeyError: a key is not held; the first one, in hex.

        """
        rows: NDArray[np.generic] = np.empty((len(keys), self.dim), dtype=self.dtype)
        with self._lock:
            places: list[int] = []
            wanted: list[int] = []
            for index, key in enumerate(keys):
                pending = self._pending.get(key, self._older.get(key))
                if pending is not None:
                    rows[index] = pending
                    continue
                place = self._place(key)
                if place is None:
                    raise KeyError(key.hex())
                places.append(place)
                wanted.append(index)
            self._fill(rows, np.array(wanted, dtype=np.int64), np.array(places, dtype=np.int64))
        return rows

    def add(self, keys: Sequence[bytes], rows: NDArray[np.generic]) -> None:
        """Buffer rows [n, dim]; those whose key is held already are passed over.

        Raises:
            ValueError: the array does not hold one row of ``dim`` numbers a key, or a key is not
                16 bytes long.

        """
        if rows.shape != (len(keys), self.dim):
            raise ValueError(
                f"rows of shape {rows.shape} for {len(keys)} keys of {self.dim} numbers"
            )
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a key is {KEY_BYTES} bytes")
        with self._lock:
            for key, row in zip(keys, rows, strict=True):
                if key not in self:
                    self._pending[key] = np.array(row, dtype=self.dtype)
            if len(self._pending) * self._row_bytes < _COMMIT_BYTES:
                return
            if self._stopped:
                self._older, self._pending = self._pending, {}
            else:
                self.commit()

    def row(self, key: bytes) -> NDArray[np.generic] | None:
        """Return one row [dim], or None where the key is not held."""
        with self._lock:
            pending = self._pending.get(key)
            if pending is not None:
                return pending
            place = self._place(key)
            return None if place is None else self._parts[place >> 32].row(place & 0xFFFFFFFF)

    def commit(self) -> None:
        """Write what is buffered as one new part; merge the small parts when there are many."""
        with self._lock:
            if not self._pending or self._stopped:
                return
            keys = np.array(list(self._pending), dtype=f"S{KEY_BYTES}")
            try:
                if self._before_write is not None:
                    refusal = self._before_write(len(keys) * self._row_bytes)
                    if refusal is not None:
                        self._stop(refusal)
                        return
                part = self._write(keys, iter([np.stack(list(self._pending.values()))]))
            except (OSError, DamagedPartError) as error:
                self._stop(_reason(error))
                return
            part.verified = True
            number = len(self._parts)
            self._parts.append(part)
            for row, key in enumerate(self._pending):
                self._fresh[key] = number << 32 | row
            self._pending.clear()
            if len(self._fresh) >= _FOLD_AT:
                self._index()
            if len(self._small_parts()) >= self.merge_at:
                self._merge()

    def close(self) -> None:
        """Commit and let go of the files."""
        with self._lock:
            self.commit()
            self._stopped = True
            self._drop(self._parts)
            self._pending.clear()
            self._older.clear()

    @property
    def _row_bytes(self) -> int:
        return KEY_BYTES + self.dim * int(self.dtype.itemsize)

    # Reading

    def _open_parts(self) -> None:
        for path in list_parts(self.folder):
            try:
                self._parts.append(open_part(path, dim=self.dim, dtype=self.dtype))
            except FileNotFoundError:
                # Merged or evicted by another process since the folder was listed.
                continue
            except DamagedPartError as error:
                _discard(path, str(error))
            except OSError as error:
                log.warning("the cached part %s is passed over: %s", path, _reason(error))
        self._index()

    def _index(self) -> None:
        """Sort the keys of every part; the latest part holds where two have the same key."""
        self._fresh.clear()
        if not self._parts:
            self._keys = self._keys[:0]
            self._places = self._places[:0]
            return
        keys = np.concatenate([part.keys for part in reversed(self._parts)])
        places = np.concatenate(
            [
                np.arange(len(part), dtype=np.int64) + (number << 32)
                for number, part in reversed(list(enumerate(self._parts)))
            ]
        )
        self._keys, first = np.unique(keys, return_index=True)
        self._places = places[first]

    def _place(self, key: bytes) -> int | None:
        """Find a committed row in a part whose checksum holds."""
        while True:
            place = self._fresh.get(key)
            if place is None:
                at = int(self._keys.searchsorted(key))
                # NumPy strips trailing zero bytes from an S16 item it hands out.
                if at == len(self._keys) or self._keys[at] != key.rstrip(b"\0"):
                    return None
                place = int(self._places[at])
            part = self._parts[place >> 32]
            if part.verified:
                return place
            if part.verify():
                # The time of last use, by which the size limit chooses what goes first.
                with contextlib.suppress(OSError):
                    os.utime(part.path)
                return place
            _discard(part.path, "its rows do not match their checksum")
            self._drop([part])

    def _fill(
        self, rows: NDArray[np.generic], wanted: NDArray[np.int64], places: NDArray[np.int64]
    ) -> None:
        numbers = places >> 32
        for number in np.unique(numbers):
            here = numbers == number
            rows[wanted[here]] = self._parts[int(number)].rows(places[here] & 0xFFFFFFFF)

    def _drop(self, parts: Sequence[Part]) -> None:
        dropped = {id(part) for part in parts}
        for part in parts:
            part.close()
        self._parts = [part for part in self._parts if id(part) not in dropped]
        self._index()

    # Writing

    def _write(self, keys: NDArray[np.bytes_], blocks: Iterator[NDArray[np.generic]]) -> Part:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = new_part_path(self.folder)
        write_part(path, keys, blocks, dim=self.dim, dtype=self.dtype)
        return open_part(path, dim=self.dim, dtype=self.dtype)

    def _stop(self, reason: str) -> None:
        """Write no more; a run goes on with the latest rows in memory."""
        self._stopped = True
        log.warning("the cache %s is no longer written to: %s", self.folder, reason)

    def _small_parts(self) -> list[Part]:
        return [part for part in self._parts if part.size < _MERGED_BYTES // 2]

    def _merge(self) -> None:
        """Write the small parts' rows as a few large ones, then remove the small ones."""
        remove_stale_partials(self.folder)
        damaged = [part for part in self._small_parts() if not part.verify()]
        for part in damaged:
            _discard(part.path, "its rows do not match their checksum")
        self._drop(damaged)
        small = self._small_parts()
        for group in _groups(small, _MERGED_BYTES):
            keys = np.concatenate([part.keys for part in group])
            # Two processes may have committed the same key.
            _, kept = np.unique(keys, return_index=True)
            kept.sort()
            try:
                merged = self._write(keys[kept], self._merged_rows(group, kept))
            except (OSError, DamagedPartError) as error:
                log.warning("the parts in %s stay unmerged: %s", self.folder, _reason(error))
                self.merge_at *= 2
                return
            merged.verified = True
            self._parts.append(merged)
            self._drop(group)
            for part in group:
                with contextlib.suppress(OSError):
                    part.path.unlink()

    def _merged_rows(
        self, group: Sequence[Part], kept: NDArray[np.int64]
    ) -> Iterator[NDArray[np.generic]]:
        start = 0
        step = max(1, _MERGE_BLOCK_BYTES // (self.dim * self.dtype.itemsize))
        for part in group:
            inside = kept[(kept >= start) & (kept < start + len(part))] - start
            for at in range(0, len(inside), step):
                yield part.rows(inside[at : at + step])
            start += len(part)


def list_parts(folder: Path) -> list[Path]:
    """Return the part files of a folder, oldest first; an absent folder has none."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.name.endswith(PART_SUFFIX))
    except OSError:
        return []
    return [folder / name for name in names]


def remove_stale_partials(folder: Path) -> None:
    """Remove the files that killed writers left half-written."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"*{PARTIAL_SUFFIX}"):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)


def _groups(parts: Sequence[Part], limit: int) -> Iterator[list[Part]]:
    group: list[Part] = []
    size = 0
    for part in parts:
        if group and size + part.size > limit:
            yield group
            group, size = [], 0
        group.append(part)
        size += part.size
    if len(group) > 1:
        yield group


def _discard(path: Path, why: str) -> None:
    log.warning(
        "the cached part %s is damaged (%s) and is removed; it will be made anew", path, why
    )
    with contextlib.suppress(OSError):
        path.unlink()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
