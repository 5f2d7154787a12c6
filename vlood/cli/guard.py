"""One place that turns what can go wrong into a sentence and an exit code."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import NoReturn, TypeVar

import typer

from vlood.cli.interrupt import INTERRUPTED
from vlood.cli.talk import warn
from vlood.errors import VloodError

Command = TypeVar("Command", bound=Callable[..., None])

FAILED = 1
SOME_UNREADABLE = 3
OOD_FOUND = 4

# A command that runs others, as the demo does, cleans up after them before it says what went wrong.
_running: ContextVar[bool] = ContextVar("running", default=False)


def guarded(command: Command) -> Command:
    """Run a command so that no mistake of the user's ends in a traceback.

    ``VLOOD_DEBUG=1`` lets every error through, and so does a command run by another one, which
    catches it.
    """

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        if _running.get() or os.environ.get("VLOOD_DEBUG") == "1":
            command(*arguments, **options)
            return
        mark = _running.set(True)
        try:
            command(*arguments, **options)
            sys.stdout.flush()
        except VloodError as error:
            warn(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            # The reader of our output has all it wanted: that is no failure.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            warn("stopped")
            leave(INTERRUPTED)
        except OSError as error:
            warn(f"error: {_system_error(error)}")
            leave(FAILED)
        except MemoryError:
            warn("error: out of memory; use a smaller --batch-size")
            leave(FAILED)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warn(
                f"error: this is a bug in vlood ({reason[:300]}); run it again with "
                "VLOOD_DEBUG=1 and report what that shows"
            )
            leave(FAILED)
        finally:
            _running.reset(mark)

    return run  # type: ignore[return-value]


def _system_error(error: OSError) -> str:
    """Say what the operating system refused, and of which file, as far as it tells."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the output cannot be written: the disk is full; free some space"
    from vlood.engines.printable import printable

    what = f"{printable(str(error.filename))}: " if error.filename else ""
    return f"{what}{error.strerror or error}; check the place and its permissions"


def leave(code: int) -> NoReturn:
    """Exit at once: decoding threads may sit in a long read, and nothing is left to save."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue
    os._exit(code)
