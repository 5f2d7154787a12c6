"""`vlood import`: published files become detectors, banks and models that other commands take."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from .conftest import CLASSES, Vlood

W = D = 32  # of the tiny model
NAMES = CLASSES.split(",")


def coop(path: Path, *shape: int) -> Path:
    generator = torch.Generator().manual_seed(0)
    ctx = torch.randn(*shape, generator=generator)
    stored = {"state_dict": {"ctx": ctx, "token_prefix": torch.zeros(4, 1, W)}, "epoch": 50}
    torch.save(stored, path)
    return path


def test_contexts_become_a_detector_that_scores(
    installed: Vlood, vlood: Vlood, tiny: str, few: Path, tmp_path: Path
) -> None:
    file, out = coop(tmp_path / "model.pth.tar-50", 4, W), tmp_path / "made"
    made = installed("import", "locoop", file, "--classes", CLASSES, "--model", tiny, "-o", out)
    assert (made.code, made.err) == (0, "")
    (facts,) = made.records
    assert (facts["detector"], facts["method"]) == (str(out), "gl-mcm")
    assert facts["found"] == ["ctx (4, 32)"]
    assert facts["ignored"] == ["token_prefix (4, 1, 32)", "epoch"]
    scored = vlood("score", few, "--detector", out)
    assert scored.code == 0, scored.err
    assert len(scored.records) == 70
    assert {record["label"] for record in scored.records} <= set(NAMES)
    described = json.loads((out / "detector.json").read_text())
    assert described["learned"]["kind"] == "contexts"
    assert described["provenance"]["file"] == file.name
    assert described["provenance"]["vlood"]


def test_mistakes_are_one_sentence(vlood: Vlood, tiny: str, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (os.system, (f"touch {tmp_path / 'owned'}",))

    torch.save({"ctx": torch.zeros(4, W), "extra": Evil()}, tmp_path / "evil.pth")
    place = ("--classes", CLASSES, "--model", tiny, "-o", tmp_path / "made")
    evil = vlood("import", "coop", tmp_path / "evil.pth", *place)
    assert "never run" in evil.sentence(2)
    assert not (tmp_path / "owned").exists()
    wrong = vlood("import", "coop", tmp_path / "evil.pth", *place, "--keep-learned")
    assert "--keep-learned: has no meaning for coop" in wrong.sentence(2)
    assert not (tmp_path / "made").exists()


def test_embeddings_and_label_vectors_need_no_model(vlood: Vlood, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(4, D)).astype(np.float32)
    np.save(tmp_path / "classes.npy", rows)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    out = tmp_path / "made"
    made = vlood("import", "embeddings", tmp_path / "classes.npy", "-o", out, "--method", "energy")
    assert (made.code, made.err) == (0, "")
    scored = vlood("score", tmp_path / "classes.npy", "--detector", out)
    assert [record["label"] for record in scored.records] == NAMES
    torch.save(torch.nn.Parameter(torch.from_numpy(rows).half()), tmp_path / "labels.pth")
    bare = vlood("import", "synood-labels", tmp_path / "labels.pth", "-o", tmp_path / "bank")
    assert "meaningless without its label list" in bare.sentence(2)


def test_a_fine_tuned_clip_becomes_a_model(vlood: Vlood, tiny: str, tmp_path: Path) -> None:
    folder = Path(tiny.removeprefix("local-dir:"))
    weights = load_file(folder / "open_clip_model.safetensors")
    state = {f"module.{name}": torch.from_numpy(array) for name, array in weights.items()}
    torch.save({"epoch": 1, "model_state_dict": state}, tmp_path / "CMA-ckpt.pt")
    made = vlood("import", "cma", tmp_path / "CMA-ckpt.pt", "-o", tmp_path / "model")
    assert "is not a ViT-B-16-quickgelu: it lacks" in made.sentence(2)
    assert not (tmp_path / "model").exists()
