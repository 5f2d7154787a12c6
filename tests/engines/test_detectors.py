"""Which template, which negatives and which settings each method is fitted with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlood.engines import detectors as module
from vlood.engines.detectors import fit_all, fit_zero_shot, negatives_beside, settings_by_method
from vlood.engines.mining import Encoder, mine_words
from vlood.engines.negatives import NegativesChoice
from vlood.engines.text_side import TextSide, class_side, classes_from_files
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.negatives.bank_folder import save_bank
from vlood.negatives.corpora import read_corpus
from vlood.negatives.mining import MiningSettings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.negatives.prompting import Prompting
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import DEFAULT_TEMPLATE, ClassFeatures, class_features

CLASSES = (ClassName.of("house"), ClassName.of("upwards arrow"))
NICE = ("the nice {}",)


def fit(
    encoder: Encoder | None,
    methods: list[str],
    side: TextSide | None = None,
    negatives: NegativesChoice | None = None,
    **settings: str,
) -> list[Detector]:
    fitted = fit_all(
        methods,
        side or TextSide(CLASSES),
        negatives or NegativesChoice(),
        encoder,
        settings,
        announce=lambda line: None,
    )
    return [one.detector for one in fitted]


def assert_template(detector: Detector, encoder: Encoder, templates: tuple[str, ...]) -> None:
    expected = class_features(encoder.encode, CLASSES, templates).features
    np.testing.assert_allclose(detector.tensors["class_features"], expected, atol=1e-6)


@pytest.fixture
def bank(plain: Encoder, tmp_path: Path) -> NegativesChoice:
    prompting = Prompting(("an icon of a {}",), ("a {} icon",))
    mined = mine_words(read_corpus("bundled"), CLASSES, prompting, MiningSettings(size=10), plain)
    save_bank(tmp_path / "bank", mined)
    return NegativesChoice(str(tmp_path / "bank"))


def test_the_users_template_goes_before_the_banks(plain: Encoder, bank: NegativesChoice) -> None:
    side = TextSide(CLASSES, ("my {}", "your {}"))
    for detector in fit(plain, ["mcm", "neglabel"], side, bank):
        assert_template(detector, plain, ("my {}", "your {}"))


def test_the_banks_template_goes_before_the_methods(plain: Encoder, bank: NegativesChoice) -> None:
    plain_one, with_negatives = fit(plain, ["mcm", "neglabel"], None, bank)
    assert_template(with_negatives, plain, ("an icon of a {}",))
    assert_template(plain_one, plain, (DEFAULT_TEMPLATE,))
    assert len(with_negatives.negative_names) == 10


def test_the_methods_template_goes_before_the_usual_one(cached: Encoder) -> None:
    usual, own = fit(cached, ["mcm", "neglabel"])
    assert_template(usual, cached, (DEFAULT_TEMPLATE,))
    assert_template(own, cached, NICE)
    assert registry.get("neglabel").record.template == NICE[0]


def test_mined_negatives_are_worded_as_the_user_words_the_classes(cached: Encoder) -> None:
    (own,) = fit(cached, ["neglabel"])
    (mine,) = fit(cached, ["neglabel"], TextSide(CLASSES, ("my {}",)))
    for detector, template in ((own, NICE[0]), (mine, "my {}")):
        raw = cached.encode([template.replace("{}", term) for term in detector.negative_names])
        expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(detector.tensors["negative_features"], expected, atol=1e-5)


def test_negatives_are_found_once_for_all_that_share_them(
    cached: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def find(*given: Any, whole_corpus: bool, **more: Any) -> NegativeFeatures:
        asked.append(whole_corpus)
        rows = np.random.default_rng(0).normal(size=(20, 128))
        return NegativeFeatures.of([f"n{row}" for row in range(20)], rows)

    monkeypatch.setattr(module, "find_negatives", find)
    found = fit(cached, ["neglabel", "adaneg", "tanl", "mcm"])
    assert asked == [False, True]
    assert [each.method for each in found] == ["neglabel", "adaneg", "tanl", "mcm"]
    assert set(found[0].negative_names) == set(found[1].negative_names)


def test_tanl_takes_the_whole_corpus_and_sees_noise(cached: Encoder) -> None:
    tanl, neglabel = fit(cached, ["tanl", "neglabel"])
    assert set(neglabel.negative_names) < set(tanl.negative_names)
    assert len(tanl.negative_names) > 200
    noise = tanl.tensors["noise_features"]
    assert noise.shape == (15, 128)
    np.testing.assert_allclose(np.linalg.norm(noise, axis=1), 1, atol=1e-5)


def test_noise_needs_a_model_to_see_it(plain: Encoder, bank: NegativesChoice) -> None:
    side = TextSide(CLASSES, class_embeddings=(write_classes(Path(bank.given or ".")),))
    with pytest.raises(UsageError, match="--method tanl: begins with pictures of noise, and emb"):
        fit(None, ["tanl"], side, bank)


def write_classes(folder: Path, dim: int = 128) -> Path:
    path = folder / "classes.npy"
    np.save(path, np.eye(3, dim, dtype=np.float32))
    path.with_suffix(".txt").write_text("Upwards_Arrow\nother\nhouse\n")
    return path


def test_arrays_alone_are_enough_with_negative_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "negatives.npy"
    np.save(path, np.random.default_rng(0).normal(size=(9, 128)))
    path.with_suffix(".txt").write_text("\n".join(f"n{row}" for row in range(9)))
    side = TextSide(None, class_embeddings=(write_classes(tmp_path),), logit_scale=None)
    found = fit(None, ["mcm", "neglabel"], side, NegativesChoice(embeddings=(path,)))
    for detector in found:
        assert detector.class_names == ("Upwards_Arrow", "other", "house")
        assert detector.logit_scale == 100.0
    assert set(found[1].negative_names) == {f"n{row}" for row in range(9)}


def test_class_embeddings_are_picked_by_label_or_prompt_in_the_order_asked(tmp_path: Path) -> None:
    path = write_classes(tmp_path)
    picked = classes_from_files([path], [ClassName("h", "House"), *CLASSES[1:]])
    assert picked.names == ("h", "upwards arrow")
    np.testing.assert_array_equal(picked.features, np.eye(3, 128)[[2, 0]])
    with pytest.raises(UsageError, match=r"1 of 1 are not among the names of .*: cat"):
        classes_from_files([path], [ClassName.of("cat")])


def test_class_embeddings_of_another_width_than_the_model_are_refused(
    plain: Encoder, tmp_path: Path
) -> None:
    side = TextSide(None, class_embeddings=(write_classes(tmp_path, 64),))
    with pytest.raises(UsageError, match="rows have 64 numbers, but the embeddings of bundled hav"):
        class_side(side, (DEFAULT_TEMPLATE,), plain)
    with pytest.raises(UsageError, match="--classes: need a model to encode them"):
        class_side(TextSide(CLASSES), (DEFAULT_TEMPLATE,), None)


def test_the_logit_scale_is_the_users_or_the_models_or_a_hundred(
    plain: Encoder, tmp_path: Path
) -> None:
    assert TextSide(CLASSES, logit_scale=7.0).scale(plain) == 7.0
    assert TextSide(CLASSES).scale(plain) == plain.backbone.logit_scale
    assert TextSide(CLASSES).scale(None) == 100.0
    assert TextSide(CLASSES, class_embeddings=(tmp_path,)).scale(plain) == 100.0
    assert fit(plain, ["msp"], TextSide(CLASSES, logit_scale=7.0))[0].logit_scale == 7.0


def test_a_setting_goes_to_every_method_that_has_it_or_to_the_one_named() -> None:
    methods = [registry.get(name) for name in ("neglabel", "adaneg", "mcm", "max-logit")]
    given = {"groups": "3", "adaneg.gap": "0.2", "temperature": "2", "mcm.temperature": "4"}
    assert settings_by_method(methods, given) == {
        "neglabel": {"groups": "3", "temperature": "2"},
        "adaneg": {"groups": "3", "gap": "0.2"},
        "mcm": {"temperature": "4"},
        "max-logit": {},
    }


def test_a_setting_nobody_has_is_refused_by_the_first_method() -> None:
    classes = ClassFeatures.of(["a", "b"], np.eye(2))
    with pytest.raises(
        UsageError, match=r"mcm has no setting 'group'; .*settings are: temperature"
    ):
        fit_zero_shot(["mcm", "energy"], classes, 100.0, {"group": "3"})
    with pytest.raises(UsageError, match=r"mcm has no setting 'gl-mcm\.lambda_local'"):
        fit_zero_shot(["mcm"], classes, 100.0, {"gl-mcm.lambda_local": "3"})
    with pytest.raises(UsageError, match="max-logit has no setting 'temperature'"):
        fit_zero_shot(["max-logit", "mcm"], classes, 100.0, {"max-logit.temperature": "3"})


def test_without_negatives_a_method_that_needs_them_is_refused() -> None:
    classes = ClassFeatures.of(["a", "b"], np.eye(2, 8))
    negatives = NegativeFeatures.of(["x"], np.ones((1, 8)))
    with pytest.raises(UsageError, match="--method neglabel: needs negatives, not only class"):
        fit_zero_shot(["neglabel"], classes, 100.0)
    with pytest.raises(UsageError, match="--method tanl: needs noise, not only class names"):
        fit_zero_shot(["tanl"], classes, 100.0, negatives=negatives)
    found = fit_zero_shot(["neglabel", "mcm"], classes, 100.0, {"groups": "1"}, negatives=negatives)
    assert found[0].negative_names == ("x",)
    assert found[1].negative_names == ()


def test_negatives_beside_a_detector_are_for_its_classes(
    plain: Encoder, bank: NegativesChoice
) -> None:
    (detector,) = fit(plain, ["mcm"])
    side = TextSide(CLASSES)
    found = negatives_beside(detector, side, bank, plain, announce=lambda line: None)
    assert len(found) == 10
    with pytest.raises(UsageError, match="was mined for other classes"):
        negatives_beside(detector, TextSide(CLASSES[:1]), bank, plain, announce=lambda line: None)
    assert "house" not in found.names
