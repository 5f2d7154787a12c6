"""Put a report's files on disk whole or not at all, and print names that are not plain text."""

from __future__ import annotations

import os
from pathlib import Path

from vlood.errors import VloodError


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it, making the folder if needed.

    Raises:
        VloodError: the folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise VloodError(
            f"Cannot write {printable(str(path))}: {reason}; choose a folder you can write to."
        ) from error


def printable(name: str) -> str:
    """Return `name` on one line with every character encodable.

    Line ends and runs of spaces become one space; the undecodable bytes of a file name show as
    escapes.
    """
    return " ".join(name.encode("utf-8", "backslashreplace").decode("utf-8").split())


def shortened(name: str, longest: int) -> str:
    """Return a printable name with its middle left out when it is too long."""
    line = printable(name)
    if len(line) <= longest:
        return line
    half = (longest - 1) // 2
    return f"{line[:half]}…{line[-half:]}"
