"""The command's contract: help, streams, exit codes, and figures that can be checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Result

Vlood = Callable[..., Result]
COMMANDS = ("score", "embed", "eval", "methods", "models", "show", "doctor", "demo")


def test_help_imports_neither_torch_nor_open_clip() -> None:
    code = (
        "import sys\nsys.argv = ['vlood', '--help']\nfrom vlood.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'open_clip', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(vlood: Vlood, name: str) -> None:
    done = vlood(name, "--help")
    assert done.code == 0
    assert "Example" in done.out
    assert f"vlood {name}" in done.out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(70):
        pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


BUNDLED = ("--model", "bundled", "--classes", "world")


def test_a_closed_pipe_ends_silently(pictures: Path, environment: dict[str, str]) -> None:
    vlood = Path(sys.executable).with_name("vlood")
    line = f"'{vlood}' score '{pictures}' --model bundled --classes world --batch-size 4 | head -1"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=100
    )
    assert json.loads(done.stdout)["path"].endswith("000.png")
    assert done.stderr == ""


def test_paths_come_from_find_ended_by_nul(vlood: Vlood, pictures: Path) -> None:
    names = [str(pictures / name) for name in ("003.png", "001.png", "002.png")]
    done = vlood("score", "-0", "-", *BUNDLED, stdin="\0".join(names).encode() + b"\0")
    assert done.code == 0
    assert [record["path"] for record in done.records] == names
    assert done.err == ""
    assert set(done.records[0]) == {
        *("path", "score", "ood", "label", "confidence", "p_value", "method")
    }


def test_calibration_decides_and_fails_on_ood(vlood: Vlood, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    done = vlood(
        *("score", pictures, *BUNDLED, "--calibrate-on", pictures, "--tpr", "0.9"),
        *("--fail-on-ood", "--explain", "-o", out),
    )
    assert done.code == 4
    header, *rows = out.read_text().splitlines()
    assert header == "path,score,ood,label,confidence,p_value,method,top_labels,error"
    assert len(rows) == 70
    assert sum(",true," in row for row in rows) == 7


def test_a_store_scores_as_its_images_do(vlood: Vlood, pictures: Path, tmp_path: Path) -> None:
    assert vlood("embed", pictures, "--model", "bundled", "-o", tmp_path / "store").code == 0
    images = vlood("score", pictures, *BUNDLED, "--method", "energy").records
    stored = vlood("score", tmp_path / "store", *BUNDLED, "--method", "energy").records
    assert [one["path"] for one in stored] == [one["path"] for one in images]
    assert [one["score"] for one in stored] == pytest.approx([one["score"] for one in images])
    shown = vlood("show", tmp_path / "store").records[0]
    assert (shown["rows"], shown["width"]) == (70, 128)


def test_gl_mcm_needs_the_images_regions(vlood: Vlood, pictures: Path, tmp_path: Path) -> None:
    few = [pictures / f"{number:03d}.png" for number in range(3)]
    assert vlood("score", *few, *BUNDLED, "--method", "gl-mcm").code == 0
    assert vlood("embed", *few, "--model", "bundled", "--local", "-o", tmp_path / "s").code == 0
    assert vlood("score", tmp_path / "s", *BUNDLED, "--method", "gl-mcm").code == 0


def test_debug_lets_the_traceback_through(vlood: Vlood, tmp_path: Path) -> None:
    plain = vlood("score", tmp_path / "nothing", *BUNDLED)
    assert "nothing" in plain.sentence(2)
    assert "Traceback" in vlood("score", tmp_path / "x", *BUNDLED, extra={"VLOOD_DEBUG": "1"}).err


def test_the_demo_runs_from_end_to_end(vlood: Vlood, tmp_path: Path) -> None:
    done = vlood("demo", "-o", tmp_path / "demo")
    assert done.code == 0, done.err
    assert "called OOD" in done.out
    for name in ("contact-sheet.png", "records.jsonl", "report/results.json", "report/roc-mcm.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
    report = vlood("show", tmp_path / "demo" / "report")
    assert {row["group"] for row in report.records} == {"near", "far"}


def test_doctor_finds_the_bundled_model(vlood: Vlood) -> None:
    facts = vlood("doctor").records[0]
    assert facts["bundled model"].startswith("works offline")


@pytest.mark.shared
def test_real_embeddings_give_the_known_figures(vlood: Vlood, shared: Path, tmp_path: Path) -> None:
    names = tmp_path / "cifar.txt"
    names.write_text(
        "airplane\nautomobile\tcar_(automobile)\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n"
    )
    root = shared / "embeddings"
    done = vlood(
        *("eval", "--id", root / "cifar10_500_vitb32/features.npy"),
        *("--id-labels", root / "cifar10_500_vitb32/labels.npy"),
        *("--ood", f"food={root / 'food10_vitb32/test_features.npy'}"),
        *("--ood", f"micrographs={root / 'micrographs_867_vitb32/features.npy'}"),
        *("--classes", names),
        *("--class-embeddings", root / "text_lvis1203_vitb32/features.npy"),
        *("--class-embeddings", root / "text_o365_vitb32/features.npy"),
    )
    assert done.code == 0, done.err
    food, micrographs = done.records
    assert food["id_accuracy"] == pytest.approx(0.896, abs=0.002)
    assert food["auroc"] == pytest.approx(0.918, abs=0.002)
    assert micrographs["auroc"] == pytest.approx(0.953, abs=0.002)


@pytest.mark.shared
@pytest.mark.slow
def test_photographs_score_as_in_a_plain_open_clip_loop(vlood: Vlood, shared: Path) -> None:
    import open_clip
    import torch

    folders = [shared / "photos/id_imagenette/test", shared / "photos/far_mnist"]
    model_name = f"local-dir:{shared / 'models/photo-tiny'}"
    done = vlood("score", *folders, "--model", model_name, "--classes", folders[0])
    assert done.code == 0, done.err
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    assert [record["path"] for record in done.records] == list(map(str, paths))
    assert len(paths) == 1500

    model, _, preprocess = open_clip.create_model_and_transforms(model_name)
    model.eval()
    names = sorted(os.listdir(folders[0]))
    prompts = [f"a photo of a {name.replace('_', ' ')}." for name in names]
    with torch.inference_mode():
        texts = model.encode_text(open_clip.get_tokenizer(model_name)(prompts), normalize=True)
        cosines = []
        for start in range(0, len(paths), 50):
            images = [preprocess(Image.open(path)) for path in paths[start : start + 50]]
            cosines.append(model.encode_image(torch.stack(images), normalize=True) @ texts.T)
    expected = torch.cat(cosines).float().softmax(1)
    score, label = expected.max(1)
    assert [record["label"] for record in done.records] == [names[n] for n in label.tolist()]
    assert [record["score"] for record in done.records] == pytest.approx(score.tolist(), abs=1e-4)
