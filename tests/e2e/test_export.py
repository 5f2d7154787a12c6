"""`vlood export` as a user runs it: endings, places, streams and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vlood.detector.folder import save_detector
from vlood.detector.saved import SavedDetector
from vlood.engines.published_banks import import_bank
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.negatives.bank_folder import save_bank
from vlood.prompts.classes import ClassName

from .conftest import Vlood
from .test_bad_inputs import modes_are_obeyed, obey_permissions

NAMES = ("house", "star", "drum")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a detector of embeddings alone: most formats need no model."""
    rows = np.eye(3, 8, dtype=np.float32)
    made = Detector("mcm", registry.get("mcm").settings(), NAMES, {"class_features": rows}, 100.0)
    folder = tmp_path_factory.mktemp("made") / "shapes"
    save_detector(folder, SavedDetector(made, tuple(ClassName.of(name) for name in NAMES)))
    return folder


def test_the_ending_says_the_format_and_what_was_written_is_one_object(
    detector: Path, vlood: Vlood, tmp_path: Path
) -> None:
    done = vlood("export", detector, "-o", tmp_path / "d.safetensors")
    assert (done.code, done.err) == (0, "")
    (told,) = done.records
    assert told["format"] == "safetensors"
    assert Path(told["file"]).is_file()
    assert Path(told["card"]).is_file()
    again = vlood("export", detector, "-o", tmp_path / "d.safetensors")
    assert "--overwrite" in again.sentence(2)
    assert again.out == ""
    unknown = vlood("export", detector, "-o", tmp_path / "d.bin")
    assert ".tar.gz" in unknown.sentence(2)
    assert "coop" in unknown.sentence(2)


def test_embeddings_go_out_and_are_scored_with(
    detector: Path, vlood: Vlood, tmp_path: Path
) -> None:
    done = vlood("export", detector, "--format", "npy", "-o", tmp_path / "arrays")
    assert (done.code, done.err) == (0, "")
    np.save(tmp_path / "images.npy", np.eye(2, 8, dtype=np.float32) + 0.01)
    scored = vlood(
        "score",
        tmp_path / "images.npy",
        "--class-embeddings",
        tmp_path / "arrays/class_features.npy",
    )
    assert scored.code == 0, scored.err
    assert [record["label"] for record in scored.records] == ["house", "star"]


def test_a_dry_run_for_the_hub_writes_nothing(detector: Path, vlood: Vlood, tmp_path: Path) -> None:
    done = vlood("export", detector, "--format", "hub", "--dry-run", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    (told,) = done.records
    assert {row["file"] for row in told["files"]} >= {"README.md", "detector.json"}
    assert list(tmp_path.iterdir()) == []
    sent = vlood("export", detector, "--format", "hub", "--repo", "acme/x", extra={"HF_TOKEN": ""})
    assert "hf auth login" in sent.sentence(2)


def test_places_that_cannot_be_written(detector: Path, vlood: Vlood, tmp_path: Path) -> None:
    if not modes_are_obeyed(tmp_path):
        pytest.skip("this user may write everywhere, and the right to cannot be dropped")
    shut = tmp_path / "shut"
    shut.mkdir()
    shut.chmod(0o555)
    done = vlood("export", detector, "-o", shut / "d.tar", preexec_fn=obey_permissions)
    assert str(shut) in done.sentence(1)
    assert list(shut.iterdir()) == []
    folder = vlood("export", tmp_path, "-o", tmp_path / "d.tar")
    assert "neither a detector's folder nor a bank's" in folder.sentence(2)


def test_a_bank_is_exported_as_text_alone(vlood: Vlood, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("the nice drum\nThis is a shiny photo\n")
    bank, _ = import_bank("neglabel-txt", tmp_path / "list.txt", ())
    save_bank(tmp_path / "bank", bank)
    done = vlood("export", tmp_path / "bank", "-o", tmp_path / "words.npy")
    assert "exported as txt, not npy" in done.sentence(2)
    assert not (tmp_path / "words.npy").exists()


@pytest.mark.slow
def test_a_graph_is_written_without_a_word_beside(vlood: Vlood, tiny: str, tmp_path: Path) -> None:
    from vlood.backbone.load import load_backbone

    backbone = load_backbone(tiny, device="cpu", precision="fp32")
    rows = np.eye(3, backbone.embed_dim, dtype=np.float32)
    made = Detector("msp", registry.get("msp").settings(), NAMES, {"class_features": rows}, 10.0)
    classes = tuple(ClassName.of(name) for name in NAMES)
    saved = SavedDetector(made, classes, backbone=backbone.identity(), model_name="bundled")
    save_detector(tmp_path / "one", saved)
    done = vlood("export", tmp_path / "one", "-o", tmp_path / "one.onnx", "--model", tiny)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["largest difference from vlood"] <= 1e-4
    assert (tmp_path / "one.onnx").stat().st_size == json.loads(done.out)["bytes"]
