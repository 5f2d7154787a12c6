"""A detector from class names to a decision, by the installed command and in Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import Many, Vlood, at_terminal

WORLD = ("--model", "bundled", "--classes", "world")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vlood.engines.demo import write_world
    from vlood.images import world

    folder = tmp_path_factory.mktemp("world")
    drawn = [*world.id_images("train", 4), *world.id_images("test", 2)]
    write_world(folder, [*drawn, *(one for one in world.near_images(1) if one.index == 0)][:140])
    return folder


@pytest.fixture(scope="module")
def calibrated(installed: Vlood, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "mine"
    tuned = installed("tune", "neglabel", *WORLD, "-o", folder)
    done = installed("calibrate", folder, "--id", pictures / "id" / "train")
    assert (tuned.code, done.code) == (0, 0), tuned.err + done.err
    assert tuned.records[0]["negatives"] > 100
    facts = done.records[0]
    assert facts["n"] == 48
    assert facts["tpr_low"] < facts["tpr"] <= 1
    assert "use 100 or more" in done.err
    return folder


def test_a_detector_needs_no_other_option(
    calibrated: Path, pictures: Path, installed: Vlood, many: Many, tmp_path: Path
) -> None:
    other = installed(
        "apply", calibrated, "--classes", "heart,anchor,gear", "-o", tmp_path / "other"
    )
    near, by_alpha, same, shown, failing = many(
        ("score", pictures / "near", "--detector", calibrated, "--explain"),
        ("score", pictures / "near", "--detector", calibrated, "--alpha", "0.1"),
        ("score", pictures / "near", *WORLD, "--method", "neglabel", "--threshold", "0.5"),
        ("show", calibrated),
        ("score", pictures / "near", "--detector", calibrated, "--fail-on-ood"),
    )
    assert near.code == 0, near.err
    assert [record["score"] for record in near.records] == [r["score"] for r in same.records]
    assert {record["ood"] for record in near.records} <= {True, False}
    rejected = [record for record in near.records if record["ood"]]
    assert len(rejected) > len(near.records) / 2
    assert rejected[0]["explanation"].startswith("not one of your 12 classes; nearest word: ")
    for record in by_alpha.records:
        assert record["ood"] is (record["p_value"] <= 0.1)
    assert json.loads(shown.out)["what"] == "detector"
    assert other.records[0]["classes"] == 3
    assert failing.code == 4


def test_python_says_the_same(calibrated: Path, pictures: Path) -> None:
    import vlood

    detector = vlood.load(calibrated)
    assert detector.class_names[0] == "airplane"
    found = detector.score([pictures / "near"])
    assert len(found) == len(found.records)
    assert found.p_value is not None
    assert found.ood is not None
    assert (found.ood == (found.score < detector.threshold)).all()
    picture = Path(found.ids[0])
    one = detector.score(Image.open(picture))
    assert one.score[0] == pytest.approx(found.score[0], abs=1e-5)
    raw = detector.backbone.encode_pixels(
        np.stack([detector.backbone.preprocessing.prepare(Image.open(picture).convert("RGB"))])
    ).raw
    assert detector.score(raw).score[0] == pytest.approx(found.score[0], abs=1e-5)
    with pytest.raises(vlood.UsageError, match="7 wide"):
        detector.score(np.ones((2, 7), np.float32))
    with pytest.raises(vlood.UsageError, match="one kind at a time"):
        detector.score([3])


def test_figures_go_onto_the_card(
    calibrated: Path,
    pictures: Path,
    installed: Vlood,
    vlood: Vlood,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    import shutil

    mine = Path(shutil.copytree(calibrated, tmp_path / "mine"))
    sets = ("--id", pictures / "id" / "test", "--ood", f"near:others={pictures / 'near'}")
    (mine / "adapter").mkdir()
    (mine / "adapter" / "adapter_config.json").write_text("{}")
    again = vlood("calibrate", mine, "--id", pictures / "id" / "test")
    plain = installed("eval", "--detector", mine, *sets, "--save-figures", "--resamples", "0")
    both = vlood("eval", "--detector", mine, "--detector", calibrated, *sets)
    assert again.code == 0, again.err
    assert plain.code == 0, plain.err
    assert (mine / "adapter" / "adapter_config.json").is_file()
    assert plain.records[0]["tpr"] >= 0.95
    assert plain.records[0]["detector"] == "mine"
    assert plain.records[0]["auroc"] > 0.8
    assert f"{100 * plain.records[0]['auroc']:.2f} %" in (mine / "README.md").read_text()
    shown = at_terminal(environment, ["show", mine])
    assert f"others: AUROC {100 * plain.records[0]['auroc']:.2f} %" in " ".join(shown.split())
    assert both.sentence(2) == "vlood: error: --detector: two folders are named mine; " + (
        "rename one to compare them"
    )


def test_what_does_not_go_together_is_one_sentence(
    calibrated: Path, pictures: Path, many: Many, tiny: str, tmp_path: Path
) -> None:
    near = pictures / "near"
    plain = tmp_path / "plain"
    runs = {
        ("tune", "mcm", *WORLD, "-o", plain): "",
        ("tune", "mcm", *WORLD, "-o", calibrated): "holds a detector already",
        ("tune", "clipn", *WORLD, "-o", tmp_path / "c"): "vlood import",
        ("tune", "mcm", *WORLD): "-o FOLDER",
        ("score", near, "--detector", plain, "--alpha", "0.05"): "is not calibrated",
        ("score", near, "--detector", plain, "--fail-on-ood"): "is not calibrated",
        ("score", near, "--detector", calibrated, "--alpha", "0.001"): "needs",
        ("score", near, "--detector", calibrated, "--method", "mcm"): "is settled by --detector",
        ("score", near, "--detector", calibrated, "--classes", "cat,dog"): "other classes",
        ("score", near, "--detector", calibrated, "--model", tiny): "another model",
        ("score", near, "--detector", tmp_path): "is not a detector's folder",
        ("score", near, *WORLD, "--alpha", "0.05"): "calibrated --detector",
        ("calibrate", calibrated, "--id", "-"): "stdin",
        ("calibrate", calibrated, "--id", near, "--tpr", "0"): "--tpr",
        ("apply", tmp_path, "--classes", "a,b", "-o", tmp_path / "x"): "is not a detector's folder",
    }
    for (command, words), done in zip(runs.items(), many(*runs), strict=True):
        if not words:
            assert done.code == 0, done.err
            continue
        assert words in done.sentence(2), command


def test_a_detector_without_a_model(many: Many, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "names.npy", rng.normal(size=(4, 16)).astype(np.float32))
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    np.save(tmp_path / "rows.npy", rng.normal(size=(50, 16)).astype(np.float32))
    folder, rows = tmp_path / "arrays", tmp_path / "rows.npy"
    tuned, done, scored, applied = many(
        ("tune", "energy", "--class-embeddings", tmp_path / "names.npy", "-o", folder),
        ("calibrate", folder, "--id", rows, "--per-class"),
        ("score", rows, "--detector", folder),
        ("apply", folder, "--classes", "x,y", "-o", tmp_path / "no"),
    )
    assert tuned.code == 0, tuned.err
    assert done.code == 0, done.err
    assert scored.code == 0, scored.err
    assert len(scored.records) == 50
    assert sum(record["ood"] for record in scored.records) <= 3
    assert "embeddings alone" in applied.sentence(2)


def test_list_names_every_method(vlood: Vlood) -> None:
    done = vlood("tune", "--list")
    assert {"mcm", "neglabel", "adaneg"} <= {record["method"] for record in done.records}
