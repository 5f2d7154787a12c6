"""What is said of an image, with and without negatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.explaining import Explanation, NearestNegatives, explain
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures

CLASSES = ClassFeatures.of(["dog", "cat"], np.eye(2, 8))
NEGATIVES = NegativeFeatures.of(
    ["sun", "moon", "star", "tree", "sea", "sand"], np.roll(np.eye(6, 8), 2, axis=1)
)
IMAGES = ImageFeatures(np.array([[0.8, 0, 0, 0.6, 0.1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 2]], "f4"))


def detector_of(name: str) -> Detector:
    method = registry.get(name)
    given: dict[str, Any] = {"negatives": NEGATIVES} if "negatives" in method.record.needs else {}
    return method.fit(CLASSES, method.settings(), 10.0, **given)


WITH = Explanation([{"label": "dog", "probability": 0.73}], [{"term": "moon", "similarity": 0.6}])
WITHOUT = Explanation([{"label": "dog", "probability": 0.73}], [])


@pytest.mark.parametrize(
    ("one", "ood", "sentence"),
    [
        (WITH, True, "not one of your 12 classes; nearest word: moon"),
        (WITHOUT, True, "not one of your 12 classes; nearest of them: dog"),
        (WITH, False, "dog (73%)"),
        (WITHOUT, False, "dog (73%)"),
        (WITH, None, "of your 12 classes most like dog (73%); nearest word outside them: moon"),
        (WITHOUT, None, "of your 12 classes most like dog (73%)"),
    ],
)
def test_the_sentence_follows_the_decision(
    one: Explanation, ood: bool | None, sentence: str
) -> None:
    assert one.sentence(ood, 12) == sentence


def test_images_are_explained_by_their_classes_and_nearest_negatives() -> None:
    detector = detector_of("neglabel")
    near = NearestNegatives.of_detector(detector)
    assert near is not None
    first, second = explain(detector, near, IMAGES)
    assert [each["label"] for each in first.top_labels] == ["dog", "cat"]
    assert [each["label"] for each in second.top_labels] == ["cat", "dog"]
    assert [each["term"] for each in first.nearest_negatives][:2] == ["moon", "star"]
    assert second.nearest_negatives[0]["term"] == "sand"
    assert len(first.nearest_negatives) == 5
    unit = IMAGES.unit @ NEGATIVES.features.T
    np.testing.assert_allclose(
        [each["similarity"] for each in first.nearest_negatives], -np.sort(-unit[0])[:5], atol=1e-6
    )
    cosines = 10 * (IMAGES.unit[0] @ CLASSES.features.T).astype(np.float64)
    assert first.top_labels[0]["probability"] == pytest.approx(
        1 / (1 + np.exp(cosines[1] - cosines[0])), rel=1e-5
    )


def test_without_negatives_classes_alone_are_named() -> None:
    assert NearestNegatives.of_detector(detector_of("mcm")) is None
    found = explain(detector_of("mcm"), None, IMAGES)
    assert [each.nearest_negatives for each in found] == [[], []]
    beside = explain(detector_of("mcm"), NearestNegatives.of(NEGATIVES), IMAGES)
    assert beside[0].nearest_negatives[0]["term"] == "moon"


def test_no_image_needs_no_explanation() -> None:
    none = ImageFeatures(np.empty((0, 8), np.float32))
    assert explain(detector_of("neglabel"), NearestNegatives.of(NEGATIVES), none) == []


def test_a_neighbour_that_an_approximate_index_does_not_find_is_left_out() -> None:
    class Short:
        def search(self, queries: Any, count: int, rows: Any = None) -> tuple[Any, Any]:
            return np.array([[0.9, -np.inf]], "f4"), np.array([[3, -1]])

    near = NearestNegatives(NEGATIVES.names, Short())  # type: ignore[arg-type]
    (found,) = explain(detector_of("mcm"), near, ImageFeatures(IMAGES.raw[:1]))
    assert found.nearest_negatives == [{"term": "tree", "similarity": pytest.approx(0.9)}]


def test_the_deciding_region_is_the_one_most_like_a_class() -> None:
    local = np.full((2, 6, 8), 0.1, "f4")
    local[0, 4, 1] = 5  # of a 2 x 3 grid: row 2, column 2; like the second class
    local[1, 2, 0] = 5
    images = ImageFeatures(IMAGES.raw, local, (2, 3))
    detector = detector_of("gl-mcm")
    first, second = explain(detector, None, images)
    assert first.region is not None
    assert second.region is not None
    place = {name: first.region[name] for name in ("row", "column", "rows", "columns", "label")}
    assert place == {"row": 2, "column": 2, "rows": 2, "columns": 3, "label": "cat"}
    assert (second.region["row"], second.region["column"]) == (1, 3)
    assert second.region["label"] == "dog"
    assert 0.5 < float(str(first.region["probability"])) < 1
    assert first.sentence(None, 2).endswith(
        "; the region that decided: row 2, column 2 of 2 x 3, most like cat"
    )
    # A method that scores the whole image says nothing of regions, and neither do maps without one.
    assert all(one.region is None for one in explain(detector_of("mcm"), None, images))
    assert all(one.region is None for one in explain(detector, None, ImageFeatures(IMAGES.raw)))
