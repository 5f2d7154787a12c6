"""The errors a user can act on. Everything else is a bug and keeps its traceback."""

from __future__ import annotations


class VloodError(Exception):
    """A failure told in one sentence: what it is about, what was expected, what to do."""

    exit_code = 1


class UsageError(VloodError):
    """What was typed cannot be done: an option, a value or an input is wrong."""

    exit_code = 2


class ImageError(VloodError):
    """One image cannot be read; the run goes on and its record says why."""
