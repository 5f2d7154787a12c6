"""Where an export goes: refused before anything slow is done, written whole or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from vlood.errors import UsageError, VloodError
from vlood.features.atomic import atomic_file


def check_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where no file can be, or one that is taken.

    Raises:
        UsageError: its folder does not exist, it is a folder, or it exists and may not be replaced.
    """
    if not path.parent.is_dir():
        raise UsageError(f"-o {path}: the folder {path.parent} does not exist; make it")
    if path.is_dir():
        raise UsageError(f"-o {path}: is a folder; name a file")
    if path.exists() and not overwrite:
        raise UsageError(f"-o {path}: exists already; use --overwrite, or another name")


def check_folder(path: Path, *, mark: str, overwrite: bool) -> None:
    """Refuse a place where no folder can be; only an earlier export of the kind is replaced.

    Args:
        path: the folder.
        mark: a file that an export of the kind always has, relative to its folder.
        overwrite: whether an earlier export may be replaced.

    Raises:
        UsageError: something else is there, or an earlier export that may not be replaced.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"-o {path}: is a file; name a folder")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / mark).is_file():
        raise UsageError(f"-o {path}: is not empty and no earlier export; name a new folder")
    if not overwrite:
        raise UsageError(f"-o {path}: exists already; use --overwrite, or another folder")


def check_outside(path: Path, source: Path) -> None:
    """Refuse to write into the folder that is exported.

    Raises:
        UsageError: the place is in it.
    """
    if source.resolve() in (path.resolve(), *path.resolve().parents):
        raise UsageError(f"-o {path}: lies in the folder that is exported; name a place outside it")


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write small files so that all of them appear, or, where one cannot be written, none.

    Raises:
        OSError: a place cannot be written; nothing is left behind.
    """
    with contextlib.ExitStack() as stack:
        for path, data in files.items():
            stream = stack.enter_context(atomic_file(path))
            stream.write(data)
            # A full disk must show here, before the first of them takes its name.
            stream.flush()


def check_writable(path: Path) -> None:
    """Find out at once, before anything slow is done, whether a file can be made at a place.

    Raises:
        OSError: it cannot.
    """
    with tempfile.TemporaryFile(dir=path.parent):
        pass


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the system says of a place into a sentence.

    Raises:
        VloodError: the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise VloodError(
            f"-o {path}: cannot be written ({reason}); choose another place"
        ) from error
