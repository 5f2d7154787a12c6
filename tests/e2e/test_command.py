"""Commands on the bundled model: stores, local embeddings, the demo, the doctor."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Result

Vlood = Callable[..., Result]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(70):
        pixels = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


BUNDLED = ("--model", "bundled", "--classes", "world")


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


def test_the_demo_tells_the_whole_story(vlood: Vlood, tmp_path: Path) -> None:
    done = vlood("demo", "--quick", "-o", "demo", cwd=tmp_path, limit=240)
    assert done.code == 0, done.err
    assert {row["group"] for row in done.records} == {"near", "far"}
    assert {row["detector"] for row in done.records} == {"mcm", "energy", "neglabel", "lapt"}
    demo = tmp_path / "demo"
    for name in ("report/report.html", "lapt.safetensors", "explained.jsonl", "world/near"):
        assert (demo / name).exists()
    assert list((demo / "maps").iterdir())

    # The story says what commands.sh holds, and the commands do what the demo did.
    typed = [shlex.split(line) for line in (demo / "commands.sh").read_text().splitlines()]
    commands = [words[1:] for words in typed if words[:1] == ["vlood"]]
    assert all(f"  $ {shlex.join(['vlood', *words])}\n" in done.err for words in commands)
    score = next(words for words in commands if words[0] == "score")
    again = vlood(*score[:-2], cwd=tmp_path)
    assert again.out == (demo / "scores.jsonl").read_text()
    evaluate = next(words for words in commands if words[0] == "eval")
    assert evaluate[-2] == "-o"
    assert vlood(*evaluate[:-2], cwd=tmp_path).out == done.out

    # Another demo replaces it, and nothing but a demo.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"mine")
    refused = vlood("demo", "-o", "mine", cwd=tmp_path)
    assert "holds something else than an earlier demo" in refused.sentence(2)
    assert (tmp_path / "mine" / "photo.png").exists()


def test_doctor_finds_the_bundled_model(installed: Vlood) -> None:
    facts = installed("doctor").records[0]
    assert facts["bundled model"].startswith("works offline")


@pytest.mark.parametrize("words", ["--help", "models", "corpora", "cache info", "negatives --help"])
def test_what_the_fork_server_runs_is_what_the_installed_command_does(
    words: str, installed: Vlood, vlood: Vlood
) -> None:
    done = installed(*words.split())
    assert (done.code, done.err) == (0, "")
    assert vlood(*words.split()) == done


def test_a_forked_command_has_its_own_streams_folder_and_code(
    vlood: Vlood, installed: Vlood, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    given = ("score", "-", *BUNDLED)
    forked, true = (run(*given, stdin=b"a.png\n", cwd=tmp_path) for run in (vlood, installed))
    assert forked == true
    assert forked.code == 3
    assert list(forked.records[0]) == ["path", "error"]
    with open(tmp_path / "out", "wb") as stream:
        assert vlood("--version", stdout=stream).out == ""
    assert (tmp_path / "out").read_text() == installed("--version").out
