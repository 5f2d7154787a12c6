"""COOkeD on images: a classifier of one's own, trained and used by the installed command."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Many
from .test_tune_images import CLASSES, draw

QUICK = [f"--set={one}" for one in ("arch=test_resnet", "size=16", "batch_size=4", "epochs=4")]


def test_from_images_to_a_robust_detector(many: Many, tiny: str, tmp_path: Path) -> None:
    draw(tmp_path)
    (tmp_path / "train" / "red" / "bad.png").write_bytes(b"no picture")
    learn = ("--classes", CLASSES, "--train", "train")
    net = ("tune", "classifier", *learn, *QUICK, "--set", "held_out=0.25", "--seed", "3")
    cooked = ("tune", "cooked", *learn, "--model", tiny)
    known = ("--id", "test", "--ood", "strange", "--resamples", "0")
    weights = "timm:test_resnet:net/model.safetensors"
    dry, made, again, tuned, measured, calibrated, scored, compared, *wrong = many(
        (*net, "--dry-run", "-o", "net"),
        (*net, "-o", "net"),
        (*net, "-o", "again"),
        (*cooked, "--classifier", "net", "-o", "robust"),
        ("eval", "--detector", "robust", *known),
        ("calibrate", "robust", "--id", "test"),
        ("score", "strange", "--detector", "robust", "--alpha", "0.5"),
        ("eval", "--method", "cooked,mcm", *learn, "--model", tiny, "--classifier", "net", *known),
        ("score", "strange", "--detector", "robust", "--classifier", weights),
        (*cooked, "--classifier", weights, "-o", "x"),
        ("tune", "cooked", "--classes", "red,blue,green thing", "--train", "train", "--model", tiny,
         "--classifier", "net", "-o", "x"),
        (*net, "-o", "net"),
        ("tune", "classifier", *learn, "--set", "arch=test_resnat", "-o", "x"),
        cwd=tmp_path,
    )  # fmt: skip
    assert dry.code == 0, dry.err
    assert dry.records[0]["steps"] == 4 * 2
    for one in (made, again, tuned):
        assert one.code == 3, one.err  # a picture that cannot be read
        assert "bad.png" in one.err
    assert made.records[0]["held_out"] == 3
    for name in ("model.safetensors", "training.csv"):
        assert (tmp_path / "net" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert not (tmp_path / "net.run").exists()
    described = json.loads((tmp_path / "robust" / "detector.json").read_text())
    assert described["settings"]["members"] == "classifier+clip+probe"
    assert described["classifier"]["classes"] == CLASSES.split(",")
    assert (tmp_path / "robust" / "classifier" / "model.safetensors").is_file()
    assert calibrated.code == 0, calibrated.err
    assert scored.code == 0, scored.err
    assert len(scored.records) == 9
    assert compared.code == 0, compared.err
    assert measured.code == 0, measured.err
    figures = {row["detector"]: row["auroc"] for row in compared.records}
    assert figures["cooked"] == measured.records[0]["auroc"]
    same = wrong.pop(0)
    assert same.code == 0, same.err
    assert same.records[0]["score"] == scored.records[0]["score"]
    for one, said in zip(
        wrong,
        (
            "missing normalisation",
            "in another order",
            "holds a classifier already",
            "did you mean test_resnet",
        ),
        strict=True,
    ):
        assert said in one.sentence(2)
