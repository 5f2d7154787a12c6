"""Run `vlood` as a user does: another process, its exit code, its two streams."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .fork_server import ForkServer, Running

TIMEOUT = 120
CLASSES = "red thing,green thing,blue thing,grey thing"


@dataclass(frozen=True)
class Result:
    """What a run of the command left."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def sentence(self, code: int) -> str:
        """Check that the run failed with `code` and one `error:` line; return that line."""
        assert self.code == code, self.err
        errors = [line for line in self.err.splitlines() if "error:" in line.lower()]
        assert len(errors) == 1, self.err
        assert "Traceback" not in self.err
        assert len(errors[0]) < 600
        return errors[0]


Vlood = Callable[..., Result]
Many = Callable[..., list[Result]]

# Runs several commands in one process, where the fork server cannot: loading the model's libraries
# takes most of the time.
_MANY = """
import contextlib, io, json, os, sys
from vlood.cli import main
os._exit = sys.exit
results = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["vlood", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


def command() -> str:
    """Return the installed command: the one beside this interpreter, or the one on the path."""
    beside = Path(sys.executable).with_name("vlood")
    found = str(beside) if beside.exists() else shutil.which("vlood")
    if found is None:
        pytest.skip("vlood is not installed: pip install -e .")
    return found


def interruptible() -> None:
    """Undo an ignored Ctrl-C or a changed pipe signal that the test runner may hand down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment apart from the user's: own caches, no network, no colours."""
    base = tmp_path_factory.mktemp("home")
    dead = "http://127.0.0.1:9"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLOOD")}
    return {
        **kept,
        "VLOOD_CACHE": str(base / "cache"),
        "HF_HOME": str(base / "huggingface"),
        "TORCH_HOME": str(base / "torch"),
        "XDG_CACHE_HOME": str(base / "xdg"),
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), dead),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "COLUMNS": "120",
    }


@pytest.fixture(scope="session")
def fork_server(environment: dict[str, str]) -> Iterator[ForkServer | None]:
    """Start the process whose children run commands at once; None where nothing forks."""
    if sys.platform != "linux":
        yield None
        return
    server = ForkServer(environment)
    yield server
    server.close()


@pytest.fixture(scope="session")
def installed(environment: dict[str, str]) -> Vlood:
    """Return a function that runs the installed command, a process of its own, to its end."""

    def run(
        *arguments: str | Path,
        stdin: bytes | None = None,
        cwd: Path | None = None,
        extra: dict[str, str] | None = None,
        limit: float = TIMEOUT,
        **options: Any,
    ) -> Result:
        done = subprocess.run(
            [command(), *map(str, arguments)],
            input=b"" if stdin is None else stdin,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**environment, **(extra or {})},
            timeout=limit,
            **options,
        )
        return Result(
            done.returncode,
            (done.stdout or b"").decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "surrogateescape"),
        )

    return run


@pytest.fixture(scope="session")
def vlood(installed: Vlood, fork_server: ForkServer | None) -> Vlood:
    """Return a function that runs the command to its end.

    It runs in a child of the fork server, which starts at once. Whatever takes effect before
    `vlood` begins, a variable that libraries read or an option of the process, needs the installed
    command and gets it.
    """

    def run(
        *arguments: str | Path,
        stdin: bytes | None = None,
        cwd: Path | None = None,
        extra: dict[str, str] | None = None,
        limit: float = TIMEOUT,
        **options: Any,
    ) -> Result:
        early = [name for name in extra or {} if not name.startswith("VLOOD_")]
        if fork_server is None or early or set(options) - {"stdout"}:
            return installed(*arguments, stdin=stdin, cwd=cwd, extra=extra, limit=limit, **options)
        code, out, err = fork_server.run(
            [*map(str, arguments)],
            stdin=stdin or b"",
            stdout=options.get("stdout", subprocess.PIPE),
            cwd=cwd,
            extra=extra or {},
            limit=limit,
        )
        return Result(
            code, out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "surrogateescape")
        )

    return run


@pytest.fixture(scope="session")
def many(environment: dict[str, str], vlood: Vlood, fork_server: ForkServer | None) -> Many:
    """Return a function that runs several commands, one after another, at the price of one."""

    def run(*commands: Sequence[str | Path], **options: Any) -> list[Result]:
        if fork_server is not None and not set(options) - {"cwd"}:
            return [vlood(*one, **options) for one in commands]
        done = subprocess.run(
            [sys.executable, "-c", _MANY, json.dumps([list(map(str, one)) for one in commands])],
            capture_output=True,
            env=environment,
            timeout=120,
            **options,
        )
        assert done.returncode == 0, done.stderr.decode()
        return [Result(*each) for each in json.loads(done.stdout)]

    return run


@pytest.fixture(scope="session")
def start(environment: dict[str, str]) -> Callable[..., subprocess.Popen[bytes]]:
    """Return a function that starts the command and leaves it running."""

    def begin(
        arguments: Sequence[str | Path], extra: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [command(), *map(str, arguments)],
            stdin=options.pop("stdin", subprocess.DEVNULL),
            env={**environment, **(extra or {})},
            preexec_fn=interruptible,
            **options,
        )

    return begin


@pytest.fixture
def begin(
    start: Callable[..., subprocess.Popen[bytes]], fork_server: ForkServer | None
) -> Iterator[Callable[..., Any]]:
    """Return a function that starts the command in a forked child, for a signal while it works."""
    begun: list[Running] = []

    def fork(arguments: Sequence[str | Path], cwd: Path | None = None) -> Any:
        if fork_server is None:
            return start(arguments, cwd=cwd)
        nothing = os.open(os.devnull, os.O_RDONLY)
        begun.append(
            fork_server.begin(
                [*map(str, arguments)], stdin=nothing, cwd=cwd, extra={}, limit=TIMEOUT
            )
        )
        return begun[-1]

    yield fork
    for one in begun:
        if one.poll() is None:
            one.kill()
            one.communicate()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a tiny random CLIP in open_clip's folder layout; return it as a --model value."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(32, vision, text)
        for name, parameter in model.named_parameters():
            if name.endswith(("positional_embedding", "text_projection")):
                torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("tiny-model")
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of 70 different small pictures: more than two batches."""
    return write_pictures(tmp_path_factory.mktemp("few"), 70)


def write_pictures(folder: Path, count: int, side: int = 40, seed: int = 0) -> Path:
    """Write `count` different pictures, in sub-folders of 500."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for number in range(count):
        place = folder / f"class-{number // 500}"
        place.mkdir(parents=True, exist_ok=True)
        rough = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(rough).resize((side, side)).save(
            place / f"{number:05d}.png", compress_level=1
        )
    return folder


def at_terminal(environment: dict[str, str], arguments: Sequence[str | Path]) -> str:
    """Run the command with its stdout on a terminal of 120 columns; return what it shows."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [command(), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**environment, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    return shown.decode().replace("\r\n", "\n")
