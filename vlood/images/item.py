"""One image to be read: a file, a member of a tar shard, or an entry that cannot be read at all."""

# Paths stay the text the user gave, which pathlib would rewrite.
# ruff: noqa: PTH114, PTH115, PTH116

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from vlood.errors import ImageError

MAX_FILE_BYTES = 1 << 30
"""A file above 1 GiB is taken for something else than one picture and is not read into memory."""


@dataclass(frozen=True)
class ImageItem:
    """Name one image and say where its bytes lie.

    `path` is what records show; names that are not UTF-8 are kept as surrogate-escaped text. A
    member of a tar shard has `shard` (the tar's path) and the place of its bytes in it. An entry
    already known to be unreadable (a bad line of a list, a damaged shard) carries `fault`.
    """

    path: str
    label: str | None = None
    shard: str | None = None
    offset: int = 0
    size: int = 0
    fault: str | None = None

    def read(self) -> bytes:
        """Return the bytes of the image, never waiting on a pipe.

        Raises:
            ImageError: the file is missing, is not a regular file, is empty or cannot be read.

        """
        if self.fault is not None:
            raise ImageError(self.fault)
        try:
            data = self._read_member() if self.shard is not None else self._read_file()
        except FileNotFoundError:
            raise ImageError(_missing(self.shard or self.path)) from None
        except PermissionError:
            raise ImageError(
                "the file may not be read: permission denied, change its mode or owner"
            ) from None
        except OSError as error:
            raise ImageError(f"the file cannot be read: {error.strerror or error}") from None
        except ValueError:
            raise ImageError(
                "the name is not one a file can have (it holds a null byte or a "
                "character the file system cannot store)"
            ) from None
        if not data:
            raise ImageError("the file is empty (0 bytes)")
        return data

    def stat(self) -> os.stat_result | None:
        """Return the state of the regular file behind this item, or None where there is none.

        Members of shards have no state of their own, so they give None too.
        """
        if self.shard is not None or self.fault is not None:
            return None
        try:
            found = os.stat(self.path)
        except (OSError, ValueError):
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def _read_file(self) -> bytes:
        descriptor = _open_regular(self.path)
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def _read_member(self) -> bytes:
        assert self.shard is not None
        if self.size > MAX_FILE_BYTES:
            raise ImageError(_too_large(self.size))
        descriptor = _open_regular(self.shard, limit=None)
        with os.fdopen(descriptor, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise ImageError(
                f"the shard {self.shard} ends before this member does; it is cut short or changed"
            )
        return data


def _open_regular(path: str, limit: int | None = MAX_FILE_BYTES) -> int:
    """Open a regular file without ever blocking; refuse everything that is not one."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    # Looked at before opening too, because opening a device can already do something.
    _refuse_unusual(os.stat(path), limit)
    descriptor = os.open(path, flags)
    try:
        _refuse_unusual(os.fstat(descriptor), limit)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_unusual(state: os.stat_result, limit: int | None) -> None:
    mode = state.st_mode
    if stat.S_ISDIR(mode):
        raise ImageError("it is a folder, not an image file")
    if stat.S_ISFIFO(mode):
        raise ImageError("it is a named pipe (FIFO), not an image file")
    if not stat.S_ISREG(mode):
        raise ImageError("it is a device or a socket, not an image file")
    if limit is not None and state.st_size > limit:
        raise ImageError(_too_large(state.st_size))


def _too_large(size: int) -> str:
    return f"the file has {size:,} bytes, more than the {MAX_FILE_BYTES:,} an image may have"


def _missing(path: str) -> str:
    if os.path.islink(path):
        return f"the link is broken: it points to {os.readlink(path)}, which does not exist"
    return "the file does not exist"
