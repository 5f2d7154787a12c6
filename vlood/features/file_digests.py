"""Remember the digest of an unchanged file, so that a warm run reads no image at all.

A file is taken as unchanged while its device, inode, size, modification and change times all stay
the same. A file touched within the clock's coarseness of being read could change again without any
of these moving; such a digest is not remembered (git's rule for its index).
"""

from __future__ import annotations

import os
import stat as stat_modes
import time
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np

from vlood.features.cache import FILES_FOLDER
from vlood.features.keyed_rows import KeyedRows
from vlood.features.parts import KEY_BYTES

_SETTLED_NANOSECONDS = 2_000_000_000


class ImageFile(Protocol):
    """What this module asks of an input."""

    @property
    def shard(self) -> str | None:
        """Return the archive the image is a member of, if it is one."""
        ...

    def stat(self) -> os.stat_result | None:
        """Return the file's status; None where there is no such file."""
        ...


class Contents(Protocol):
    """What says of a content whether it is known, such as a space of the cache."""

    def __contains__(self, digest: bytes) -> bool:
        """Say whether it is."""
        ...


class FileDigests:
    """A persistent memo: file status -> 16-byte digest of its bytes.

    Args:
        cache_folder: the folder of the :class:`vlood.features.cache.FeatureCache`.

    """

    def __init__(self, cache_folder: Path) -> None:
        self._rows = KeyedRows(cache_folder / FILES_FOLDER, KEY_BYTES, np.dtype(np.uint8))

    def __len__(self) -> int:
        return len(self._rows)

    def digest_of(self, status: os.stat_result) -> bytes | None:
        """Return the remembered digest of the file with this status, or None."""
        row = self._rows.row(_key(status))
        return None if row is None else row.tobytes()

    def remember(self, status: os.stat_result, digest: bytes) -> None:
        """Remember a digest; ``status`` was taken before the file was read."""
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
        # Some file systems number no inodes; their files cannot be told apart.
        if settled < _SETTLED_NANOSECONDS or status.st_ino == 0:
            return
        self._rows.add([_key(status)], np.frombuffer(digest, dtype=np.uint8)[None])

    def commit(self) -> None:
        """Write what is new."""
        self._rows.commit()

    def close(self) -> None:
        """Commit and let go of the files."""
        self._rows.close()


class KnownImages:
    """The images whose embedding is in a space already: what the loader need not decode."""

    def __init__(self, space: Contents, file_digests: FileDigests) -> None:
        self._space = space
        self._file_digests = file_digests

    def digest_of(self, item: ImageFile) -> bytes | None:
        """Return the digest of an unchanged file without reading it; None where it must be read."""
        if item.shard is not None:
            return None
        status = item.stat()
        if status is None or not stat_modes.S_ISREG(status.st_mode):
            return None
        return self._file_digests.digest_of(status)

    def remember(self, item: ImageFile, stat: os.stat_result | None, digest: bytes) -> None:
        """Remember the digest of a file read after ``stat`` was taken; never that of a shard."""
        if item.shard is None and stat is not None and stat_modes.S_ISREG(stat.st_mode):
            self._file_digests.remember(stat, digest)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._space


def _key(status: os.stat_result) -> bytes:
    identity = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return blake2b(repr(identity).encode(), digest_size=KEY_BYTES).digest()
