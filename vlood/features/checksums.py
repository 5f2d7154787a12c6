"""Digests of files, by which folders are verified when they are read."""

from __future__ import annotations

import hashlib
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, hex, reading it a piece at a time.

    Raises:
        OSError: it cannot be read.

    """
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
