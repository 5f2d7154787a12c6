"""The command line: parse, call one function, print. Data on stdout, talk on stderr."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run ``vlood`` and exit: 0 done, 1 failed, 2 usage, 3 some inputs unreadable, 4 OOD found."""
    try:
        from vlood.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.stderr.flush()
        os._exit(130)
