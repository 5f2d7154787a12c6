"""`vlood eval` as a user runs it: reports, what goes on after a kill, wrong inputs."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from .conftest import CLASSES, Many, Vlood, write_pictures


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return folders of ID and of OOD pictures."""
    base = tmp_path_factory.mktemp("sets")
    return write_pictures(base / "known", 240, seed=1), write_pictures(base / "other", 160, seed=2)


def unfinished(folder: Path) -> list[Path]:
    """Return the files of sets that are not finished; between the last two steps both are there."""
    return [
        path
        for path in (folder / "scores").glob("*.partial.jsonl")
        if not path.with_name(path.name.replace(".partial.jsonl", ".parquet")).exists()
    ]


def batches_kept(folder: Path) -> int:
    kept = 0
    for path in unfinished(folder):
        # The set may be finished while this looks at it.
        with suppress(FileNotFoundError):
            kept += path.read_bytes().count(b"\n")
    return kept


def rows_kept(folder: Path) -> int:
    """Count the images whose scores a stopped report holds."""
    rows = sum(pq.read_metadata(path).num_rows for path in (folder / "scores").glob("*.parquet"))
    for path in unfinished(folder):
        whole = [line for line in path.read_bytes().split(b"\n")[:-1] if line]
        rows += sum(len(json.loads(line)["ids"]) for line in whole)
    return rows


@pytest.mark.parametrize("enough", [3, 33], ids=["in the first set", "in the second set"])
def test_a_killed_evaluation_goes_on_and_encodes_nothing_twice(
    begin: Callable[..., subprocess.Popen[bytes]],
    vlood: Vlood,
    tiny: str,
    sets: tuple[Path, Path],
    tmp_path: Path,
    enough: int,
) -> None:
    known, other = sets
    folder = tmp_path / "report"
    arguments = [
        *("eval", "--model", tiny, "--classes", CLASSES, "--method", "mcm,energy"),
        *("--id", known, "--ood", f"far:other={other}", "--no-cache", "--batch-size", "8"),
        *("--resamples", "20", "-o", folder, "-q"),
    ]
    process = begin(arguments)
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        done = 30 if list((folder / "scores").glob("known*.parquet")) else 0
        if done + batches_kept(folder) >= enough:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = rows_kept(folder)
    assert kept >= 8
    if enough > 30:
        assert kept > 240
    done_again = vlood(*arguments, "--resume")
    assert done_again.code == 0, done_again.err
    (run,) = json.loads((folder / "run.json").read_text())["runs"]
    assert int(run["images of the sets encoded"]) == 400 - kept
    assert not list((folder / "scores").glob("*.partial.jsonl"))
    whole = vlood(*arguments[:-3], "-q")
    assert done_again.out == whole.out


def test_wrong_evaluations_are_one_sentence_each(
    many: Many, tiny: str, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    known, other = sets
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    common = (
        "--model",
        tiny,
        "--classes",
        CLASSES,
        "--no-cache",
        "--resamples",
        "0",
        "--id",
        known,
    )
    cases: list[tuple[tuple[Any, ...], int, str]] = [
        ((*common, "--ood", other, "-o", tmp_path / "full"), 2, "something else than a report"),
        ((*common, "--ood", f"a={other}", "--ood", f"b={other}"), 2, "a and b are the same input"),
        ((*common, "--ood", known), 2, "are the same input"),
        ((*common, "--ood", known / "class-0"), 2, "240 of 240 images of class-0 are also images"),
        (
            (*common, "--ood", tmp_path / "broken"),
            2,
            "of broken could be read",
        ),
        ((*common, "--ood", other, "--shift", "fogg:2"), 2, "did you mean fog?"),
        ((*common, "--ood", other, "--shift", "fog:9"), 2, "severity from 1"),
        ((*common, "--ood", other, "--resume"), 2, "--resume: needs -o FOLDER"),
        ((*common, "--ood", other, "--append", "--overwrite"), 2, "give one of them"),
        ((*common, "--ood", other, "--fpr-mode", "best"), 2, "expected canonical"),
        ((*common, "--ood", other, "--tpr", "0.9"), 2, "--tpr: needs --calibrate-on"),
        ((*common, "--ood", "gone/"), 2, "does not exist"),
    ]
    for (_, code, told), done in zip(
        cases, many(*(("eval", *arguments) for arguments, _, _ in cases)), strict=True
    ):
        assert told in done.sentence(code), done.err
        assert done.out == ""


def test_a_report_holds_everything_and_grows(
    many: Many, tiny: str, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    known, other = sets
    folder = tmp_path / "report"
    run = (
        *("eval", "--model", tiny, "--classes", CLASSES, "--cache", tmp_path / "cache"),
        *("--id", known, "--ood", f"near:other={other}", "--shift", "fog:2-3"),
        *("--resamples", "20", "-o", folder),
    )
    first, second, exists, shown = many(
        (*run, "--method", "mcm,energy", "--calibrate-on", other, "--tpr", "0.9"),
        (*run, "--method", "entropy", "--append"),
        (*run, "--method", "entropy"),
        ("show", folder),
    )
    assert first.code == 0, first.err
    ordinary = [one for one in first.records if not one["spectrum"]]
    assert [(one["detector"], one["ood"]) for one in ordinary] == [
        (name, ood) for name in ("mcm", "energy") for ood in ("other", "fog:2", "fog:3")
    ]
    assert {(one["n_id"], one["ood"]) for one in first.records if one["spectrum"]} == {
        (720, "other")
    }
    # The very images that set the threshold: 90 % of them stay above it.
    assert ordinary[0]["fpr"] == pytest.approx(0.9, abs=0.01)
    assert ordinary[0]["fpr_ci_low"] < ordinary[0]["fpr"] < ordinary[0]["fpr_ci_high"]
    assert second.code == 0, second.err
    assert [one["detector"] for one in second.records[::3]][:3] == ["mcm", "energy", "entropy"]
    assert "holds a report already" in exists.sentence(2)
    record = json.loads((folder / "run.json").read_text())
    assert [one["images of the sets encoded"] for one in record["runs"]] == [
        "720",
        "0",
    ]  # those that set the threshold are remembered
    assert {path.name for path in folder.iterdir()} >= {
        *(f"results.{kind}" for kind in ("json", "csv", "parquet", "md", "tex")),
        *("report.html", "comparisons.json", "severity.csv", "group_means.json", "run.json"),
    }
    page = (folder / "report.html").read_text()
    assert "entropy" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert shown.code == 0, shown.err
