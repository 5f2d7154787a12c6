"""The cache of embeddings: what a model made of a content is computed once.

Rows are found by the digest of the content (an image file's bytes, a text) inside a *space*: one
model, weights, preprocessing, precision and library version. Names never matter: a renamed image is
known, an overwritten one is not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vlood.features.atomic import write_atomically
from vlood.features.closing import ClosedAtExit
from vlood.features.keyed_rows import KeyedRows, list_parts
from vlood.features.parts import part_rows

log = logging.getLogger(__name__)

DEFAULT_LIMIT_BYTES = 10 * 10**9
# The names carry the format's version; they are distinctive because `clear` removes them whole,
# in a folder that the user may have chosen.
FEATURES_FOLDER = "vlood-features-1"
FILES_FOLDER = "vlood-files-1"
BANKS_FOLDER = "vlood-banks-1"
_KEY_FILE = "key.json"
# A cache must not take the last of a disk from the files a user asked for.
_RESERVE_BYTES = 256 << 20


@dataclass(frozen=True)
class SpaceInfo:
    """One space on disk: whose embeddings, how many, how large, when last used (Unix seconds)."""

    key: dict[str, str]
    rows: int
    size_bytes: int
    last_used: float


@dataclass(frozen=True)
class CacheInfo:
    """What a cache folder holds.

    ``files`` counts the image files whose digest is remembered, ``banks`` the negatives mined.
    """

    folder: Path
    limit_bytes: int | None
    size_bytes: int
    files: int
    spaces: tuple[SpaceInfo, ...]
    banks: int = 0


class FeatureSpace(ClosedAtExit):
    """Embeddings [N, dim] of one model under one setting, found by the digest of their content.

    Lookups may come from any thread. Nothing about the disk raises: see
    :class:`vlood.features.keyed_rows.KeyedRows`.
    """

    def __init__(self, rows: KeyedRows, key: Mapping[str, str]) -> None:
        self._rows = rows
        self.key = dict(key)

    @property
    def dim(self) -> int:
        """Return the width of an embedding."""
        return self._rows.dim

    @property
    def folder(self) -> Path:
        """Return where the space is kept."""
        return self._rows.folder

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows

    def get(self, digests: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the embeddings of contents that are in the space: float32 [n, dim].

        Raises:
            KeyError: a digest is not in the space.

        """
        return self._rows.get(digests).astype(np.float32, copy=False)

    def add(self, digests: Sequence[bytes], features: NDArray[np.floating]) -> None:
        """Buffer embeddings [n, dim] under 16-byte digests; those held already stay as they are.

        Raises:
            ValueError: shapes or digest lengths do not fit.

        """
        self._rows.add(digests, features)

    def commit(self) -> None:
        """Write what is buffered, so that it survives the process."""
        self._rows.commit()

    def close(self) -> None:
        """Commit and let go of the files."""
        self._rows.close()


class FeatureCache:
    """A folder of feature spaces, of bounded size.

    Args:
        folder: where it is; made when something is first written.
        limit_bytes: the size it is kept under by removing what was used longest ago; None for no
            limit.

    """

    def __init__(self, folder: Path, limit_bytes: int | None = DEFAULT_LIMIT_BYTES) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._opened = time.time()

    def space(
        self, key: Mapping[str, str], dim: int, dtype: DTypeLike = np.float32
    ) -> FeatureSpace:
        """Open the space of ``key``: everything but the content that decides an embedding.

        Args:
            key: for instance the weights' digest, preprocessing, precision and library version.
            dim: the width of an embedding.
            dtype: float32, or float16 to halve the size at the price of rounding.

        """
        stored = np.dtype(dtype)
        identity = {"key": dict(sorted(key.items())), "dim": dim, "dtype": stored.str}
        text = json.dumps(identity, sort_keys=True, ensure_ascii=True)
        name = blake2b(text.encode(), digest_size=16).hexdigest()
        folder = self.folder / FEATURES_FOLDER / name

        def before_write(size: int) -> str | None:
            refusal = self._make_room(size)
            if refusal is None and not (folder / _KEY_FILE).exists():
                with contextlib.suppress(OSError):
                    folder.mkdir(parents=True, exist_ok=True)
                    write_atomically(folder / _KEY_FILE, json.dumps(identity, indent=1).encode())
            return refusal

        return FeatureSpace(KeyedRows(folder, dim, stored, before_write=before_write), key)

    def info(self) -> CacheInfo:
        """Count what the cache holds, the most recently used space first."""
        spaces = [_space_info(folder) for folder in _folders(self.folder / FEATURES_FOLDER)]
        spaces.sort(key=lambda space: -space.last_used)
        digests = list_parts(self.folder / FILES_FOLDER)
        banks = _folders(self.folder / BANKS_FOLDER)
        size = sum(space.size_bytes for space in spaces) + sum(map(_size, digests))
        size += sum(_size(path) for bank in banks for path in bank.iterdir())
        files = sum(map(part_rows, digests))
        return CacheInfo(self.folder, self.limit_bytes, size, files, tuple(spaces), len(banks))

    def clear(self) -> int:
        """Remove every embedding, remembered digest and mined bank; return the bytes freed.

        Only vlood's own folders inside the cache folder are touched.
        """
        before = self.info().size_bytes
        for name in (FEATURES_FOLDER, FILES_FOLDER, BANKS_FOLDER):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return before - self.info().size_bytes

    def _make_room(self, size: int) -> str | None:
        """Remove parts until ``size`` more bytes fit; return why they cannot, or None.

        What this run has used stays: other threads may be about to read it.
        """
        refusal = self._disk_refusal(size)
        if refusal is not None or self.limit_bytes is None:
            return refusal
        parts = [
            (_used(path), _size(path), path)
            for folder in _folders(self.folder / FEATURES_FOLDER)
            for path in list_parts(folder)
        ]
        total = sum(part_size for _, part_size, _ in parts) + size
        for used, part_size, path in sorted(parts):
            if total <= self.limit_bytes or used >= self._opened:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                total -= part_size
                log.info("removed %s from the cache to keep its size limit", path)
            self._remove_if_empty(path.parent)
        if total > self.limit_bytes:
            return f"its size limit of {self.limit_bytes / 1e9:.3g} GB is reached"
        return None

    def _disk_refusal(self, size: int) -> str | None:
        place = self.folder
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            usage = shutil.disk_usage(place)
        except OSError:
            return None
        if usage.free < size + min(_RESERVE_BYTES, usage.total // 20):
            return f"the disk has only {usage.free / 1e6:.0f} MB free"
        return None

    @staticmethod
    def _remove_if_empty(folder: Path) -> None:
        if not list_parts(folder):
            with contextlib.suppress(OSError):
                (folder / _KEY_FILE).unlink(missing_ok=True)
                folder.rmdir()


def default_cache_folder() -> Path:
    """Return ``VLOOD_CACHE``, or the platform's cache folder for vlood."""
    chosen = os.environ.get("VLOOD_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("vlood", appauthor=False)


def _space_info(folder: Path) -> SpaceInfo:
    parts = list_parts(folder)
    key: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stored = json.loads((folder / _KEY_FILE).read_bytes())
        key = {str(name): str(value) for name, value in stored["key"].items()}
    return SpaceInfo(
        key=key,
        rows=sum(map(part_rows, parts)),
        size_bytes=sum(map(_size, parts)),
        last_used=max(map(_used, parts), default=0.0),
    )


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
