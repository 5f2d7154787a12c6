"""What a person reads while a command runs: notes, warnings and progress, all on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vlood.cli.interrupt import interruptible

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_ERRORS = 20
"""Of more unreadable inputs than these only the number is said."""


def console() -> Console:
    """Return a console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def start_logging(quiet: bool) -> None:
    """Show the library's warnings on stderr, one line each; silence other packages' chatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("vlood: %(message)s"))
    logger = logging.getLogger("vlood")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(logging.NullHandler())
    logging.getLogger("py.warnings").propagate = False


def note(message: str, *, quiet: bool = False) -> None:
    """Say something that is good to know; not when quiet, nor when nobody is at a terminal."""
    if not quiet and sys.stderr.isatty():
        sys.stderr.write(f"vlood: {message}\n")


def warn(message: str, *, quiet: bool = False) -> None:
    """Say something the user should know even in a log file."""
    if not quiet:
        sys.stderr.write(f"vlood: {message}\n")
        sys.stderr.flush()


def warn_unreadable(reasons: Mapping[str, object], summary: str, *, quiet: bool) -> None:
    """Name the first inputs that could not be read, each with its reason, and sum up.

    Says nothing where all could be read.
    """
    from vlood.engines.printable import printable

    for path, reason in list(reasons.items())[:SHOWN_ERRORS]:
        warn(f"{printable(path)}: {printable(str(reason))}", quiet=quiet)
    if reasons:
        warn(summary, quiet=quiet)


class Progress:
    """A progress line with rate and time left; does nothing when nobody watches."""

    def __init__(self, label: str, total: int | None, shown: bool) -> None:
        self._bar = None
        if shown:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console(),
                transient=True,
            )
            self._task = self._bar.add_task(label, total=total, rate="", note="")
            self._bar.start()

    def advance(self, count: int, note: str = "") -> None:
        """Move on by ``count`` images or steps; ``note`` is shown beside the rate."""
        if self._bar is None:
            return
        self._bar.update(self._task, advance=count, rate=self._rate(), note=note)

    def reach(self, done: int, total: int, note: str = "") -> None:
        """Move on to ``done`` of ``total``, as a run that goes on does."""
        if self._bar is None:
            return
        self._bar.update(self._task, completed=done, total=total, rate=self._rate(), note=note)

    def _rate(self) -> str:
        assert self._bar is not None
        speed = self._bar.tasks[0].speed
        if not speed:
            return ""
        return f"{speed:.0f}/s" if speed >= 10 else f"{speed:.2g}/s"

    def stop(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(label: str, total: int | None, *, quiet: bool) -> Iterator[Progress]:
    """Show progress on stderr while the block runs, if stderr is a terminal.

    Ctrl-C raises `KeyboardInterrupt` in the block: the line is taken away, finished work kept.
    """
    with interruptible():
        bar = Progress(label, total, shown=not quiet and sys.stderr.isatty())
        try:
            yield bar
        finally:
            bar.stop()
