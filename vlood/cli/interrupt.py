"""What Ctrl-C does: leave at once, except where finished work has to be kept first.

Importing large libraries takes seconds, and some of them swallow an interrupt that arrives
meanwhile, or turn it into an error of their own. So outside `interruptible` blocks the process just
ends; inside, Ctrl-C raises `KeyboardInterrupt` as everywhere in Python.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130


def leave_on_interrupt() -> None:
    """Make Ctrl-C end this process at once, unless whoever started it has it ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C raise `KeyboardInterrupt` while the block runs."""
    if signal.getsignal(signal.SIGINT) is not _leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"vlood: stopped\n")
    os._exit(INTERRUPTED)
