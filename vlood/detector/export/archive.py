"""A detector's folder as one .tar, the same bytes wherever and whenever it is made."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from vlood.detector.export.members import members_of
from vlood.features.atomic import atomic_file

COMPRESSED = (".tar.gz", ".tgz")


def write_archive(source: Path, target: Path) -> int:
    """Write a detector's files under one folder of the source's name; return how many.

    Sorted, without times and owners. A name that ends in .tar.gz or .tgz is compressed.

    Raises:
        OSError: the place cannot be written; nothing is left behind.
    """
    names = members_of(source)
    top = source.resolve().name or "detector"
    with atomic_file(target) as stream:
        if target.name.lower().endswith(COMPRESSED):
            # No file name and no time in the header.
            with gzip.GzipFile("", "wb", 9, stream, mtime=0) as packed:
                _write(packed, source, top, names)
        else:
            _write(stream, source, top, names)
    return len(names)


def _write(stream: IO[bytes] | gzip.GzipFile, source: Path, top: str, names: list[str]) -> None:
    folders = {top}
    for name in names:
        folders |= {f"{top}/{parent}" for parent in PurePosixPath(name).parents[:-1]}
    files = {f"{top}/{name}": source.joinpath(*PurePosixPath(name).parts) for name in names}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted({*folders, *files}):
            entry = tarfile.TarInfo(name)
            if name in folders:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry, io.BytesIO())
                continue
            entry.mode, entry.size = 0o644, files[name].stat().st_size
            with open(files[name], "rb") as content:
                archive.addfile(entry, content)
