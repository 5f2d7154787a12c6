"""The pipelines of scripts/examples run to their end, with what they promise to print."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fork_server import LONGEST_REQUEST, ForkServer

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
NAMES = sorted(
    path.name for path in EXAMPLES.iterdir() if path.read_bytes().startswith(b"#!/usr/bin/env bash")
)
PRINTED = {
    "calibrate-and-alarm": "alarm: ",
    "clean-a-folder": " suspects, ",
    "few-shot-to-export": "2 rows of results",
    "jsonl-without-jq": " are strange",
    "mine-and-eval": "neglabel AUROC ",
    "stdin-and-shards": "36 from stdin, 78 from the store",
}

# A `vlood` that starts in milliseconds: the fork server runs it on this program's own streams.
_SHIM = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
sys.exit(int(server.recv(100)))
"""


@pytest.fixture(scope="module")
def path(fork_server: ForkServer | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a PATH whose `vlood` is a child of the fork server; the installed one without it."""
    usual = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if fork_server is None:
        yield usual
        return
    folder = tmp_path_factory.mktemp("bin")
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
                request, streams, _, _ = socket.recv_fds(asking, LONGEST_REQUEST, 3)
                asking.send(str(fork_server.forward(request, streams)).encode())

    threading.Thread(target=answer, daemon=True).start()
    shim = folder / "vlood"
    shim.write_text(_SHIM.format(python=sys.executable, address=str(folder / "asked")))
    shim.chmod(0o755)
    yield f"{folder}{os.pathsep}{usual}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    subprocess.run([sys.executable, EXAMPLES / "draw", folder], check=True)
    return folder


def test_the_readme_and_the_tests_know_every_example() -> None:
    assert sorted(PRINTED) == NAMES
    text = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}`" in text for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(
    name: str, path: str, pictures: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [EXAMPLES / name, pictures],
        capture_output=True,
        text=True,
        env={**environment, "PATH": path, "TMPDIR": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert PRINTED[name] in done.stdout, done.stdout + done.stderr
