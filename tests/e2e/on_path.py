"""A `vlood` on the PATH that starts in milliseconds: the fork server runs it.

What is on the PATH is a script of a few lines that hands its arguments, folder, environment and
streams to the fork server, and ends with the command's exit code. So a shell, a pipe or a loop can
use it as if it were the installed one.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .fork_server import LONGEST_REQUEST, ForkServer

_SHIM = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
sys.exit(int(server.recv(100)))
"""


@contextmanager
def on_path(
    server: ForkServer | None,
    folder: Path,
    change: Callable[[list[str]], list[str]] = lambda arguments: arguments,
) -> Iterator[str]:
    """Give a PATH whose `vlood` is a child of the fork server; the installed one without it.

    `change` makes other arguments of those that were asked for; the installed command gets them
    unchanged.
    """
    usual = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if server is None:
        yield usual
        return
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(folder / "asked"))
    listener.listen()

    def answer() -> None:
        while True:
            try:
                asking, _ = listener.accept()
            except OSError:
                return
            with asking:
                data, streams, _, _ = socket.recv_fds(asking, LONGEST_REQUEST, 3)
                request = json.loads(data)
                request["arguments"] = change(request["arguments"])
                code = server.forward(json.dumps(request).encode(), streams)
                asking.send(str(code).encode())

    threading.Thread(target=answer, daemon=True).start()
    shim = folder / "vlood"
    shim.write_text(_SHIM.format(python=sys.executable, address=str(folder / "asked")))
    shim.chmod(0o755)
    yield f"{folder}{os.pathsep}{usual}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
