"""Killed or interrupted anywhere, a run goes on to the very bytes it would have written.

`VLOOD_KILLS=10 VLOOD_KILL_IMAGES=3000` runs the kill test at its full length.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.engines.record_files import read_json_lines, write_parquet
from vlood.engines.records import COLUMNS, CsvLines
from vlood.features.store import EmbeddingStore

from .conftest import CLASSES, Result, Vlood, write_pictures

KILLS = int(os.environ.get("VLOOD_KILLS", "3"))
IMAGES = int(os.environ.get("VLOOD_KILL_IMAGES", "1200"))
# A hang is what is looked for: the promise of 3 s is for a machine that does nothing else.
STOPPED_WITHIN = 15

Start = Callable[..., "subprocess.Popen[bytes]"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_pictures(tmp_path_factory.mktemp("many"), IMAGES, seed=1)
    # Contents that come again, and unreadable ones, in other batches than the first.
    for number in range(0, IMAGES, IMAGES // 7):
        name = f"{number:05d}"
        original = next(folder.rglob(f"{name}.png"))
        shutil.copy(original, original.parents[1] / "class-0" / f"{name}-again.png")
        (folder / "class-0" / f"{name}-broken.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def command(images: Path, tiny: str) -> list[str | Path]:
    return ["score", images, "--model", tiny, "--classes", CLASSES, "--batch-size", "16", "-q"]


@pytest.fixture(scope="module")
def whole(
    vlood: Vlood, command: list[str | Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the records of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    done = vlood(*command, "--no-cache", "-o", out)
    assert done.code == 3, done.err
    assert sum(1 for _ in read_json_lines(out)) == IMAGES + 2 * len(range(0, IMAGES, IMAGES // 7))
    return out


def say(figure: str) -> None:
    """Leave a figure in the test's own output, for whoever asks with -rP."""
    sys.stdout.write(figure + "\n")


def lines_of(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def killed_at(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Kill a run -9 as soon as `ready()`; a run that ends before is let end."""
    while process.poll() is None and not ready():
        time.sleep(0.002)
    process.kill()
    process.communicate()


def moments(count: int, partial: Path, cache: Path | None) -> Iterator[Callable[[], bool]]:
    """Yield conditions for `count` kills: during start-up, and after ever more records."""
    rng = random.Random(5)
    shares = sorted(rng.uniform(0.0, 0.95) for _ in range(count - 1))
    began = time.monotonic()
    yield lambda: time.monotonic() > began + 1.5
    for share in shares:
        # With a cache records come in bursts: a moment after this run's first write to it.
        held, late = files_in(cache), rng.uniform(0.0, 1.2)
        first_seen: list[float] = []

        def ready(
            share: float = share,
            held: int = held,
            late: float = late,
            first_seen: list[float] = first_seen,
        ) -> bool:
            if cache is None:
                return lines_of(partial) > share * IMAGES
            if not first_seen and files_in(cache) > held:
                first_seen.append(time.monotonic())
            return bool(first_seen) and time.monotonic() > first_seen[0] + late

        yield ready


def files_in(folder: Path | None) -> int:
    return 0 if folder is None else sum(path.is_file() for path in folder.rglob("*"))


@pytest.mark.parametrize("cached", [False, True], ids=["no-cache", "own-cache"])
def test_a_run_killed_again_and_again_gives_the_same_bytes(
    cached: bool,
    command: list[str | Path],
    whole: Path,
    start: Start,
    begin: Start,
    vlood: Vlood,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.jsonl"
    cache = tmp_path / "cache" if cached else None
    options = ["--cache", cache] if cache is not None else ["--no-cache"]
    left = []
    kills = 2 if cached and KILLS == 3 else KILLS
    for number, ready in enumerate(moments(kills, Path(f"{out}.partial"), cache)):
        # The first is killed while it starts; what is killed at work need not start anew.
        run = begin if number else start
        killed_at(run([*command, *options, "-o", out, "--resume"]), ready)
        left.append(lines_of(Path(f"{out}.partial")))
    say(f"records on disk at each kill: {left}")
    done = vlood(*command, *options, "-o", out, "--resume")
    assert done.code == 3, done.err
    assert out.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} <= {"out.jsonl", "cache"}


@pytest.mark.skipif(KILLS < 10, reason="set VLOOD_KILLS=10 to run it")
@pytest.mark.timeout(1800)
def test_ten_runs_killed_once_each_give_the_same_bytes(
    command: list[str | Path], whole: Path, start: Start, vlood: Vlood, tmp_path: Path
) -> None:
    for number, ready in enumerate(moments(KILLS, tmp_path / "out.jsonl.partial", None)):
        out = tmp_path / "out.jsonl"
        options = ["--cache", tmp_path / f"cache-{number}"] if number % 2 else ["--no-cache"]
        killed_at(start([*command, *options, "-o", out]), ready)
        say(f"kill {number}: {lines_of(Path(f'{out}.partial'))} records on disk")
        done = vlood(*command, *options, "-o", out, "--resume")
        assert done.code == 3, done.err
        assert out.read_bytes() == whole.read_bytes()
        out.unlink()


def test_flat_formats_are_resumed_too(
    command: list[str | Path], whole: Path, begin: Start, vlood: Vlood, tmp_path: Path
) -> None:
    outs = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "parquet")}
    partial = Path(f"{outs['csv']}.partial")
    arguments = [*command, "--no-cache", "--resume", "-o"]
    killed_at(begin([*arguments, outs["csv"]]), lambda: lines_of(partial) > 100)
    assert lines_of(partial) > 100
    # Until it is complete the file is the same in every format.
    for ending in ("partial", "partial.json"):
        shutil.copy(f"{outs['csv']}.{ending}", f"{outs['parquet']}.{ending}")
    columns, expected = (*COLUMNS, "error"), tmp_path / "expected"
    for kind, out in outs.items():
        done = vlood(*arguments, out)
        assert done.code == 3, done.err
        if kind == "csv":
            with open(expected, "w", encoding="utf-8", newline="") as stream:
                CsvLines(stream, columns).write(list(read_json_lines(whole)))
        else:
            write_parquet(expected, read_json_lines(whole), columns)
        assert out.read_bytes() == expected.read_bytes()
        # Complete is complete: the exit code stays, and nothing is scored again.
        again = vlood(*arguments, out)
        assert again.code == 3, again.err
        assert out.read_bytes() == expected.read_bytes()
        assert "other inputs" in vlood(*arguments, out, whole).sentence(2)
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", "out.parquet", "expected"}


def test_other_inputs_or_settings_are_not_resumed(
    command: list[str | Path], images: Path, begin: Start, vlood: Vlood, few: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    partial = Path(f"{out}.partial")
    classes = tmp_path / "classes.txt"
    classes.write_text("cat\ndog\n")
    listed = tmp_path / "list.txt"
    paths = [str(path) for path in sorted(images.rglob("*.png"))]
    listed.write_text("\n".join(paths))
    model = command[command.index("--model") + 1]
    arguments = ["score", listed, "--model", model, "--classes", classes, "--no-cache", "-o", out]
    killed_at(begin(arguments), lambda: lines_of(partial) > 300)
    before = partial.read_bytes()
    # The same command, but the files it names say something else.
    classes.write_text("cat\ncow\n")
    assert "classes" in vlood(*arguments, "--resume").sentence(2)
    classes.write_text("cat\ndog\n")
    listed.write_text("\n".join(paths[1:]))
    assert "inputs changed" in vlood(*arguments, "--resume").sentence(2)
    assert partial.read_bytes()[: len(before) // 2] == before[: len(before) // 2]
    assert not out.exists()


def stopped(process: subprocess.Popen[bytes]) -> tuple[Result, float]:
    """Send Ctrl-C and wait; return what came and the seconds it took."""
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = process.communicate(timeout=STOPPED_WITHIN)
    seconds = time.monotonic() - began
    say(f"stopped {seconds:.2f} s after Ctrl-C")
    return Result(process.returncode, out.decode(), err.decode()), seconds


def test_ctrl_c_keeps_what_is_finished(
    command: list[str | Path], whole: Path, begin: Start, vlood: Vlood, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    partial = Path(f"{out}.partial")
    arguments = [*command, "--no-cache", "-o", out]
    process = begin(arguments)
    while lines_of(partial) < 100:
        assert process.poll() is None
        time.sleep(0.002)
    done, _ = stopped(process)
    assert done.code == 130, done.err
    assert "--resume" in done.err
    assert "Traceback" not in done.err
    kept = lines_of(partial)
    assert kept >= 100
    assert [json.loads(line) for line in partial.read_text().splitlines()[:kept]]
    assert vlood(*arguments, "--resume").code == 3
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("after", [0.15, 0.7, 2.0])
def test_ctrl_c_while_starting(after: float, command: list[str | Path], start: Start) -> None:
    process = start(command)
    time.sleep(after)
    done, _ = stopped(process)
    if after > 0.5:
        assert done.code == 130, done.err
        assert "Traceback" not in done.err
    # Earlier, Python itself may not be up yet; it must end all the same.
    assert done.code != 0


def same_store(one: Path, other: Path) -> None:
    left, right = EmbeddingStore.open(one, verify=True), EmbeddingStore.open(other, verify=True)
    assert left.ids == right.ids
    assert left.labels == right.labels
    assert sorted(left.errors) == sorted(right.errors)
    np.testing.assert_array_equal(left.features(), right.features())


def test_embed_is_resumed_after_a_kill_and_after_ctrl_c(
    images: Path, tiny: str, begin: Start, vlood: Vlood, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "store"
    arguments: list[Any] = ["embed", images, "--model", tiny, "--batch-size", "16", "--no-cache"]
    killed_at(begin([*arguments, "-o", out]), lambda: (out / "part-000001.jsonl").exists())
    parts = len(list(out.glob("part-*.jsonl")))
    process = begin([*arguments, "-o", out, "--resume"])
    while len(list(out.glob("part-*.jsonl"))) == parts:
        assert process.poll() is None
        time.sleep(0.002)
    done, _ = stopped(process)
    assert done.code == 130, done.err
    finished = vlood(*arguments, "-o", out, "--resume")
    assert finished.code == 3, finished.err
    store = EmbeddingStore.open(out, verify=True)
    records = list(read_json_lines(whole))
    assert store.ids == [one["path"] for one in records if "error" not in one]
    assert len(store.errors) == sum("error" in one for one in records)
    untouched = tmp_path / "untouched"
    assert vlood(*arguments, "-o", untouched).code == 3
    same_store(out, untouched)
    other = vlood("embed", images / "class-1", "--model", tiny, "--batch-size", "16", "-o", out,
                  "--resume")  # fmt: skip
    assert "other inputs" in other.sentence(2)
