"""CONTRIBUTING's method of another package, taken from the page, in the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .conftest import _MANY, CLASSES, Result


def test_a_method_of_another_package_is_one_file_and_one_entry_point(
    environment: dict[str, str],
    tiny: str,
    few: Path,
    tmp_path: Path,
    contributing: Callable[[str], str],
) -> None:
    site, info = tmp_path / "site", tmp_path / "site" / "acme_margin-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_margin.py").write_text(contributing("python"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-margin\nVersion: 1.0\n")
    header, line = contributing("toml").splitlines()
    assert header == '[project.entry-points."vlood.methods"]'
    (info / "entry_points.txt").write_text("[vlood.methods]\n" + line.replace('"', "") + "\n")

    some = sorted(map(str, few.rglob("*.png")))
    wanted = ("--method", "margin", "--classes", CLASSES, "--model", tiny)
    commands = [
        ("methods", "margin"),
        ("score", *some[:3], *wanted, "--set", "power=2"),
        ("score", *some[:3], *wanted),
        ("eval", "--id", some[0], "--id", some[1], "--ood", f"x={some[2]}", *wanted),
        ("score", some[0], *wanted, "--set", "power=-1"),
    ]
    path = os.pathsep.join([str(site), *filter(None, [environment.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", _MANY, json.dumps(commands)],
        capture_output=True,
        env={**environment, "PYTHONPATH": path},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    listed, squared, plain, measured, wrong = (Result(*one) for one in json.loads(done.stdout))
    assert listed.records[0]["settings"][0]["name"] == "power"
    assert (plain.code, squared.code, measured.code) == (0, 0, 0), plain.err + measured.err
    for one, two in zip(plain.records, squared.records, strict=True):
        assert one["method"] == "margin"
        assert abs(one["score"] ** 2 - two["score"]) < 1e-6
    assert {row["method"] for row in measured.records} == {"margin"}
    assert "power" in wrong.sentence(2)
