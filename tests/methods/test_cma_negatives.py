"""Who chooses the negatives of tuned towers: the model as it was, or the tuned one."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.methods.test_cma import NAMES, base, fit  # noqa: F401 (a fixture)
from vlood.backbone.backbone import Backbone
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.templates import ClassFeatures


def test_the_tuned_tower_mines_only_where_it_is_asked_to(base: Backbone) -> None:  # noqa: F811
    asked: list[tuple[Backbone, ClassFeatures]] = []

    def mine(tuned: Backbone, classes: ClassFeatures) -> NegativeFeatures:
        asked.append((tuned, classes))
        return NegativeFeatures.of(("anvil", "brook"), np.eye(2, tuned.embed_dim))

    def tuned(**given: Any) -> Any:
        return fit(base, {"mine": mine}, tune="projection", epochs=1, augment="none", **given)

    plain = tuned()
    assert not asked
    assert sorted(plain.negative_names) == ["harp", "stony", "tench"]
    assert plain.learned.about["negatives_mined_by"] == "original"

    mined = tuned(mined_by="tuned")
    assert sorted(mined.negative_names) == ["anvil", "brook"]
    assert mined.learned.about["negatives_mined_by"] == "tuned"
    (model, classes), = asked  # fmt: skip
    # It looks with the towers it was tuned to, not with those it started from.
    assert model.digest == mined.backbone.digest != base.digest
    assert classes.names == NAMES
    np.testing.assert_array_equal(classes.features, mined.tensors["class_features"])

    without = tuned(mined_by="tuned", score="mcm")
    assert without.method == "mcm"
    assert without.learned.about["negatives_mined_by"] is None
    assert len(asked) == 1
