"""What scripts and papers lean on: help, start-up, and agreement with a plain open_clip loop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .conftest import Vlood

COMMANDS = (
    *("score", "embed", "mine", "negatives", "corpora", "tune", "calibrate", "eval", "pick"),
    *("bench", "clean", "collect", "import", "export", "apply"),
    *("methods", "models", "show", "doctor", "demo"),
)
OF_COMMANDS = (
    *("cache", "cache info", "cache clear", "negatives show", "negatives search"),
    *("negatives leaks", "negatives merge", "negatives import"),
)
CIFAR10 = "airplane\nautomobile\tcar_(automobile)\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n"


@pytest.mark.parametrize("name", [None, *COMMANDS, *OF_COMMANDS])
def test_every_command_has_help_with_an_example(name: str | None, vlood: Vlood) -> None:
    words = (name or "").split()
    done = vlood(*words, "--help")
    assert (done.code, done.err) == (0, "")
    assert "Example" in done.out
    assert " ".join(["vlood", *words]) in done.out
    if name is None:
        for command in COMMANDS:
            assert f" {command} " in done.out


def test_help_imports_no_large_library(environment: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "sys.argv = ['vlood', '--help']\n"
        "from vlood.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "big = ('torch', 'open_clip', 'numpy', 'PIL', 'pyarrow', 'sklearn', 'matplotlib')\n"
        "sys.stderr.write(','.join(name for name in big if name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=True, timeout=60
    )
    assert b"Usage" in done.stdout
    assert done.stderr == b""


def test_python_m_vlood_is_the_same_command(environment: dict[str, str], vlood: Vlood) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vlood", "--version"],
        capture_output=True,
        env=environment,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode() == vlood("--version").out


@pytest.mark.shared
@pytest.mark.slow
def test_scores_equal_a_plain_open_clip_loop(shared: Path, vlood: Vlood) -> None:
    import open_clip
    import torch
    from PIL import Image

    known, strange = shared / "photos/id_imagenette/test", shared / "photos/far_mnist"
    name = f"local-dir:{shared / 'models/photo-tiny'}"
    done = vlood("score", known, strange, "--model", name, "--classes", known, "--no-cache")
    assert done.code == 0, done.err
    paths = [path for folder in (known, strange) for path in sorted(folder.rglob("*.*"))]
    assert [one["path"] for one in done.records] == [str(path) for path in paths]
    assert len(paths) == 1500

    classes = sorted(path.name for path in known.iterdir() if path.is_dir())
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    prompts = [f"a photo of a {name.replace('_', ' ')}." for name in classes]
    scores, labels = [], []
    with torch.inference_mode():
        text = model.encode_text(tokenizer(prompts), normalize=True)
        for start in range(0, len(paths), 50):
            pictures = [
                preprocess(Image.open(path).convert("RGB")) for path in paths[start : start + 50]
            ]
            image = model.encode_image(torch.stack(pictures), normalize=True)
            share = (image @ text.T).softmax(dim=1).max(dim=1)
            scores.extend(share.values.tolist())
            labels.extend(classes[index] for index in share.indices.tolist())
    assert [one["label"] for one in done.records] == labels
    worst = np.abs(np.array([one["score"] for one in done.records]) - np.array(scores)).max()
    sys.stdout.write(f"largest difference of a score: {worst:.2e}\n")
    assert worst < 1e-4


@pytest.mark.shared
def test_eval_gives_the_known_figures_on_real_embeddings(
    shared: Path, vlood: Vlood, tmp_path: Path
) -> None:
    rows = shared / "embeddings"
    classes = tmp_path / "cifar10.txt"
    classes.write_text(CIFAR10)
    cifar = rows / "cifar10_500_vitb32"
    texts = [rows / f"text_{name}_vitb32/features.npy" for name in ("lvis1203", "o365")]
    report = tmp_path / "report"
    labels = next(cifar.glob("labels.*"))
    done = vlood(
        *("eval", "--classes", classes, "--id", cifar / "features.npy", "--id-labels", labels),
        *(part for text in texts for part in ("--class-embeddings", text)),
        *("--ood", f"far:food={food_test(rows, tmp_path)}"),
        *("--ood", f"far:micrographs={rows / 'micrographs_867_vitb32/features.npy'}"),
        *("--resamples", "100", "-o", report),
    )
    assert done.code == 0, done.err
    food, micrographs = (one for one in done.records if one["ood"] in ("food", "micrographs"))
    assert food["n_id"] == 500
    assert food["id_accuracy"] == pytest.approx(0.896, abs=0.002)
    assert food["auroc"] == pytest.approx(0.918, abs=0.002)
    assert micrographs["auroc"] == pytest.approx(0.953, abs=0.002)
    assert food["auroc_ci_low"] < food["auroc"] < food["auroc_ci_high"]
    stored = json.loads((report / "results.json").read_text())
    assert json.dumps(food["auroc"]) in json.dumps(stored)
    for name in ("results.csv", "roc.png", "scores.png"):
        assert (report / name).stat().st_size > 0


def food_test(rows: Path, folder: Path) -> Path:
    """Return the embeddings of Food10's test images."""
    given = rows / "food10_vitb32"
    return next(path for path in sorted(given.rglob("*.npy")) if "test" in str(path))
