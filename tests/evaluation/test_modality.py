"""Gap, alignment and uniformity against the plain formulas, pair after pair; their picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlood.errors import UsageError
from vlood.evaluation import modality
from vlood.evaluation.modality import gap_plane, modality_figures
from vlood.evaluation.modality_plot import Shown, save_modality_picture

N, K, D = 23, 5, 8
RNG = np.random.default_rng(0)
IMAGES = (RNG.normal(size=(N, D)) + 1).astype(np.float32) * 7
TEXTS = RNG.normal(size=(K, D)).astype(np.float32)
LABELS = RNG.integers(0, K, N)
LABELS[[3, 9]] = -1


def unit(rows: np.ndarray) -> np.ndarray:
    return np.stack([row / math.sqrt(sum(x * x for x in row)) for row in rows.astype(float)])


@pytest.mark.parametrize("at_once", [1 << 22, 3 * K])
def test_they_are_the_formulas(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modality, "_COSINES_AT_ONCE", at_once)
    found = modality_figures(IMAGES, TEXTS, LABELS)
    u, v = unit(IMAGES), unit(TEXTS)
    distance = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in v] for x in u]
    potential = [math.exp(-2 * d) for row in distance for d in row]
    assert found.uniformity == pytest.approx(-math.log(sum(potential) / (N * K)))
    leads, own, others, right = [], [], [], 0
    for row, label in zip(distance, LABELS, strict=True):
        if label < 0:
            continue
        rest = [d for k, d in enumerate(row) if k != label]
        leads.append(min(rest) - row[label])
        right += row[label] < min(rest)
        own.append(1 - row[label] / 2)
        others += [1 - d / 2 for d in rest]
    assert (found.images, found.labelled, found.classes) == (N, N - 2, K)
    assert found.alignment == pytest.approx(np.mean(leads))
    assert found.matched_cosine == pytest.approx(np.mean(own))
    assert found.unmatched_cosine == pytest.approx(np.mean(others))
    assert found.id_accuracy == pytest.approx(right / (N - 2))
    apart = u.mean(0) - v.mean(0)
    assert found.modality_gap == pytest.approx(math.sqrt((apart**2).sum()))


def test_limits() -> None:
    same = modality_figures(TEXTS, TEXTS, np.arange(K))
    assert same.modality_gap == pytest.approx(0)
    assert (same.matched_cosine, same.id_accuracy) == (pytest.approx(1), 1)
    opposite = modality_figures(-TEXTS[:1], TEXTS[:1], np.zeros(1, np.int64))
    assert opposite.modality_gap == pytest.approx(2)
    assert opposite.uniformity == pytest.approx(8)
    assert opposite.alignment is opposite.id_accuracy is opposite.unmatched_cosine is None
    unlabelled = modality_figures(IMAGES, TEXTS, np.full(N, -1))
    assert unlabelled.alignment is unlabelled.matched_cosine is None
    assert unlabelled.uniformity == modality_figures(IMAGES, TEXTS, LABELS).uniformity


def test_two_classes_are_enough_to_compare() -> None:
    # Unit vectors of the plane: cosines are those of the angles between them.
    def at(*degrees: float) -> np.ndarray:
        angles = np.deg2rad(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    found = modality_figures(at(10, 80, 50), at(0, 90), np.array([0, 1, 0]))
    own = np.cos(np.deg2rad([10, 10, 50]))
    other = np.cos(np.deg2rad([80, 80, 40]))
    assert found.alignment == pytest.approx(2 * np.mean(own - other))
    assert found.matched_cosine == pytest.approx(own.mean())
    assert found.unmatched_cosine == pytest.approx(other.mean())
    assert found.id_accuracy == pytest.approx(2 / 3)


def test_what_cannot_be_measured() -> None:
    broken = IMAGES.copy()
    broken[2, 1], broken[4] = np.nan, 0
    with pytest.raises(UsageError, match="2 of 23 image embeddings are zero, NaN or infinite"):
        modality_figures(broken, TEXTS, LABELS)
    with pytest.raises(UsageError, match="no class embeddings"):
        modality_figures(IMAGES, TEXTS[:0], LABELS)
    with pytest.raises(UsageError, match="are 8 wide and those of the classes 7"):
        modality_figures(IMAGES, TEXTS[:, :7], LABELS)


def test_the_plane_shows_the_gap() -> None:
    images, texts = gap_plane(IMAGES, TEXTS)
    apart = texts.mean(0) - images.mean(0)
    assert apart[0] == pytest.approx(modality_figures(IMAGES, TEXTS, LABELS).modality_gap)
    assert apart[1] == pytest.approx(0, abs=1e-9)
    # Their middle is the origin, and positions along the first axis are those along the gap.
    np.testing.assert_allclose(texts.mean(0) + images.mean(0), 0, atol=1e-9)
    u, v = unit(IMAGES), unit(TEXTS)
    along = (v.mean(0) - u.mean(0)) / np.linalg.norm(v.mean(0) - u.mean(0))
    middle = (v.mean(0) + u.mean(0)) / 2
    np.testing.assert_allclose(images[:, 0], (u - middle) @ along, atol=1e-9)
    np.testing.assert_allclose(texts[:, 0], (v - middle) @ along, atol=1e-9)
    # No direction beside the gap varies more than the second axis.
    rest = np.concatenate([side - side.mean(0) for side in (u, v)])
    rest -= np.outer(rest @ along, along)
    most = np.linalg.eigvalsh(rest.T @ rest)[-1]
    shown = sum(
        (side[:, 1] - side[:, 1].mean()) @ (side[:, 1] - side[:, 1].mean())
        for side in (images, texts)
    )
    assert shown == pytest.approx(most)
    again = gap_plane(TEXTS, TEXTS)
    np.testing.assert_allclose(again[0], again[1])


def test_a_picture_has_a_panel_each(tmp_path: Path) -> None:
    shown = []
    for name, texts, labels in (
        ("one", TEXTS, LABELS),
        ("$two_", unit(IMAGES[:K]).astype(np.float32), np.full(N, -1)),
    ):
        figures = modality_figures(IMAGES, texts, labels)
        shown.append(Shown(name, IMAGES, labels, texts, figures))
    save_modality_picture(tmp_path / "a.png", shown[:1])
    save_modality_picture(tmp_path / "b.png", shown)
    save_modality_picture(tmp_path / "c.png", shown)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "b.png") as b:
        assert b.width > a.width
        assert len(np.unique(np.asarray(b.convert("RGB")).reshape(-1, 3), axis=0)) > 20
