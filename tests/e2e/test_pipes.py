"""In a shell: pipes, lists on stdin, formats, decisions and exit codes."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import CLASSES, Result, Vlood, command, interruptible

FIELDS = ["path", "score", "ood", "label", "confidence", "p_value", "method"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture(scope="module")
def common(tiny: str) -> list[str]:
    return ["--model", tiny, "--classes", CLASSES]


@pytest.fixture(scope="module")
def scored(vlood: Vlood, few: Path, common: list[str]) -> Result:
    done = vlood("score", few, *common)
    assert (done.code, done.err) == (0, "")
    return done


@pytest.fixture(scope="module")
def shell(environment: dict[str, str]) -> Callable[[str], subprocess.CompletedProcess[bytes]]:
    def run(line: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            env={**environment, "TOOL": command()},
            timeout=120,
            preexec_fn=interruptible,
        )

    return run


def test_records_hold_the_agreed_fields_in_input_order(scored: Result, few: Path) -> None:
    assert [one["path"] for one in scored.records] == [
        str(path) for path in sorted(few.rglob("*.png"))
    ]
    for one in scored.records:
        assert list(one) == FIELDS
        assert one["ood"] is None
        assert one["p_value"] is None
        assert one["method"] == "mcm"
        assert one["label"] in CLASSES.split(",")


def test_head_ends_a_run_silently(
    shell: Callable[[str], subprocess.CompletedProcess[bytes]], few: Path, common: list[str]
) -> None:
    arguments = shlex.join(["score", str(few), *common, "--batch-size", "4"])
    done = shell(f'"$TOOL" {arguments} | head -1; exit ${{PIPESTATUS[0]}}')
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout)["method"] == "mcm"
    listed = shell('"$TOOL" methods | head -1')
    assert (listed.stderr, len(listed.stdout.splitlines())) == (b"", 1)


def test_find_print0_feeds_a_run(
    shell: Callable[[str], subprocess.CompletedProcess[bytes]],
    few: Path,
    common: list[str],
    scored: Result,
) -> None:
    options = shlex.join(common)
    done = shell(f"find {few} -name '*.png' -print0 | sort -z | \"$TOOL\" score -0 - {options}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == scored.out


def test_any_order_and_repeats_on_stdin_come_back_as_given(
    vlood: Vlood, common: list[str], scored: Result, tmp_path: Path
) -> None:
    paths = [one["path"] for one in reversed(scored.records)] + [scored.records[3]["path"]]
    gone = str(tmp_path / "gone.png")
    paths.insert(5, gone)
    done = vlood("score", "-", *common, stdin="\n".join(paths).encode())
    assert done.code == 3
    assert [one["path"] for one in done.records] == paths
    assert set(done.records[5]) == {"path", "error"}
    assert done.err.splitlines() == [
        f"vlood: {gone}: the file does not exist",
        f"vlood: 1 of {len(paths)} inputs could not be read",
    ]
    by_path = {one["path"]: one["score"] for one in scored.records}
    for one in done.records:
        if one["path"] != gone:
            assert one["score"] == pytest.approx(by_path[one["path"]], abs=1e-5)


def test_csv_and_parquet_have_the_same_columns(
    vlood: Vlood, few: Path, common: list[str], scored: Result, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    done = vlood("score", few, *common, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert list(rows[0]) == [*FIELDS, "error"]
    assert [row["path"] for row in rows] == [one["path"] for one in scored.records]
    assert [float(row["score"]) for row in rows] == [one["score"] for one in scored.records]
    out = tmp_path / "out.parquet"
    done = vlood("score", few, *common, "--format", "parquet", "-o", out)
    assert (done.code, done.out, done.err) == (0, "", "")
    table = pq.read_table(out)
    assert table.column_names == [*FIELDS, "error"]
    assert table.column("score").to_pylist() == [one["score"] for one in scored.records]
    refused = vlood("score", few, *common, "--format", "parquet")
    assert "-o" in refused.sentence(2)


def test_a_threshold_decides_and_fail_on_ood_tells_a_script(
    vlood: Vlood, few: Path, common: list[str], scored: Result
) -> None:
    scores = sorted(one["score"] for one in scored.records)
    threshold = scores[20]
    done = vlood("score", few, *common, "--threshold", repr(threshold), "--fail-on-ood")
    assert done.code == 4
    assert all(one["ood"] is (one["score"] < threshold) for one in done.records)
    assert sum(one["ood"] for one in done.records) == sum(one < threshold for one in scores)
    low = vlood("score", few, *common, "--threshold", "-9", "--fail-on-ood", "-q")
    assert (low.code, low.err) == (0, "")
    assert not any(one["ood"] for one in low.records)


def test_calibration_keeps_the_share_that_was_asked(
    vlood: Vlood, few: Path, common: list[str], scored: Result
) -> None:
    done = vlood("score", few, *common, "--calibrate-on", few, "--tpr", "0.8", "--explain")
    assert done.code == 0, done.err
    kept = sum(not one["ood"] for one in done.records)
    assert kept == 56  # the largest threshold that keeps at least 80 % of 70
    for one in done.records:
        tops = one["top_labels"]
        assert tops[0]["label"] == one["label"]
        shares = [top["probability"] for top in tops]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == one["confidence"]


def test_options_that_do_not_go_together_are_refused(
    vlood: Vlood, few: Path, common: list[str]
) -> None:
    for options in (
        ["--tpr", "0.9"],
        ["--fail-on-ood"],
        ["--resume"],
        ["--threshold", "1", "--calibrate-on", str(few)],
        ["--method", "mcn"],
        ["--set", "temperature"],
    ):
        assert options[0] in vlood("score", few, *common, *options).sentence(2)
    missing = vlood("score", few, "--model", common[1])
    assert "--classes" in missing.sentence(2)


def test_debug_shows_where_an_error_came_from(
    vlood: Vlood, tmp_path: Path, common: list[str]
) -> None:
    done = vlood("score", tmp_path / "gone", *common, extra={"VLOOD_DEBUG": "1"})
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err
    assert "UsageError" in done.err
