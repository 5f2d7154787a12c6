"""`vlood tune ensemble` through the installed command: made, scored, explained and calibrated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .conftest import CLASSES, Many, write_pictures


def test_saved_detectors_become_one(many: Many, tiny: str, tmp_path: Path) -> None:
    strange = write_pictures(tmp_path / "strange", 8, seed=9)
    known = write_pictures(tmp_path / "known", 20)
    names = CLASSES.split(",")
    lines = [
        json.dumps({"path": str(path), "label": names[row % 4]}) + "\n"
        for row, path in enumerate(sorted(known.rglob("*.png")))
    ]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    at = ["--classes", CLASSES, "--model", tiny, "-q"]
    learn = [*at, "--train", tmp_path / "train.jsonl"]
    one, two, three = (str(tmp_path / name) for name in ("words", "regions", "near"))
    both, fitted, none = (str(tmp_path / name) for name in ("both", "fitted", "none"))
    made = many(
        ["tune", "mcm", *at, "-o", one],
        ["tune", "gl-mcm", *at, "-o", two],
        ["tune", "knn", *learn, "-o", three],
        ["tune", "knn", *learn, "--set", "k=1", "-o", tmp_path / "nearest"],
        ["tune", "ensemble", one, two, three, "--id", known, "--weights", "2,1,1", "-o", both,
         "-q"],
        ["tune", "ensemble", three, tmp_path / "nearest", "--combine", "probability", "--id", known,
         "--ood", strange, "-o", fitted, "-q"],
        ["calibrate", both, "--id", known, "-q"],
        ["score", known, "--detector", both, "--explain", "-q"],
        ["score", known, "--detector", one, "-q"],
        ["show", both],
        ["eval", "--detector", both, "--detector", fitted, "--id", known, "--ood", strange, "-q",
         "--resamples", "0"],
        ["export", both, "-o", tmp_path / "both.tar"],
        # What is refused, in a sentence each.
        ["tune", "ensemble", one, "-o", none],
        ["tune", "ensemble", one, three, "-o", none],
        ["tune", "ensemble", one, known, "-o", none],
        ["tune", "mcm", one, *at, "-o", none],
        ["export", both, "-o", tmp_path / "both.npy"],
        ["apply", both, "--classes", "cat,dog", "-o", none],
        ["score", known, "--method", "ensemble", *at],
    )  # fmt: skip
    done, refused = made[:12], made[12:]
    assert [each.code for each in done] == [0] * 12, [each.err for each in done]
    assert made[4].records[0]["members"] == ["words", "regions", "near"]
    records, alone = made[7].records, made[8].records
    assert len(records) == 20
    for record, single in zip(records, alone, strict=True):
        said = {one["member"]: one for one in record["members"]}
        assert said["words"]["score"] == single["score"]
        levels = [said[name]["level"] for name in ("words", "regions", "near")]
        mean = np.average(levels, weights=[2, 1, 1])
        np.testing.assert_allclose(record["score"], mean, atol=1e-5)
        assert 0 < record["p_value"] <= 1
        assert "members: words" in record["explanation"]
    assert [each["weight"] for each in made[9].records[0]["members"]] == [0.5, 0.25, 0.25]
    by_name = {row["detector"]: row["auroc"] for row in made[10].records}
    assert by_name["fitted"] > 0.9
    expected = [
        "two or more",
        "is not calibrated",
        "is not a detector's folder",
        "belongs to no option",
        "is an ensemble, several detectors",
        "is an ensemble",
        "vlood tune ensemble",
    ]
    for each, text in zip(refused, expected, strict=True):
        assert text in each.sentence(2)
