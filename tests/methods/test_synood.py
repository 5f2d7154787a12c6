"""SynOOD's mining, head and losses against plain NumPy; its two stages; runs that go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures, unit
from vlood.errors import UsageError
from vlood.methods import neglabel, registry
from vlood.methods.contract import Detector, TunedDetector, make_settings
from vlood.methods.synood import METHOD, logits, mine_labels
from vlood.methods.synood_head import (
    GAIN,
    SHAPES,
    head_loss,
    label_loss,
    project,
    starting_head,
)
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures
from vlood.training.checkpoints import RunFolder
from vlood.training.costs import CostProbe
from vlood.training.labelled import LabelledFeatures
from vlood.training.looping import Looping
from vlood.training.steps import StepReport

D, C, M, SCALE = 12, 3, 9, 20.0
RNG = np.random.default_rng(0)
CLASSES = ClassFeatures.of([f"class {k}" for k in range(C)], RNG.normal(size=(C, D)))
NEGATIVES = NegativeFeatures.of([f"word {m}" for m in range(M)], RNG.normal(size=(M, D)))


def made_world() -> LabelledFeatures:
    """Return eight images a class and twenty made ones near three of the negatives."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(C), 8)
    near = rng.choice([1, 4, 6], 20)
    centres = np.concatenate([CLASSES.features[labels], NEGATIVES.features[near]])
    raw = (4 * centres + rng.normal(0, 0.8, centres.shape)).astype(np.float32)
    mined = C + mine_labels(raw[len(labels) :], NEGATIVES.features)
    return LabelledFeatures(raw, np.concatenate([labels, mined]))


IMAGES = made_world()


def fit(images: LabelledFeatures = IMAGES, looping: Looping | None = None, **settings: Any) -> Any:
    given = {"batch_size": 8, "head_rate": 0.01, "label_rate": 0.5, **settings}
    made = make_settings(METHOD, given)
    return METHOD.fit(CLASSES, made, SCALE, negatives=NEGATIVES, images=images, looping=looping)


def test_every_made_image_gets_the_negative_it_is_most_like() -> None:
    rows = RNG.normal(size=(30, D)).astype(np.float32)
    cosines = rows @ NEGATIVES.features.T / np.linalg.norm(rows, axis=1, keepdims=True)
    assert mine_labels(rows, NEGATIVES.features).tolist() == cosines.argmax(1).tolist()
    rows[3, 2] = np.nan
    with pytest.raises(UsageError, match="1 of 30 embeddings hold NaN"):
        mine_labels(rows, NEGATIVES.features)


def plain_moved(head: dict[str, NDArray[Any]], rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return v + g ReLU(LN(W v + b)), one image and one number after the other."""
    moved = []
    for v in rows.astype(np.float64):
        h = np.array([(w * v).sum() for w in head["head_weight"].astype(np.float64)])
        h = h + head["head_bias"]
        h = (h - h.mean()) / np.sqrt(h.var() + 1e-5)
        h = h * head["norm_weight"] + head["norm_bias"]
        moved.append(v + float(head[GAIN][0]) * np.where(h > 0, h, 0.0))
    return np.array(moved)


def cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())


def drawn_head(gain: float) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    head = starting_head(D, rng, zero=False)
    head["norm_weight"] = rng.normal(1, 0.3, D).astype(np.float32)
    head["norm_bias"] = rng.normal(0, 0.3, D).astype(np.float32)
    head[GAIN] = np.array([gain], np.float32)
    return head


@pytest.mark.parametrize("gain", [1.0, -0.4])
def test_the_head_and_both_losses_are_the_formulas(gain: float) -> None:
    head = drawn_head(gain)
    rows = RNG.normal(size=(7, D)).astype(np.float32) * 5
    expected = plain_moved(head, rows)
    np.testing.assert_allclose(project(head, rows), expected, rtol=1e-5, atol=1e-5)

    labels = np.array([0, 2, 3, 1, 4, 0, 3])
    texts = np.concatenate([CLASSES.features, NEGATIVES.features[:2]])
    tensors = {name: torch.from_numpy(each) for name, each in head.items()}
    given = torch.from_numpy(rows), torch.from_numpy(labels), torch.from_numpy(texts)
    unit_rows = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    plain = cross_entropy(SCALE * unit_rows @ texts.T, labels)
    assert float(head_loss(tensors, *given, SCALE)) == pytest.approx(plain, rel=1e-5)

    vectors = 3 * texts + 0.5
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    plain = cross_entropy(SCALE * unit(rows).astype(np.float64) @ directions.T, labels)
    found = label_loss(torch.from_numpy(vectors), torch.from_numpy(unit(rows)), given[1], SCALE)
    assert float(found) == pytest.approx(plain, rel=1e-5)


def test_a_head_that_starts_at_zero_changes_nothing_and_can_still_learn() -> None:
    start = starting_head(D, np.random.default_rng(0), zero=True)
    np.testing.assert_array_equal(project(start, IMAGES.raw), IMAGES.raw)
    assert not np.allclose(
        project(starting_head(D, np.random.default_rng(0), zero=False), IMAGES.raw), IMAGES.raw
    )
    bound = 1 / np.sqrt(D)
    assert abs(start["head_weight"]).max() <= bound
    assert abs(start["head_weight"]).max() > 0.9 * bound
    tuned = fit(zero_start=True)
    assert tuned.tensors[GAIN][0] != 0
    assert tuned.learned.about["head_loss"][1] < tuned.learned.about["head_loss"][0]
    assert fit().tensors[GAIN].tolist() == [1.0]


def test_two_stages_lower_their_losses_and_meet_in_neglabel() -> None:
    tuned: TunedDetector = fit(groups=3)
    learned = tuned.learned
    assert learned is not None
    assert learned.kind == "negative-labels"
    assert learned.about["labels"] == [f"word {m}" for m in sorted(set(IMAGES.labels[24:] - C))]
    assert (learned.about["head_steps"], learned.about["label_steps"]) == (3 * 6, 5 * 3)
    for stage in ("head_loss", "label_loss"):
        before, after = learned.about[stage]
        assert after < before
    # Tuned vectors stand in the rows of their names, all others as they were.
    vectors = dict(zip(learned.about["labels"], learned.arrays["labels"], strict=True))
    before_rows = dict(zip(NEGATIVES.names, NEGATIVES.features, strict=True))
    assert set(tuned.negative_names) == set(NEGATIVES.names)
    for name, row in zip(tuned.negative_names, tuned.tensors["negative_features"], strict=True):
        np.testing.assert_array_equal(row, vectors.get(name, before_rows[name]))
    assert any(not np.allclose(vectors[name], before_rows[name], atol=1e-3) for name in vectors)
    np.testing.assert_allclose(np.linalg.norm(learned.arrays["labels"], axis=1), 1, atol=1e-5)

    # The score, by softmax over each group, of moved images.
    images = ImageFeatures(RNG.normal(size=(6, D)).astype(np.float32) * 4)
    moved = plain_moved(tuned.tensors, images.raw)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    known = np.exp(SCALE * moved @ CLASSES.features.T)
    against = np.exp(SCALE * moved @ tuned.tensors["negative_features"].T)
    mass, first = [], 0
    for size in tuned.tensors["group_sizes"].tolist():
        group = against[:, first : first + size].sum(1)
        mass.append(known.sum(1) / (known.sum(1) + group))
        first += size
    scores = registry.score(tuned.compiled(), images)
    np.testing.assert_allclose(scores.score, np.mean(mass, axis=0), rtol=1e-4)
    assert scores.label.tolist() == known.argmax(1).tolist()
    own = METHOD.logits(tuned, images)  # type: ignore[misc]
    np.testing.assert_allclose(np.exp(own), known, rtol=1e-3)


def test_a_stage_can_be_left_out() -> None:
    labels_only, head_only = fit(tuned="labels"), fit(tuned="head")
    np.testing.assert_array_equal(project(labels_only.tensors, IMAGES.raw), IMAGES.raw)
    assert "head_loss" not in labels_only.learned.about
    plain = NEGATIVES.features[NEGATIVES.permutation]
    np.testing.assert_array_equal(head_only.tensors["negative_features"], plain)
    both = fit()
    for name in SHAPES:
        np.testing.assert_array_equal(both.tensors[name], head_only.tensors[name])
    np.testing.assert_array_equal(
        both.tensors["negative_features"], labels_only.tensors["negative_features"]
    )


@pytest.mark.parametrize("steps", [7, 18, 22])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(steps: int, tmp_path: Path) -> None:
    whole = fit(looping=Looping(RunFolder(tmp_path / "whole"), {"a": 1}))
    done = 0

    def die(report: StepReport) -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise KeyboardInterrupt

    folder = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        fit(looping=Looping(RunFolder(folder), {"a": 1}, on_step=die))
    seen: list[StepReport] = []
    again = fit(looping=Looping(RunFolder(folder, resume=True), {"a": 1}, on_step=seen.append))
    assert len(seen) == 33 - steps
    for name, array in whole.tensors.items():
        assert array.tobytes() == again.tensors[name].tobytes(), name
    assert whole.learned.about == again.learned.about
    with pytest.raises(UsageError, match="started with something else"):
        fit(looping=Looping(RunFolder(folder, resume=True), {"a": 2}))


def test_a_cost_is_the_sum_of_both_stages() -> None:
    probe = CostProbe()
    fit(looping=Looping(probe=probe))
    assert probe.cost is not None
    assert probe.cost.steps == 18 + 15
    assert probe.cost.trainable == D * D + 3 * D + len(np.unique(IMAGES.labels[24:])) * D


def test_what_cannot_be_learned_from() -> None:
    known = IMAGES.rows(np.arange(24))
    with pytest.raises(UsageError, match=r"no made images to learn from; give them with --synth"):
        fit(known)
    with pytest.raises(UsageError, match=r"1 of 3 classes have no training image \(class 0\)"):
        fit(IMAGES.rows(np.arange(8, len(IMAGES))))
    single = replace(IMAGES, labels=np.minimum(IMAGES.labels, C))
    tuned = fit(single)
    np.testing.assert_array_equal(tuned.learned.arrays["labels"], NEGATIVES.features[:1])
    assert "its vector stays as it was" in tuned.learned.about["notes"][1]
    broken = replace(IMAGES, raw=np.where(np.arange(44)[:, None] == 5, np.nan, IMAGES.raw))
    with pytest.raises(UsageError, match="--train: 1 of 44 embeddings hold NaN"):
        fit(broken)
    for name, value in (("tuned", "neither"), ("batch_size", 0), ("head_rate", 0.0)):
        with pytest.raises(UsageError, match=name):
            make_settings(METHOD, {name: value})


def test_normalised_images_are_refused_where_the_length_counts() -> None:
    tuned: Detector = fit()
    with pytest.raises(UsageError, match="normalised to length 1"):
        registry.score(tuned, ImageFeatures(unit(IMAGES.raw)))
    on_unit = fit(replace(IMAGES, raw=unit(IMAGES.raw)))
    assert on_unit.settings.embeddings == "unit"
    np.testing.assert_allclose(
        registry.score(on_unit, ImageFeatures(IMAGES.raw)).score,
        registry.score(on_unit, ImageFeatures(unit(IMAGES.raw))).score,
        rtol=1e-5,
    )


def test_its_score_without_any_training_is_that_of_neglabel() -> None:
    tuned = fit(tuned="labels", label_rate=1e-12)
    plain = neglabel.fit(CLASSES, neglabel.NegLabelSettings(), SCALE, negatives=NEGATIVES)
    images = ImageFeatures(IMAGES.raw)
    np.testing.assert_allclose(
        registry.score(tuned, images).score, neglabel.score(plain, images).score, rtol=1e-5
    )


def test_its_graph_and_its_lines_of_python_score_the_same() -> None:
    from vlood.detector.export.recipe import _FORMULAS
    from vlood.detector.export.torch_form import TorchForm

    tuned = fit(groups=2).compiled()
    images = ImageFeatures(IMAGES.raw)
    expected = registry.score(tuned, images)
    with torch.inference_mode():
        score, label, confidence = TorchForm(tuned)(
            torch.from_numpy(images.raw), torch.zeros(len(images), 0, D)
        )
    np.testing.assert_allclose(score.numpy(), expected.score, rtol=1e-4)
    np.testing.assert_allclose(confidence.numpy(), expected.confidence, rtol=1e-4)
    assert label.tolist() == expected.label.tolist()
    held: dict[str, Any] = {"torch": torch, "scale": SCALE}
    held["tensors"] = {name: torch.from_numpy(array) for name, array in tuned.tensors.items()}
    held["features"] = torch.from_numpy(images.raw)
    exec("\n".join(_FORMULAS["synood"](tuned)), held)
    np.testing.assert_allclose(held["score"].numpy(), expected.score, rtol=1e-4)


def test_labels_come_from_scaled_cosines_of_the_moved_images() -> None:
    tuned = fit()
    images = ImageFeatures(IMAGES.raw)
    by_length = tuned.settings.embeddings == "unit"
    moved = plain_moved(tuned.tensors, unit(IMAGES.raw) if by_length else IMAGES.raw)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    expected = SCALE * moved @ tuned.tensors["class_features"].T
    np.testing.assert_allclose(logits(tuned, images), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(registry.score(tuned, images).label, expected.argmax(axis=1))
