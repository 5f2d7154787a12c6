"""What is refused before a training reads its images, and what it says of unreadable ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.text_side import TextSide
from vlood.engines.training_checks import ReadErrors, check_model, check_settings
from vlood.engines.training_images import LabelledBatch, training_set
from vlood.errors import UsageError
from vlood.prompts.classes import ClassName

CLASSES = tuple(map(ClassName.of, ("cat", "dog", "red bus")))


@dataclass
class Model:
    name: str = "some"
    local_refusal: str | None = None
    text_tower: Any = "a causal one"


@pytest.mark.parametrize("method", ["coop", "locoop"])
def test_settings_and_classes_are_looked_at_before_a_model_is_loaded(method: str) -> None:
    check_settings(method, TextSide(CLASSES), {"epochs": "3"})
    with pytest.raises(UsageError, match=r"learning_rate is 0\.0; expected a finite number, more"):
        check_settings(method, TextSide(CLASSES), {f"{method}.learning_rate": "0"})
    with pytest.raises(UsageError, match=f"{method} tells classes apart and needs at least 2"):
        check_settings(method, TextSide(CLASSES[:1]), {})
    with pytest.raises(UsageError, match="has no setting"):
        check_settings(method, TextSide(CLASSES), {"rate": "1"})


def test_the_number_of_classes_bounds_top_k() -> None:
    check_settings("locoop", TextSide(CLASSES), {"top_k": "2"})
    with pytest.raises(UsageError, match="top_k is 3 and there are 3 classes"):
        check_settings("locoop", TextSide(CLASSES), {"top_k": "3"})


def test_a_model_must_have_what_a_method_trains_with() -> None:
    lacking = Model(local_refusal="timm image towers have no value path")
    check_model("locoop", Model())  # type: ignore[arg-type]
    check_model("coop", lacking)  # type: ignore[arg-type]
    check_model("linear-probe", Model(text_tower=None))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--model some: timm image towers have no value path"):
        check_model("locoop", lacking)  # type: ignore[arg-type]
    for method in ("coop", "locoop"):
        with pytest.raises(UsageError, match="--model some: its text tower is not a causal one"):
            check_model(method, Model(text_tower=None))  # type: ignore[arg-type]


def batch() -> Iterator[LabelledBatch]:
    """Yield one image of each class; that of the last cannot be read."""
    features = ImageFeatures(np.ones((2, 4), np.float32))
    yield LabelledBatch(
        ["a.png", "b.png", "c\n.png"],
        ["cat", "dog", "red bus"],
        np.arange(2),
        features,
        {2: "is no image"},
    )


def test_a_class_whose_images_cannot_be_read_says_so() -> None:
    errors = ReadErrors()
    with pytest.raises(UsageError) as caught, errors.explaining():
        training_set(errors.noted(batch()), CLASSES)
    said = str(caught.value)
    assert "1 of 3 classes have no training image (red bus)" in said
    assert said.endswith("; 1 training image could not be read, such as c\\n.png: is no image")
    assert "\n" not in said
    # Without one, and without a refusal, nothing is added.
    with pytest.raises(UsageError) as plain, ReadErrors().explaining():
        training_set([], CLASSES)
    assert str(plain.value) == "--train: no images; name labelled images or embeddings"
    with errors.explaining():
        assert len(training_set(errors.noted(batch()), CLASSES[:2]).images) == 2
