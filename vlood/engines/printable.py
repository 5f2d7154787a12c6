"""Paths as text: on one line of a terminal, or in a cell of a flat format."""

from __future__ import annotations


def path_cell(path: str) -> str:
    """Write a path as flat formats hold it: bytes that are not UTF-8 as backslash escapes."""
    try:
        data = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A surrogate that no file name gives, only a list somebody wrote.
        data = path.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def printable(path: str) -> str:
    """Show a path on one line of valid text, whatever bytes and line breaks it holds."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in path_cell(path)
    )
