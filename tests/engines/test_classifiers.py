"""A classifier beside the bundled model: streamed, cached, recorded, refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlood.backbone.classifier.classifier import Classifier
from vlood.backbone.classifier.input import MEANS, ClassifierInput
from vlood.detector import classifier as recorded
from vlood.detector.folder import load_detector, save_detector
from vlood.detector.saved import SavedDetector
from vlood.engines.classifiers import add_classifier, choose, choose_for, with_classifier
from vlood.engines.training_images import Candidates, few_shot_set, labelled_images
from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.stream import StreamSettings, encode_images, encode_pictures
from vlood.images.decode import DecodeSettings
from vlood.images.sources import find_images
from vlood.images.views import View
from vlood.methods import registry
from vlood.methods.contract import make_settings
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures

NAMES = ("red", "green", "blue")
SETTINGS = StreamSettings(4, 2)


def colours(
    seed: int = 0, names: tuple[str, ...] = NAMES, size: int = 16, **how: Any
) -> Classifier:
    """A classifier by the mean colour; it counts the pictures it was shown."""
    matrix = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, len(names)))).float()

    def run(images: torch.Tensor) -> torch.Tensor:
        made.shown += len(images)  # type: ignore[attr-defined]
        return images.mean(dim=(2, 3)) @ matrix

    seen = ClassifierInput((size, size), size, "bilinear", *MEANS["imagenet"])
    given = {"kind": "timm", "architecture": "colours", "digest": f"{seed:032x}", **how}
    made = Classifier(
        name=f"/nowhere/{seed}",
        names=names,
        named=True,
        input=seen,
        run=run,
        device="cpu",
        precision="fp32",
        **given,
    )
    made.shown = 0  # type: ignore[attr-defined]
    return made


@pytest.fixture
def beside(backbone: Any) -> Iterator[Any]:
    backbone.classifier = colours()
    yield backbone
    backbone.classifier = None


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures of three classes, two of them the same, and one that is none."""
    base = tmp_path_factory.mktemp("coloured")
    rng = np.random.default_rng(0)
    for row, name in enumerate(NAMES):
        (base / name).mkdir()
        for number in range(3):
            pixels = rng.integers(0, 120, (40, 30, 3), np.uint8)
            pixels[..., row] += 120
            Image.fromarray(pixels).save(base / name / f"{number}.png")
    (base / "red" / "1.png").write_bytes((base / "red" / "0.png").read_bytes())
    (base / "red" / "x.png").write_bytes(b"no picture")
    return base


def logits_of(batches: Any) -> np.ndarray:
    return np.concatenate([batch.features.logits.values for batch in batches])


def test_logits_are_streamed_and_cached_like_embeddings(
    beside: Any, images: Path, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    items = list(find_images([str(images)]))
    opened = [Image.open(one.path) for one in items if not one.path.endswith("x.png")]
    wanted = encode_pictures(opened, beside)
    assert wanted.logits is not None
    by_hand = np.stack([beside.classifier.preprocessing.prepare(one) for one in opened])
    np.testing.assert_allclose(wanted.logits.values, beside.classifier.logits(by_hand), rtol=1e-5)
    beside.classifier.shown = 0
    first = list(encode_images(items, beside, SETTINGS, cache=cache))
    assert beside.classifier.shown == sum(batch.encoded for batch in first) == 8
    np.testing.assert_allclose(logits_of(first), wanted.logits.values, atol=1e-5)
    again = list(encode_images(items, beside, SETTINGS, cache=cache))
    assert (beside.classifier.shown, sum(batch.encoded for batch in again)) == (8, 0)
    np.testing.assert_array_equal(logits_of(again), logits_of(first))
    without = list(encode_images(items, beside, SETTINGS))
    np.testing.assert_allclose(logits_of(without), logits_of(first), atol=1e-5)
    assert [batch.errors for batch in first] == [batch.errors for batch in without]
    # Another classifier classifies anew; the model does not run again.
    beside.classifier = colours(1)
    other = list(encode_images(items, beside, SETTINGS, cache=cache))
    assert beside.classifier.shown == 8
    assert np.abs(logits_of(other) - logits_of(first)).max() > 0.1
    beside.classifier = None
    plain = list(encode_images(items, beside, SETTINGS, cache=cache))
    assert sum(batch.encoded for batch in plain) == 0
    assert all(batch.features.logits is None for batch in plain)
    for one, two in zip(plain, first, strict=True):
        np.testing.assert_array_equal(one.features.raw, two.features.raw)


def test_an_image_in_one_cache_alone_is_classified(
    beside: Any, images: Path, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    items = list(find_images([str(images)]))
    beside.classifier = None
    list(encode_images(items[:4], beside, SETTINGS, cache=cache))
    beside.classifier = colours()
    found = list(encode_images(items, beside, SETTINGS, cache=cache))
    np.testing.assert_allclose(
        logits_of(found), logits_of(encode_images(items, beside, SETTINGS)), atol=1e-5
    )


def test_views_have_no_logits(beside: Any, images: Path) -> None:
    view = DecodeSettings(view=View(0, 1, (64, 64)))
    items = find_images([str(images)])
    for batch in encode_images(items, beside, replace(SETTINGS, decode=view)):
        assert batch.features.logits is None
    assert beside.classifier.shown == 0


def test_reduced_decoding_keeps_what_the_classifier_needs(beside: Any, tmp_path: Path) -> None:
    """A JPEG that is reduced for the model's 64 pixels is no picture for 200."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8))
    (tmp_path / "in").mkdir()
    rough.resize((800, 800)).save(tmp_path / "in" / "a.jpg", quality=95)
    beside.classifier = colours(size=200)
    fast = replace(SETTINGS, decode=DecodeSettings(fast=True))
    items = list(find_images([str(tmp_path / "in")]))
    shown: list[np.ndarray] = []
    classify = beside.classifier.logits
    beside.classifier.logits = lambda pixels: shown.append(pixels) or classify(pixels)
    list(encode_images(items, beside, SETTINGS))
    list(encode_images(items, beside, fast))
    whole, reduced = (one.astype(float) for one in shown)
    assert np.abs(whole - reduced).mean() < 25
    cache = FeatureCache(tmp_path / "cache")
    for one in (fast, SETTINGS):
        list(encode_images(items, beside, one, cache=cache))
    beside.classifier = None
    # The model's embedding of the larger picture is not mistaken for its usual one.
    assert sum(batch.encoded for batch in encode_images(items, beside, fast, cache=cache)) == 1


def test_few_shots_come_with_their_logits(beside: Any, images: Path) -> None:
    items = list(find_images([str(images)]))
    classes = [ClassName.of(name) for name in NAMES]
    found = few_shot_set(
        Candidates.of(items, classes),
        lambda some: labelled_images(some, beside, SETTINGS),
        classes,
        2,
        1,
    ).images
    assert found.logits is not None
    pictures = [Image.open(one) for one in found.ids]
    wanted = encode_pictures(pictures, beside).logits
    assert wanted is not None
    np.testing.assert_allclose(found.logits.values, wanted.values, atol=1e-5)


def cooked(backbone: Any, **values: Any) -> SavedDetector:
    from vlood.training.labelled import LabelledFeatures

    method = registry.get("cooked")
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(12, backbone.embed_dim)).astype(np.float32)
    logits = backbone.classifier.with_names(rng.normal(size=(12, 3)).astype(np.float32))
    images = LabelledFeatures(raw, np.arange(12) % 3, logits=logits)
    names = ClassFeatures.of(NAMES, rng.normal(size=(3, backbone.embed_dim)).astype(np.float32))
    made = method.fit(names, make_settings(method, values), 10.0, images=images)
    saved = SavedDetector(
        made,
        tuple(map(ClassName.of, NAMES)),
        backbone=backbone.identity(),
        model_name="bundled",
    )
    return with_classifier(saved, backbone)


def weights() -> dict[str, torch.Tensor]:
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return dict(timm.create_model("test_resnet", num_classes=3).eval().state_dict())


def test_a_detector_holds_its_classifier_and_takes_no_other(
    beside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    from vlood.backbone.classifier.load import load_classifier
    from vlood.backbone.classifier.spec import ClassifierSpec

    save_file(weights(), tmp_path / "a.safetensors")
    text = f"timm:test_resnet:{tmp_path / 'a.safetensors'}"
    values = {"normalisation": "cifar100", "size": "16"}
    spec = replace(ClassifierSpec.parse(text, values), listed=NAMES)
    beside.classifier = load_classifier(spec, device="cpu")
    folder = tmp_path / "copied"
    save_detector(folder, cooked(beside))
    # Written again, as calibration does, the copy stays.
    save_detector(folder, load_detector(folder))
    saved = load_detector(folder)
    assert saved.classifier is not None
    assert saved.classifier.is_copied
    assert (folder / "classifier" / "model.safetensors").is_file()
    before, beside.classifier = beside.classifier, None
    add_classifier(beside, saved, "the detector")
    assert beside.classifier.identity() == before.identity()
    # Too large to copy: found by its path, known by its digest.
    monkeypatch.setattr(recorded, "COPIED_BYTES", 1000)
    beside.classifier = before
    save_detector(tmp_path / "named", cooked(beside))
    named = load_detector(tmp_path / "named")
    assert not (tmp_path / "named" / "classifier").exists()
    add_classifier(beside, named, "the detector")
    changed = {
        name: one + 0.1 if one.is_floating_point() else one for name, one in weights().items()
    }
    save_file(changed, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"made with another classifier .*weights differ"):
        add_classifier(beside, named, "the detector")
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(UsageError, match="is not there any more; name the place"):
        add_classifier(beside, named, "the detector")


def test_torchscript_is_never_copied(beside: Any, tmp_path: Path) -> None:
    beside.classifier = colours(kind="torchscript", architecture="")
    save_detector(tmp_path / "d", cooked(beside))
    assert not (tmp_path / "d" / "classifier").exists()


def test_without_the_classifier_nothing_is_recorded(beside: Any) -> None:
    assert cooked(beside, members="clip+probe").classifier is None
    held = cooked(beside)
    assert choose_for([cooked(beside, members="clip+probe")], [Path("d")]) is None
    with pytest.raises(UsageError, match="the detector has no use for one"):
        choose_for([cooked(beside, members="clip+probe")], [Path("d")], "x.onnx")
    beside.classifier = colours(1)
    with pytest.raises(UsageError, match="a and b have different classifiers"):
        choose_for([held, cooked(beside)], [Path("a"), Path("b")])


@pytest.mark.parametrize(
    ("text", "settings", "methods", "said"),
    [
        ("x.onnx", None, ["mcm"], "mcm has no use for one; leave it out, or use cooked"),
        (None, ["size=8"], ["cooked"], "goes with --classifier"),
        ("x.onnx", ["size"], ["cooked"], "expected NAME=VALUE"),
        ("x.onnx", None, ["mcm", "cooked"], "there is no x.onnx"),
    ],
)
def test_wrong_choices_are_one_sentence(
    text: str | None, settings: list[str] | None, methods: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        choose(text, settings, methods, NAMES)


def test_a_classifier_in_another_order_is_refused_before_any_image(
    backbone: Any, tmp_path: Path
) -> None:
    from vlood.backbone.classifier.folder import write_classifier

    write_classifier(
        tmp_path,
        kind="timm",
        architecture="test_resnet",
        names=("green", "red", "blue"),
        input=ClassifierInput((16, 16), 16, "bilinear", *MEANS["half"]),
        weights=weights(),
    )
    for names, said in (
        (NAMES, "in another order"),
        (("red", "green", "cyan"), "other classes than the list, such as green"),
        (("red", "green"), "has 3 outputs and the class list 2"),
    ):
        choice = choose(str(tmp_path), None, ["cooked"], names)
        assert choice is not None
        with pytest.raises(UsageError, match=said):
            choice.add_to(backbone, "cpu", "fp32")
    assert backbone.classifier is None
