"""Plots come out as PNG files whatever the names and scores are."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vlood.errors import UsageError, VloodError
from vlood.evaluation.plots import save_roc, save_score_histogram

PLOTS = [save_roc, save_score_histogram]


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return rng.beta(8, 2, 300), {"near": rng.beta(5, 3, 200), "far": rng.beta(2, 4, 40)}


def colours(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


@pytest.mark.parametrize("plot", PLOTS)
def test_each_set_is_drawn_in_its_colour(plot, scores, tmp_path):
    path = tmp_path / "new" / "plot.png"
    plot(path, *scores, title="mcm")
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours(path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("plot", PLOTS)
def test_the_same_scores_give_the_same_bytes(plot, scores, tmp_path):
    for name in ("a.png", "b.png"):
        plot(tmp_path / name, *scores)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("plot", PLOTS)
def test_odd_names_and_many_sets(plot, tmp_path):
    rng = np.random.default_rng(1)
    names = ["_under", "$x^$", "a\nb", "bad\udcff", "long " * 40, *map(str, range(5))]
    path = tmp_path / "plot.png"
    plot(path, rng.normal(1, 1, 50), {name: rng.normal(0, 1, 30) for name in names}, title="$ _ %")
    assert len(colours(path)) > 10


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize(
    ("inlier", "outlier"),
    [([1.0], [0.0]), ([1.0, 1.0], [1.0]), ([1.0], [np.nextafter(1.0, 2.0)]), ([1e12], [-1e12])],
)
def test_few_or_constant_scores(plot, inlier, outlier, tmp_path):
    plot(tmp_path / "plot.png", inlier, {"x": outlier})
    assert (0x00, 0x72, 0xB2) in colours(tmp_path / "plot.png")


def test_a_threshold_is_drawn_even_outside_the_scores(scores, tmp_path):
    save_score_histogram(tmp_path / "without.png", *scores)
    save_score_histogram(tmp_path / "with.png", *scores, threshold=3.0)
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


@pytest.mark.parametrize("plot", PLOTS)
def test_refusals(plot, scores, tmp_path):
    with pytest.raises(UsageError, match="NaN"):
        plot(tmp_path / "plot.png", [1.0, np.nan], scores[1])
    with pytest.raises(UsageError, match="no OOD s"):
        plot(tmp_path / "plot.png", scores[0], {"empty": []})
    (tmp_path / "file").write_text("x")
    with pytest.raises(VloodError, match="Cannot write"):
        plot(tmp_path / "file" / "plot.png", *scores)


def test_drawing_leaves_pyplot_alone(tmp_path):
    code = (
        "import sys; from pathlib import Path; import vlood.evaluation.plots as p;"
        "assert 'matplotlib' not in sys.modules;"
        "p.save_roc(Path(sys.argv[1]), [1.0], {'x': [0.0]});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "roc.png"], check=True)
    assert (tmp_path / "roc.png").exists()


def test_metrics_need_neither_torch_nor_scikit_learn():
    code = (
        "import sys, vlood.evaluation.evaluate as e;"
        "e.evaluate([1.0, 2.0], [0.0]);"
        "assert not {'torch', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
