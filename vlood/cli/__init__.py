"""The command line: parse, call one function, print. Data on stdout, talk on stderr."""

from __future__ import annotations

import io
import os
import sys

from vlood.cli.interrupt import leave_on_interrupt


def main() -> None:
    """Run ``vlood`` and exit: 0 done, 1 failed, 2 usage, 3 some inputs unreadable, 4 OOD found."""
    try:
        leave_on_interrupt()
        # Records are UTF-8 whatever the locale says; a terminal knows best what it can show.
        if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8")
        from vlood.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.flush()
        os._exit(130)
