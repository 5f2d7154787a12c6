"""What was learned or set for some classes, applied to others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlood.detector.calibration import calibrate
from vlood.detector.saved import Learned, SavedDetector
from vlood.engines.applying import apply_detector
from vlood.engines.detectors import fit_all
from vlood.engines.mining import Encoder
from vlood.engines.negatives import NegativesChoice
from vlood.engines.saved_detectors import saved_from
from vlood.engines.text_side import TextSide
from vlood.errors import UsageError
from vlood.prompts.classes import ClassName, read_classes
from vlood.prompts.contexts import Contexts, encode_prompts
from vlood.prompts.templates import ClassFeatures

OTHERS = tuple(map(ClassName.of, ("heart", "anchor", "gear")))
SAID: list[str] = []


def tuned(method: str, encoder: Encoder) -> SavedDetector:
    side = TextSide(read_classes("world"), ("a {}.",))
    choice = NegativesChoice()
    fitted = fit_all([method], side, choice, encoder, {}, announce=SAID.append)[0]
    saved = saved_from(fitted, side.classes, encoder, {"command": "test"})
    scores = np.linspace(0.1, 0.9, 40)
    return replace(saved, calibration=calibrate(scores), figures=({"auroc": 0.9},))


def applied(saved: SavedDetector, encoder: Encoder, **options: Any) -> SavedDetector:
    given = {"threshold": None, "where": "mine", "announce": SAID.append, **options}
    negatives = given.pop("negatives", NegativesChoice())
    return apply_detector(saved, OTHERS, negatives, encoder, **given)


@pytest.mark.parametrize("method", ["mcm", "neglabel"])
def test_settings_and_templates_stay_and_the_rest_is_made_anew(method: str, plain: Encoder) -> None:
    saved = tuned(method, plain)
    made = applied(saved, plain, threshold=0.25)
    side = TextSide(OTHERS, ("a {}.",))
    fresh = fit_all([method], side, NegativesChoice(), plain, {}, announce=SAID.append)[0].detector
    for name, array in fresh.tensors.items():
        np.testing.assert_array_equal(made.detector.tensors[name], array)
    assert made.detector.settings == saved.detector.settings
    assert made.classes == OTHERS
    assert (made.calibration, made.figures, made.threshold) == (None, (), 0.25)
    assert len(made.negatives) == len(made.detector.negative_names)
    assert made.provenance["applied_from"] == "mine"


def with_contexts(saved: SavedDetector, encoder: Encoder, *, blocks: int = 0) -> SavedDetector:
    rng = np.random.default_rng(0)
    width = encoder.backbone.text_tower.module.token_embedding.weight.shape[1]  # type: ignore[union-attr]
    shape = (blocks, 3, width) if blocks else (3, width)
    arrays = {"ctx": rng.normal(0, 0.02, shape).astype(np.float32)}
    if saved.negatives:
        arrays["negative_ctx"] = rng.normal(0, 0.02, (3, width)).astype(np.float32)
    return replace(saved, learned=Learned("contexts", arrays, {"position": "end"}), templates=())


def test_shared_contexts_go_before_other_names(plain: Encoder) -> None:
    saved = with_contexts(tuned("mcm", plain), plain)
    assert saved.learned is not None
    made = applied(saved, plain)
    contexts = Contexts(saved.learned.arrays["ctx"])
    rows = encode_prompts(plain.backbone, contexts, [each.prompt for each in OTHERS])
    names = [each.name for each in OTHERS]
    np.testing.assert_array_equal(
        made.detector.tensors["class_features"], ClassFeatures.of(names, rows).features
    )
    assert made.learned is saved.learned


def test_the_negatives_get_their_own_contexts(plain: Encoder, tmp_path: Any) -> None:
    saved = with_contexts(tuned("neglabel", plain), plain)
    assert saved.learned is not None
    words = tmp_path / "words.txt"
    words.write_text("sun\nmoon\nstar\n")
    made = applied(saved, plain, negatives=NegativesChoice(str(words)))
    contexts = Contexts(saved.learned.arrays["negative_ctx"])
    rows = encode_prompts(plain.backbone, contexts, list(made.detector.negative_names))
    np.testing.assert_allclose(
        made.detector.tensors["negative_features"],
        ClassFeatures.of(made.detector.negative_names, rows).features,
        atol=1e-6,
    )


def test_what_belongs_to_its_own_classes_is_refused(plain: Encoder) -> None:
    saved = tuned("mcm", plain)
    with pytest.raises(UsageError, match=r"class-specific \(12 blocks"):
        applied(with_contexts(saved, plain, blocks=12), plain)
    with pytest.raises(UsageError, match="came from embeddings"):
        applied(replace(saved, templates=()), plain)
    with pytest.raises(UsageError, match="cannot be applied to other classes"):
        applied(replace(saved, learned=Learned("weights", {})), plain)
    assert saved.backbone is not None
    other = replace(saved, backbone={**saved.backbone, "weights": "x"})
    with pytest.raises(UsageError, match="another model"):
        applied(other, plain)
