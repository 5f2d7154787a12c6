"""Sets of scores compared: each image by itself, or two sets as one stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.evaluating import (
    SetScores,
    accuracy_of,
    collect_scores,
    compare,
    result_rows,
    write_report,
)
from vlood.engines.scoring import Scorer, is_stream, score_embeddings
from vlood.engines.streaming import mixed_stream
from vlood.features.embeddings import Embeddings
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

D = 12
CLASSES = ClassFeatures.of(["dog", "cat", "owl"], np.eye(3, D))


def detector_of(name: str) -> Detector:
    method, rng = registry.get(name), np.random.default_rng(0)
    given: dict[str, Any] = {}
    if "negatives" in method.record.needs:
        rows = np.roll(np.eye(D), 3, axis=1)[:20]
        given["negatives"] = NegativeFeatures.of([f"n{row}" for row in range(len(rows))], rows)
    if "noise" in method.record.needs:
        given["noise"] = rng.normal(size=(15, D))
    return method.fit(CLASSES, method.settings(), 30.0, **given)


def embeddings_of(count: int, seed: int, shift: int = 0, *, labelled: bool = True) -> Embeddings:
    rng = np.random.default_rng(seed)
    labels = [CLASSES.names[row % 3] for row in range(count)]
    rows = np.roll(np.eye(3, D), shift, axis=1)[np.arange(count) % 3]
    raw = (rows + 0.2 * rng.normal(size=(count, D))).astype(np.float32)
    ids = [f"{seed}/{row}.png" for row in range(count)]
    return Embeddings(raw, ids, labels if labelled else None)


def set_of(detectors: list[Detector], embeddings: Embeddings) -> SetScores:
    """What `vlood evaluate` does: stateless detectors score, features stay for the others."""
    alone = [each for each in detectors if not is_stream(each)]
    index = {name: row for row, name in enumerate(CLASSES.names)}
    batches = score_embeddings(embeddings, alone, batch_size=7)
    return collect_scores(batches, len(alone), index, keep_features=True)


KNOWN, NEAR, FAR = embeddings_of(24, 1), embeddings_of(15, 2, 4), embeddings_of(10, 3, 8)
SETS = {("near", "near set"): NEAR, ("far", "far set"): FAR}


def compared(names: list[str], **given: Any) -> list[Any]:
    detectors = [detector_of(name) for name in names]
    others = {key: set_of(detectors, each) for key, each in SETS.items()}
    return compare(detectors, set_of(detectors, KNOWN), others, **given)


def test_scores_of_batches_are_gathered_in_order() -> None:
    detectors = [detector_of("mcm"), detector_of("neglabel")]
    found = set_of(detectors, KNOWN)
    assert len(found) == found.labelled == 24
    for number, detector in enumerate(detectors):
        scores = registry.score(detector, ImageFeatures(KNOWN.features))
        np.testing.assert_allclose(found.scores[number], scores.score, rtol=1e-5)
        np.testing.assert_array_equal(found.predicted[number], scores.label)
    np.testing.assert_array_equal(found.features, KNOWN.features)
    np.testing.assert_array_equal(found.true, np.arange(24) % 3)
    nothing = collect_scores([], 2, {})
    assert len(nothing) == 0
    assert [len(scores) for scores in nothing.scores] == [0, 0]
    assert nothing.features is None


def test_every_detector_meets_every_set() -> None:
    found = compared(["adaneg", "mcm", "tanl", "neglabel"])
    assert [(each.detector.method, each.group, each.ood) for each in found] == [
        (name, group, ood) for name in ("adaneg", "mcm", "tanl", "neglabel") for group, ood in SETS
    ]
    assert [each.stream for each in found[::2]] == [
        *("order-dependent", "", "transductive", ""),
    ]
    for each in found:
        assert len(each.id_scores) == 24
        assert len(each.ood_scores) == len(SETS[each.group, each.ood].features)
        assert each.id_accuracy == 1.0


def test_an_image_by_itself_scores_alike_whatever_stands_beside_the_detector() -> None:
    found = compared(["adaneg", "mcm", "tanl", "neglabel"])
    for each in found:
        if not each.stream:
            scores = registry.score(each.detector, ImageFeatures(KNOWN.features))
            np.testing.assert_allclose(each.id_scores, scores.score, rtol=1e-5)
            other = ImageFeatures(SETS[each.group, each.ood].features)
            np.testing.assert_allclose(
                each.ood_scores, registry.score(each.detector, other).score, rtol=1e-5
            )


@pytest.mark.parametrize("name", ["adaneg", "tanl"])
def test_a_stream_starts_afresh_for_each_set_and_follows_batches_and_seed(name: str) -> None:
    found = compared([name], batch_size=5, seed=3)
    for each in found:
        known, others = mixed_stream(
            each.detector,
            ImageFeatures(KNOWN.features),
            ImageFeatures(SETS[each.group, each.ood].features),
            batch_size=5,
            seed=3,
        )
        np.testing.assert_array_equal(each.id_scores, known.score)
        np.testing.assert_array_equal(each.ood_scores, others.score)
    other = compared([name], batch_size=9, seed=3)
    assert not np.array_equal(other[0].id_scores, found[0].id_scores)


def test_a_scorer_carries_the_state_from_batch_to_batch() -> None:
    detector = detector_of("adaneg")
    whole = np.concatenate(
        [each.scores[0].score for each in score_embeddings(KNOWN, [detector], batch_size=8)]
    )
    first = Scorer([detector])
    parts = [KNOWN.features[begin : begin + 8] for begin in (0, 8, 16)]
    ids = [KNOWN.ids[begin : begin + 8] for begin in (0, 8, 16)]
    early = [first.score(ImageFeatures(parts[0]), ids[0])[0].score]
    second = Scorer([detector], first.states, first.order)
    late = [
        second.score(ImageFeatures(part), some)[0].score
        for part, some in zip(parts[1:], ids[1:], strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate([*early, *late]), whole)
    assert (first.order.images, second.order.images) == (8, 24)
    assert Scorer([detector_of("mcm")]).states == [None]


def test_an_accuracy_needs_labels() -> None:
    assert accuracy_of(np.array([-1, -1]), np.array([0, 1])) is None
    assert accuracy_of(np.array([0, -1, 1]), np.array([0, 1, 0])) == 0.5
    detectors = [detector_of("adaneg")]
    unlabelled = set_of(detectors, embeddings_of(9, 4, labelled=False))
    found = compare(detectors, unlabelled, {("-", "x"): set_of(detectors, FAR)})
    assert found[0].id_accuracy is None


def test_a_report_has_a_picture_a_method_and_one_a_set_for_a_stream(tmp_path: Path) -> None:
    comparisons = compared(["mcm", "adaneg"])
    rows = result_rows(comparisons, "known", resamples=0)
    write_report(tmp_path, rows, comparisons)
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {
        f"{kind}-{what}.png"
        for kind in ("roc", "scores")
        for what in ("mcm", "adaneg-near_set", "adaneg-far_set")
    }
    records = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [record["stream"] for record in records] == ["", "", *["order-dependent"] * 2]
    assert [record["id"] for record in records] == ["known"] * 4


def test_a_report_of_one_method_needs_no_name_in_its_pictures(tmp_path: Path) -> None:
    comparisons = compared(["mcm"])
    write_report(tmp_path, result_rows(comparisons, "known", resamples=0), comparisons)
    assert {path.name for path in tmp_path.glob("*.png")} == {"roc.png", "scores.png"}
