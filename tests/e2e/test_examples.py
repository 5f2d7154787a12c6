"""The pipelines of scripts/examples run to their end, with what they promise to print."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fork_server import ForkServer
from .on_path import on_path

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


@pytest.fixture(scope="module")
def path(fork_server: ForkServer | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with on_path(fork_server, tmp_path_factory.mktemp("bin")) as path:
        yield path


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
