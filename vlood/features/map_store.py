"""Regional maps of many pictures in one memory-mapped file: read by rows, written once.

The file has its full size before the first map is written, so a disk that is too small is found
out at once. Filled in order, it goes on where it was stopped. Half precision: of a unit feature
that is a cosine to about 1e-4.

- ``maps.f16``: the maps, [N, V, R, D]
- ``maps.json``: what they are of, and how far they go
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError, VloodError
from vlood.features.atomic import write_atomically

MAPS_FILE = "maps.f16"
ABOUT_FILE = "maps.json"
BYTES_EACH = 2
_SCHEMA = 1
# Of the disk, left to the files that a user asked for.
_RESERVE_BYTES = 256 << 20

Shape = tuple[int, int, int, int]


def map_bytes(shape: Shape) -> int:
    """Return what maps of N pictures, V views, R regions and D numbers take on disk."""
    return int(np.prod(shape, dtype=np.int64)) * BYTES_EACH


class MapStore:
    """Maps of unit features, float16 [N, V, R, D], and how many of their parts are there.

    Args:
        folder: where it lies; made where it is missing. What is there of something else is
            replaced.
        shape: N, V, R and D.
        key: what the maps are of, JSON-able; the same key goes on with what is there.
        instead: what a user with too small a disk can do, for the end of a sentence.

    Raises:
        UsageError: the disk has less room than the maps need.
        VloodError: the folder cannot be written.
    """

    def __init__(self, folder: Path, shape: Shape, key: Mapping[str, Any], *, instead: str) -> None:
        self.folder, self.shape = folder, shape
        self._about = {"schema": _SCHEMA, "key": json.loads(json.dumps(key)), "shape": [*shape]}
        self._done = self._found()
        if self._done is None:
            self._make(instead)
            self._done = 0
        self._maps: NDArray[np.float16] = np.memmap(
            folder / MAPS_FILE, np.float16, "r+", shape=shape
        )

    @property
    def done(self) -> int:
        """Return how many parts are there, in whatever units they were counted."""
        return self._done or 0

    def write(self, rows: NDArray[np.int64], view: NDArray[np.int64], maps: NDArray[Any]) -> None:
        """Keep the maps [n, R, D] of n pictures' views; ``rows`` and ``view`` are [n]."""
        self._maps[rows, view] = maps

    def commit(self, done: int) -> None:
        """Make sure that what was written is there, and that so many parts are done.

        Raises:
            VloodError: the disk refuses it.
        """
        self._maps.flush()  # type: ignore[attr-defined]
        try:
            self._tell(done)
        except OSError as error:
            raise self._unwritable(error) from error
        self._done = done

    def read(self, rows: NDArray[np.int64], views: Sequence[int]) -> NDArray[np.float32]:
        """Return the maps of some pictures and views, float32 [n, len(views), R, D]."""
        return np.asarray(self._maps[rows[:, None], np.asarray(views)[None]], np.float32)

    def _found(self) -> int | None:
        """Return how far a store that is there goes, or None where it is none of this kind."""
        try:
            about = json.loads((self.folder / ABOUT_FILE).read_bytes())
            size = (self.folder / MAPS_FILE).stat().st_size
            done = about.pop("done")
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        if about != self._about or size != map_bytes(self.shape) or not isinstance(done, int):
            return None
        return done

    def _make(self, instead: str) -> None:
        """Take the room that the maps will fill."""
        needed = map_bytes(self.shape)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (ABOUT_FILE, MAPS_FILE):
                (self.folder / name).unlink(missing_ok=True)
            usage = shutil.disk_usage(self.folder)
            if usage.free < needed + min(_RESERVE_BYTES, usage.total // 20):
                raise UsageError(
                    f"{self.folder}: the regional maps need {size_text(needed)} and the disk has "
                    f"{size_text(usage.free)} free; free some space, or {instead}"
                )
            with open(self.folder / MAPS_FILE, "wb") as stream:
                # A hole in a file is no room: writing into one through memory ends the process.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(stream.fileno(), 0, needed)
                else:
                    stream.truncate(needed)
            self._tell(0)
        except OSError as error:
            with contextlib.suppress(OSError):
                (self.folder / MAPS_FILE).unlink(missing_ok=True)
            raise self._unwritable(error) from error

    def _tell(self, done: int) -> None:
        text = json.dumps({**self._about, "done": done}) + "\n"
        write_atomically(self.folder / ABOUT_FILE, text.encode())

    def _unwritable(self, error: OSError) -> VloodError:
        return VloodError(
            f"{self.folder}: the regional maps cannot be written ({error.strerror or error}); free "
            "some space or choose another -o"
        )


def size_text(count: int) -> str:
    """Return a number of bytes for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
