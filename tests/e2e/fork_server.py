"""One process that has imported all the commands import, and forks for each of them.

Starting the installed command takes seconds, nearly all of it for importing torch. A forked child
runs the same `vlood.cli.main` as a true process does: its own arguments, folder, environment and
three streams, its own exit code. What it cannot show is start-up: which variables libraries read
while they are imported, signals meanwhile, what is imported when.

Run as a script it is the server; `ForkServer` is the tests' end. A request is one datagram: JSON,
with the descriptors of the child's streams. The answers are the child's id and its exit status.
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

READY = b"ready"
LONGEST_REQUEST = 1 << 20
# Besides every module of vlood: what commands import while they run.
IMPORTED = (
    *("accelerate", "faiss", "jinja2", "peft", "platformdirs", "pyarrow.parquet", "simplemma"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "matplotlib.figure"),
    *("PIL.Image", "rich.markdown", "rich.progress", "rich.table", "safetensors.torch"),
    *("scipy.optimize", "scipy.signal", "scipy.sparse.csgraph", "scipy.special", "scipy.stats"),
    *("sklearn.isotonic", "sklearn.linear_model", "sklearn.metrics", "sklearn.mixture"),
    *("sklearn.model_selection", "timm.data", "torchvision.transforms", "typer._adapters"),
    *("typer.rich_utils",),
)
# pyarrow's allocator would start a thread; threads do not fork.
NO_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}


class ForkServer:
    """Starts the server; runs commands in its children, one at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._turn = threading.Lock()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env={**environment, **NO_THREAD},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        if self._ours.recv(100) != READY:
            raise RuntimeError("the fork server did not start: its error stands above")

    def run(
        self,
        arguments: Sequence[str],
        *,
        stdin: bytes,
        stdout: int | IO[Any],
        cwd: Path | None,
        extra: dict[str, str],
        limit: float,
    ) -> tuple[int, bytes, bytes]:
        """Run a command to its end; return its exit code and what it wrote to its two streams."""
        feed = os.pipe()
        running = self.begin(
            arguments, stdin=feed[0], stdout=stdout, cwd=cwd, extra=extra, limit=limit
        )
        _write(feed[1], stdin)
        out, err = running.communicate()
        return running.returncode or 0, out, err

    def begin(
        self,
        arguments: Sequence[str],
        *,
        stdin: int,
        stdout: int | IO[Any] = subprocess.PIPE,
        cwd: Path | None,
        extra: dict[str, str],
        limit: float,
    ) -> Running:
        """Start a command and leave it running; others wait until it has been waited for.

        ``stdin`` is a descriptor, which this closes. The command is killed after ``limit`` seconds.
        """
        request = {
            "arguments": list(arguments),
            "cwd": str(cwd or Path.cwd()),
            "environment": {**self._environment, **extra},
        }
        (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe()
        streams, closed = [stdin, out_write, err_write], [stdin, out_write, err_write]
        if stdout == subprocess.DEVNULL:
            streams[1] = os.open(os.devnull, os.O_WRONLY)
            closed.append(streams[1])
        elif stdout != subprocess.PIPE:
            streams[1] = stdout if isinstance(stdout, int) else stdout.fileno()
        self._turn.acquire()
        socket.send_fds(self._ours, [json.dumps(request).encode()], streams)
        for end in closed:
            os.close(end)
        child = int(self._ours.recv(100))
        return Running(self._ours, self._turn, child, (out_read, err_read), arguments, limit)

    def forward(self, request: bytes, streams: Sequence[int], limit: float = 120) -> int:
        """Run a command on streams that are given, to its end; return its exit code.

        The request is JSON: ``arguments``, ``cwd`` and ``environment``. A command that takes longer
        than the limit, in seconds, is killed.
        """
        with self._turn:
            socket.send_fds(self._ours, [request], list(streams))
            for stream in streams:
                os.close(stream)
            late = threading.Timer(limit, os.kill, (int(self._ours.recv(100)), signal.SIGKILL))
            late.start()
            code = int(self._ours.recv(100))
            late.cancel()
            return code

    def close(self) -> None:
        """End the server."""
        self._ours.close()
        self._process.wait(timeout=30)


class Running:
    """A command that the server runs: what `subprocess.Popen` offers of a process."""

    def __init__(
        self,
        connection: socket.socket,
        turn: threading.Lock,
        pid: int,
        streams: tuple[int, int],
        arguments: Sequence[str],
        limit: float,
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection, self._turn = connection, turn
        self._arguments, self._limit = arguments, limit
        self._read: dict[int, bytes] = {}
        self._streams = streams
        self._readers = [threading.Thread(target=_read, args=(end, self._read)) for end in streams]
        self._late = threading.Timer(limit, os.kill, (pid, signal.SIGKILL))
        for thread in (*self._readers, self._late):
            thread.start()

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self._wait()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the command, as `kill -9` does."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Wait for the end; return what was written to stdout and stderr."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(["vlood", *self._arguments], timeout or 0)
            self._wait()
        out, err = (self._read[end] for end in self._streams)
        return out, err

    def _wait(self) -> None:
        self.returncode = int(self._connection.recv(100))
        in_time = self._late.is_alive()
        self._late.cancel()
        self._turn.release()
        for reader in self._readers:
            reader.join()
        if not in_time:
            what = ["vlood", *self._arguments]
            raise subprocess.TimeoutExpired(what, self._limit, *self._read.values())


def _read(end: int, read: dict[int, bytes]) -> None:
    with open(end, "rb") as stream:
        read[end] = stream.read()


def _write(end: int, data: bytes) -> None:
    try:
        with open(end, "wb", buffering=0) as stream:
            view = memoryview(data)
            while view:
                view = view[stream.write(view) :]
    except BrokenPipeError:  # the command had read enough
        pass


def serve(connection: socket.socket) -> bool:
    """Fork for each request; return in each child, and, when nobody asks any more, False."""
    while True:
        request, streams, _, _ = socket.recv_fds(connection, LONGEST_REQUEST, 3)
        if not request:
            return False
        child = os.fork()
        if child == 0:
            connection.close()
            become(json.loads(request), streams)
            return True
        for stream in streams:
            os.close(stream)
        connection.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Make this process look like the command that was asked for, freshly started."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number, inheritable=True)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = map(_anew, (sys.stdin, sys.stdout, sys.stderr))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started us may ignore it
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    sys.argv = ["vlood", *request["arguments"]]


def _anew(stream: Any) -> io.TextIOWrapper:
    """Make a stream of the same kind on the same descriptor, which is another file now."""
    return io.TextIOWrapper(
        os.fdopen(stream.fileno(), stream.mode + "b", closefd=False),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def import_all() -> None:
    """Import all of vlood and what it needs, without starting a thread: threads do not fork."""
    import importlib
    import pkgutil

    import vlood

    rooms = (module.name for module in pkgutil.walk_packages(vlood.__path__, "vlood."))
    for name in (*IMPORTED, *rooms):
        if not name.endswith("__main__"):
            importlib.import_module(name)
    sys.modules["PIL.Image"].init()
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and len(list(tasks.iterdir())) > 1:
        raise RuntimeError("an import started a thread; the server cannot fork")
    build_commands_once()


def build_commands_once() -> None:
    """Let Typer make its commands of the app here, not in every child: that takes 0.2 s."""
    import typer.main

    from vlood.cli.app import app

    made, make = typer.main.get_command(app), typer.main.get_command
    typer.main.get_command = lambda typed: made if typed is app else make(typed)


def run() -> int:
    """Run the command; return its exit code as the interpreter would."""
    from vlood.cli import main

    try:
        main()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end(code: int) -> None:
    """End this process as the interpreter would, less the taking apart of every module.

    That would copy all the memory that is shared with the server, which takes a second.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            code = 120
            if stream is sys.stdout:
                print(f"Exception ignored while flushing: {error!r}", file=sys.stderr)
    os._exit(code)


if __name__ == "__main__":
    del sys.path[0]  # the tests' folder: the installed command has no such entry
    asking = socket.socket(fileno=int(sys.argv[1]))
    import_all()
    asking.send(READY)
    gc.collect()
    gc.freeze()  # a collection in a child would copy all that is shared
    if serve(asking):
        end(run())
