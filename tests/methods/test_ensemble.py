"""Ensembles on arrays: what is averaged, what is kept, what cannot be combined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import rankdata

from vlood.backbone.image_features import ImageFeatures
from vlood.detector.calibration import calibrate
from vlood.detector.folder import load_detector, save_detector
from vlood.detector.saved import SavedDetector
from vlood.engines.ensembling import MemberScores, check_combinable, ensemble_of
from vlood.engines.explaining import NearestNegatives, explain
from vlood.engines.scoring import needs_local
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.methods.ensemble import EnsembleSettings, combined, member_levels
from vlood.methods.logits import class_logits, top_labels
from vlood.prompts.classes import ClassName

from .feature_world import CLASSES, KNOWN, NAMES, STRANGE, TRAINING, D, auroc, fit

HELD_OUT = ImageFeatures(TRAINING.raw + 0.3)


def zero_shot(name: str) -> Detector:
    found = registry.get(name)
    return found.fit(CLASSES, found.settings(), 20.0)


MEMBERS = {"near": fit("knn"), "far": fit("mahalanobis"), "words": zero_shot("mcm")}


def scores_of(images: ImageFeatures, members: dict[str, Detector] = MEMBERS) -> list[np.ndarray]:
    return [registry.score(one, images).score for one in members.values()]


def saved(detector: Detector, **given: object) -> SavedDetector:
    return SavedDetector(detector, tuple(map(ClassName.of, NAMES)), **given)  # type: ignore[arg-type]


def test_ranks_are_averaged() -> None:
    known = scores_of(HELD_OUT)
    one = combined(MEMBERS, EnsembleSettings(), known, weights=[2, 1, 1])
    expected = np.average(
        [rankdata(each) / (len(each) + 1) for each in known], axis=0, weights=[2, 1, 1]
    )
    np.testing.assert_allclose(registry.score(one, HELD_OUT).score, expected, atol=1e-5)


def test_p_values_are_averaged_geometrically() -> None:
    known = scores_of(HELD_OUT)
    one = combined(MEMBERS, EnsembleSettings("probability"), known)
    assert one.settings.fit == "ranks"
    p = [rankdata(each) / (len(each) + 1) for each in known]
    found = registry.score(one, HELD_OUT).score
    np.testing.assert_allclose(found, np.exp(np.log(p).mean(axis=0)), atol=1e-5)


@pytest.mark.parametrize("kind", ["auto", "isotonic"])
def test_probabilities_are_averaged(kind: str) -> None:
    one = combined(
        MEMBERS, EnsembleSettings("probability", kind), scores_of(HELD_OUT), scores_of(STRANGE)
    )
    assert one.settings.fit == ("platt" if kind == "auto" else kind)
    levels = member_levels(one, scores_of(KNOWN))
    np.testing.assert_allclose(registry.score(one, KNOWN).score, levels.mean(axis=0), atol=1e-6)
    assert auroc(registry.score(one, KNOWN).score, registry.score(one, STRANGE).score) > 0.9


def test_labels_are_of_the_mean_class_probabilities() -> None:
    one = combined(MEMBERS, EnsembleSettings(), scores_of(HELD_OUT))
    said = registry.score(one, KNOWN)
    own = [softmax(class_logits(each, KNOWN), axis=1) for each in MEMBERS.values()]
    mean = np.mean(own, axis=0)
    np.testing.assert_array_equal(said.label, mean.argmax(axis=1))
    np.testing.assert_allclose(said.confidence, mean.max(axis=1), rtol=1e-6)
    order, probability = top_labels(one, KNOWN, 2)
    np.testing.assert_array_equal(order[:, 0], said.label)
    np.testing.assert_allclose(probability[:, 0], said.confidence, rtol=1e-6)


def test_a_folder_holds_the_members(tmp_path: Path) -> None:
    members = {name: saved(one) for name, one in MEMBERS.items()}
    known = MemberScores(scores_of(HELD_OUT), "digest")
    made = ensemble_of(members, EnsembleSettings(), known=known)
    save_detector(tmp_path / "one", made)
    loaded = load_detector(tmp_path / "one")
    assert list(loaded.members) == list(MEMBERS)
    assert loaded.width == D
    assert loaded.detector.settings == made.detector.settings
    before, after = registry.score(made.detector, KNOWN), registry.score(loaded.detector, KNOWN)
    np.testing.assert_array_equal(before.score, after.score)
    assert load_detector(tmp_path / "one" / "members" / "near").detector.method == "knn"
    assert "near (knn, weight 0.333)" in (tmp_path / "one" / "README.md").read_text()
    # Of an ensemble another can be made.
    nested = ensemble_of(
        {"all": loaded, "near": members["near"]},
        EnsembleSettings(),
        known=MemberScores([before.score, known.scores[0]], ""),
    )
    save_detector(tmp_path / "two", nested)
    assert load_detector(tmp_path / "two").detector.members["all"].members["far"].method
    (tmp_path / "one" / "members" / "near" / "tensors.safetensors").write_bytes(b"no")
    with pytest.raises(UsageError, match="damaged"):
        load_detector(tmp_path / "one")


def test_arrays_of_other_members_are_refused(tmp_path: Path) -> None:
    members = {name: saved(one) for name, one in MEMBERS.items()}
    made = ensemble_of(members, EnsembleSettings(), known=MemberScores(scores_of(HELD_OUT), ""))
    for name, change in {"weights": -1.0, "levels": 2.0, "points": -1.0}.items():
        array = made.detector.tensors[name] * np.float32(change)
        broken = replace(made.detector, tensors={**made.detector.tensors, name: array})
        with pytest.raises(UsageError, match="must"):
            registry.get("ensemble").check(broken)  # type: ignore[misc]


def test_calibrations_serve_as_known_images() -> None:
    members = {}
    for (name, one), values in zip(MEMBERS.items(), scores_of(HELD_OUT), strict=True):
        members[name] = saved(one, calibration=calibrate(values))
    made = ensemble_of(members, EnsembleSettings())
    direct = combined(MEMBERS, EnsembleSettings(), scores_of(HELD_OUT))
    found = registry.score(made.detector, KNOWN).score
    np.testing.assert_allclose(found, registry.score(direct, KNOWN).score, atol=1e-4)
    with pytest.raises(UsageError, match=r"far: is not calibrated.*--id"):
        ensemble_of({**members, "far": saved(MEMBERS["far"])}, EnsembleSettings())


def test_who_said_what_is_explained() -> None:
    one = combined(MEMBERS, EnsembleSettings(), scores_of(HELD_OUT))
    (said,) = explain(one, None, ImageFeatures(KNOWN.raw[:1]))
    assert [each["member"] for each in said.members] == list(MEMBERS)
    levels = [float(str(each["level"])) for each in said.members]
    expected = registry.score(one, ImageFeatures(KNOWN.raw[:1])).score[0]
    assert np.mean(levels) == pytest.approx(expected, abs=1e-5)
    assert "members: near 0." in said.sentence(None, 4)
    assert NearestNegatives.of_detector(one) is None


def test_needs_are_those_of_all_members() -> None:
    one = combined(MEMBERS, EnsembleSettings(), scores_of(HELD_OUT))
    assert not needs_local([one])
    with_regions = replace(one, members={**MEMBERS, "regions": zero_shot("gl-mcm")})
    assert needs_local([with_regions])


def test_members_decide_whether_two_ensembles_are_the_same() -> None:
    one = combined(MEMBERS, EnsembleSettings(), scores_of(HELD_OUT))
    other = replace(one, members={**MEMBERS, "near": fit("knn", k=3)})
    changed = set(registry.identity_arrays(other)) ^ set(registry.identity_arrays(one))
    assert not changed
    first, second = registry.identity_arrays(one)["near/"], registry.identity_arrays(other)["near/"]
    assert first.tobytes() != second.tobytes()


def test_what_cannot_be_combined() -> None:
    one, two = saved(MEMBERS["near"]), saved(MEMBERS["far"])

    def refused(**members: SavedDetector) -> str:
        with pytest.raises(UsageError) as error:
            check_combinable(members)
        return str(error.value)

    assert "two or more" in refused(one=one)
    reordered = replace(MEMBERS["far"], class_names=NAMES[::-1])
    assert "another order than one" in refused(one=one, two=saved(reordered))
    renamed = replace(MEMBERS["far"], class_names=("a", "b", "c", "d"))
    assert "other classes than one" in refused(one=one, two=saved(renamed))
    model = dict.fromkeys(("architecture", "config", "weights", "preprocessing"), "x")
    first = replace(one, backbone=model)
    assert "another model" in refused(one=first, two=replace(two, backbone={**model, "config": ""}))
    test_time = replace(MEMBERS["far"], method="adaneg")
    assert "depends on the images around it" in refused(one=one, two=saved(test_time))


def test_values_that_do_not_go_together() -> None:
    known = scores_of(HELD_OUT)
    for settings, strange, said in (
        (EnsembleSettings("probability", "platt"), None, "give them with --ood"),
        (EnsembleSettings(), known, "--combine probability"),
    ):
        with pytest.raises(UsageError, match=said):
            combined(MEMBERS, settings, known, strange)
    with pytest.raises(UsageError, match="needs ranks"):
        EnsembleSettings("rank", "platt")
    with pytest.raises(UsageError, match="3 numbers above 0"):
        combined(MEMBERS, EnsembleSettings(), known, weights=[1, 0, 1])
    with pytest.raises(UsageError, match="words: gives all the images the same score"):
        combined(MEMBERS, EnsembleSettings(), [known[0], known[1], np.ones(4)])
    with pytest.raises(UsageError, match="vlood tune ensemble"):
        registry.get("ensemble").fit()
