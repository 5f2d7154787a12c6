"""The prompt library: plain text files a user reads and edits.

A checkout keeps it in ``prompts/`` at its root; an installed package carries the same files in
``vlood/prompts/library``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlood.errors import UsageError, VloodError

KINDS = ("classes", "templates", "no")


def library_folder() -> Path:
    """Return the folder that holds ``classes/``, ``templates/`` and ``no/``.

    Raises:
        VloodError: the installation has lost it.
    """
    installed = Path(__file__).parent / "library"
    checkout = Path(__file__).parents[2] / "prompts"
    for folder in (installed, checkout):
        if (folder / "classes").is_dir():
            return folder
    raise VloodError(f"the prompt library is missing from {installed}; install vlood again")


def library_names(kind: str) -> tuple[str, ...]:
    """Return the names one can type for a kind of the library, sorted."""
    return tuple(sorted(path.stem for path in (library_folder() / kind).glob("*.txt")))


def library_file(kind: str, name: str) -> Path | None:
    """Return the library's file of this name, or None if there is none."""
    return library_folder() / kind / f"{name}.txt" if name in library_names(kind) else None


def is_folder_and_exists(path: Path) -> tuple[bool, bool]:
    """Say of what a user typed whether it is a folder, and whether it is there at all."""
    try:
        return path.is_dir(), path.exists()
    except (OSError, ValueError):  # longer than a file name may be, or a NUL in it: not a path
        return False, False


def read_lines(path: Path, option: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is neither blank nor a ``#`` comment.

    Spaces around a line are dropped, tabs are kept: they divide columns. A pipe is read as well as
    a file, so ``<(command)`` works in a shell.

    Args:
        path: the file.
        option: what the user typed it for, as in ``--classes``; errors begin with it.

    Raises:
        UsageError: the file is missing, unreadable, or not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{option} {path}: is not UTF-8 text (byte {error.start}); "
            "give a plain text file with one entry a line"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{option} {path}: cannot be read ({error.strerror or error}); check the name"
        ) from error
    # Not splitlines(): a form feed or a Unicode line separator inside a name is no new entry.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip(" \r")
