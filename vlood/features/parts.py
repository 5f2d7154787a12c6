"""The part file: an immutable block of fixed-width rows, each under a 16-byte key.

    header (64 bytes) | keys, 16 bytes each | rows, one after the other

The header holds the counts and a checksum of each region. The keys' is checked when the file is
opened, the rows' when one of them is first wanted: opening a large cache reads only its keys.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.features.atomic import atomic_file

KEY_BYTES = 16
PART_SUFFIX = ".part"
_MAGIC = b"vloodprt"
_VERSION = 1
# magic, version, dimension, dtype, rows, crc of the keys, crc of the rows; then a crc of these.
_HEADER = struct.Struct("<8sII8sQII")
_HEADER_BYTES = 64
_CHUNK_BYTES = 1 << 22


class DamagedPartError(Exception):
    """A part file is not what its header promises."""


@dataclass
class Part:
    """An open part: its keys in memory, its rows memory-mapped.

    The mapping outlives the file's name, so another process may remove the file meanwhile.
    """

    path: Path
    keys: NDArray[np.bytes_]
    dtype: np.dtype[np.generic]
    dim: int
    rows_crc: int
    size: int
    _map: mmap.mmap | None = field(repr=False)
    verified: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.generic]:
        """Copy the rows at ``positions`` out of the file: [n, dim] in the part's dtype."""
        picked = self._view()[positions]
        self._forget_pages()
        return picked

    def row(self, position: int) -> NDArray[np.generic]:
        """Copy one row [dim] out of the file."""
        row: NDArray[np.generic] = self._view()[position].copy()
        return row

    def verify(self) -> bool:
        """Compare the rows with their checksum; remember a success."""
        if not self.verified:
            assert self._map is not None
            start = _HEADER_BYTES + KEY_BYTES * len(self)
            crc = 0
            with memoryview(self._map) as whole:
                for at in range(start, self.size, _CHUNK_BYTES):
                    crc = zlib.crc32(whole[at : at + _CHUNK_BYTES], crc)
            self._forget_pages()
            self.verified = crc == self.rows_crc
        return self.verified

    def close(self) -> None:
        """Drop the mapping; the part cannot be read any more."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def _view(self) -> NDArray[np.generic]:
        assert self._map is not None
        start = _HEADER_BYTES + KEY_BYTES * len(self)
        flat = np.frombuffer(self._map, dtype=self.dtype, count=len(self) * self.dim, offset=start)
        return flat.reshape(len(self), self.dim)

    def _forget_pages(self) -> None:
        """Give the pages just read back, so that a long run does not come to hold every row.

        They stay in the operating system's file cache; reading them again is cheap.
        """
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_DONTNEED)


def new_part_path(folder: Path) -> Path:
    """Return a name no other process or thread will choose; names sort by time of writing."""
    return folder / f"{time.time_ns():020d}-{os.getpid():x}-{uuid.uuid4().hex[:8]}{PART_SUFFIX}"


def write_part(
    path: Path,
    keys: NDArray[np.bytes_],
    blocks: Iterable[NDArray[np.generic]],
    *,
    dim: int,
    dtype: np.dtype[np.generic],
) -> None:
    """Write a part atomically.

    Args:
        path: the new file; see :func:`new_part_path`.
        keys: S16 [n].
        blocks: arrays [m, dim] whose lengths sum to n.
        dim: the numbers in a row.
        dtype: the type of a row's numbers.

    Raises:
        OSError: the place cannot be written.
        ValueError: the blocks do not hold n rows.

    """
    key_bytes = np.ascontiguousarray(keys, dtype=f"S{KEY_BYTES}").view(np.uint8).data
    rows_crc = 0
    written = 0
    with atomic_file(path) as stream:
        stream.write(bytes(_HEADER_BYTES))
        stream.write(key_bytes)
        for block in blocks:
            rows = np.ascontiguousarray(block, dtype=dtype).reshape(-1, dim)
            data = rows.view(np.uint8).data
            rows_crc = zlib.crc32(data, rows_crc)
            stream.write(data)
            written += len(rows)
        if written != len(keys):
            raise ValueError(f"{len(keys)} keys for {written} rows")
        packed = _HEADER.pack(
            _MAGIC,
            _VERSION,
            dim,
            dtype.str.encode(),
            len(keys),
            zlib.crc32(key_bytes),
            rows_crc,
        )
        stream.seek(0)
        stream.write(packed + struct.pack("<I", zlib.crc32(packed)))


def open_part(path: Path, *, dim: int, dtype: np.dtype[np.generic]) -> Part:
    """Open a part and check its header, its size and its keys.

    Raises:
        DamagedPartError: the file is cut short, altered, or of another shape.
        OSError: the file is gone or cannot be read.

    """
    with open(path, "rb") as stream:
        head = stream.read(_HEADER_BYTES)
        count, keys_crc, rows_crc = _read_header(head, dim, dtype)
        size = os.fstat(stream.fileno()).st_size
        expected = _HEADER_BYTES + count * (KEY_BYTES + dim * dtype.itemsize)
        if size != expected:
            raise DamagedPartError(f"holds {size} bytes where {expected} were written")
        key_bytes = stream.read(count * KEY_BYTES)
        if zlib.crc32(key_bytes) != keys_crc:
            raise DamagedPartError("its keys do not match their checksum")
        keys = np.frombuffer(key_bytes, dtype=f"S{KEY_BYTES}")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return Part(path, keys, dtype, dim, rows_crc, size, mapped)


def _read_header(head: bytes, dim: int, dtype: np.dtype[np.generic]) -> tuple[int, int, int]:
    packed = head[: _HEADER.size]
    if len(head) < _HEADER_BYTES or not head.startswith(_MAGIC):
        raise DamagedPartError("has no header")
    (crc,) = struct.unpack_from("<I", head, _HEADER.size)
    if zlib.crc32(packed) != crc:
        raise DamagedPartError("its header does not match its checksum")
    _, version, stored_dim, stored_dtype, count, keys_crc, rows_crc = _HEADER.unpack(packed)
    if version != _VERSION or stored_dim != dim or stored_dtype.rstrip(b"\0") != dtype.str.encode():
        raise DamagedPartError("holds rows of another shape")
    return count, keys_crc, rows_crc


def part_rows(path: Path) -> int:
    """Return how many rows a part says it holds; 0 for what cannot be read."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEADER.size)
        return int(_HEADER.unpack(head)[4]) if head.startswith(_MAGIC) else 0
    except (OSError, struct.error):
        return 0
