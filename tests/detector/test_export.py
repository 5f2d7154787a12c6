"""A saved detector for other tools: each format read back by the tool it is for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from vlood.backbone.backbone import Backbone
from vlood.backbone.image_features import ImageFeatures, unit
from vlood.backbone.load import load_backbone
from vlood.detector.calibration import calibrate
from vlood.detector.export import formats, hub
from vlood.detector.export import onnx as graphs
from vlood.detector.export.archive import write_archive
from vlood.detector.export.formats import FORMATS, Request, export_detector, format_of
from vlood.detector.export.recipe import scoring_code
from vlood.detector.export.torch_form import TorchForm
from vlood.detector.folder import load_detector, save_detector
from vlood.detector.saved import Learned, SavedDetector
from vlood.errors import UsageError, VloodError
from vlood.features.embeddings import read_embeddings
from vlood.features.row_names import read_names
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.negatives.negative_features import NegativeRow
from vlood.prompts.classes import ClassName, read_classes
from vlood.prompts.contexts import Contexts, encode_prompts
from vlood.prompts.templates import class_features

CLASSES = tuple(ClassName.of(name) for name in ("house", "upwards_arrow", "red star"))
NEGATIVES = ("drum", "flute", "lyre", "harp", "tuba", "horn", "gong")
TEMPLATES = ("a photo of a {}.",)
SIMPLE = ("mcm", "msp", "max-logit", "energy", "entropy", "neglabel", "clipn", "linear-probe")
LOCAL = ("gl-mcm", "local-prompt")
L = 4


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def words(backbone: Backbone) -> dict[str, Any]:
    names = (*(each.name for each in CLASSES), *NEGATIVES)
    classes = [ClassName.of(name) for name in names]
    made = class_features(lambda texts: backbone.encode_texts(texts), classes, TEMPLATES)
    return dict(zip(names, made.features, strict=True))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rough = np.random.default_rng(3).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(rough).resize((90, 70), Image.Resampling.BICUBIC)


def detector_of(
    method: str, rows: dict[str, Any], scale: float = 14.0, **settings: Any
) -> Detector:
    """Make a detector of any method from word embeddings."""
    features = np.stack([rows[each.name] for each in CLASSES])
    others = np.stack([rows[name] for name in NEGATIVES])
    rng = np.random.default_rng(7)
    tensors: dict[str, Any] = {"class_features": features}
    negative_names: tuple[str, ...] = ()
    if method == "neglabel":
        tensors |= {"negative_features": others, "group_sizes": np.array([3, 2, 2])}
        negative_names = NEGATIVES
        settings = {"groups": 3, **settings}
    elif method == "clipn":
        tensors["no_features"] = others[: len(CLASSES)]
        settings = {"logit_scale": 20.0, **settings}
    elif method == "local-prompt":
        tensors |= {"local_features": others[:3], "local_negative_features": others[3:]}
        if settings.get("neglabel"):
            bank = {"negative_features": others, "group_sizes": np.array([3, 2, 2])}
            tensors |= {"bank_class_features": others[2:5], **bank}
            negative_names = NEGATIVES
    elif method == "linear-probe":
        weight = rng.normal(size=features.shape).astype(np.float32) / 8
        tensors = {"weight": weight, "bias": np.array([0.1, -0.2, 0.3], np.float32)}
    made = registry.get(method).settings(**settings)
    names = tuple(each.name for each in CLASSES)
    return Detector(method, made, names, tensors, scale, negative_names)


def saved_of(
    method: str, rows: dict[str, Any], backbone: Backbone | None, **settings: Any
) -> SavedDetector:
    detector = detector_of(method, rows, **settings)
    scores = np.linspace(0.2, 0.8, 40)
    return SavedDetector(
        detector=detector,
        classes=CLASSES,
        templates=TEMPLATES,
        backbone=None if backbone is None else backbone.identity(),
        model_name=None if backbone is None else backbone.name,
        negatives=tuple(
            NegativeRow(name, template="the nice {}" if row else "the {}\nno {}")
            for row, name in enumerate(detector.negative_names)
        ),
        calibration=calibrate(scores, tpr=0.95),
        provenance={"epochs": 5},
    )


@pytest.fixture
def folder(words: dict[str, Any], backbone: Backbone, tmp_path: Path) -> Path:
    save_detector(tmp_path / "neglabel", saved_of("neglabel", words, backbone))
    return tmp_path / "neglabel"


def learned(backbone: Backbone, shape: tuple[int, ...], words: dict[str, Any]) -> SavedDetector:
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(0)).numpy() * 0.02
    names = [each.prompt for each in CLASSES]
    features = unit(encode_prompts(backbone, Contexts(vectors), names))
    plain = saved_of("mcm", words, backbone)
    return replace(
        plain,
        detector=replace(plain.detector, tensors={"class_features": features}),
        templates=(),
        learned=Learned("contexts", {"ctx": vectors}, {"position": "end"}),
    )


def left_in(place: Path) -> set[str]:
    return {path.name for path in place.rglob("*")}


# Arrays


def test_safetensors_hold_the_arrays_and_all_that_is_needed_to_read_them(
    folder: Path, tmp_path: Path
) -> None:
    from safetensors import safe_open

    told = export_detector(Request(folder, "safetensors", tmp_path / "out.safetensors"))
    saved = load_detector(folder)
    with safe_open(told["file"], "pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(tensors) == {*saved.detector.tensors, "logit_scale"} == set(told["tensors"])
    for name, array in saved.detector.tensors.items():
        np.testing.assert_array_equal(tensors[name].numpy(), array)
    assert tensors["logit_scale"].shape == ()
    assert tensors["logit_scale"].item() == pytest.approx(14)
    assert json.loads(about["class_names"]) == [each.name for each in CLASSES]
    assert json.loads(about["class_prompts"])[1] == "upwards arrow"
    assert json.loads(about["negative_names"]) == list(NEGATIVES)
    assert about["method"] == "neglabel"
    assert json.loads(about["settings"])["groups"] == 3
    assert saved.calibration is not None
    assert json.loads(about["threshold"]) == saved.calibration.threshold
    card = Path(told["card"]).read_text()
    assert f"below {saved.calibration.threshold:.9g} is OOD" in card
    assert "```python" in card


def test_a_threshold_set_by_hand_goes_first_and_those_of_classes_are_told(
    words: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    from vlood.detector.export.described import facts_of

    scores = np.linspace(0, 1, 400)
    predicted = np.repeat([0, 1], 200)
    calibration = calibrate(scores, predicted, tpr=0.9, per_class=True)
    saved = replace(saved_of("mcm", words, backbone), calibration=calibration)
    own = facts_of(saved)["class_thresholds"]
    assert set(own) == {"house", "upwards_arrow"}
    assert facts_of(saved)["threshold"] == calibration.threshold
    by_hand = facts_of(replace(saved, threshold=0.25))
    assert (by_hand["threshold"], by_hand["class_thresholds"]) == (0.25, {})


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *((method, {}) for method in SIMPLE),
        ("mcm", {"temperature": 0.1}),
        ("energy", {"temperature": 2.0}),
        ("neglabel", {"temperature": 3.0}),
        ("clipn", {"rule": "ctw"}),
        ("linear-probe", {"score": "entropy"}),
        ("linear-probe", {"embeddings": "unit"}),
    ],
)
def test_the_printed_lines_score_as_vlood_does(
    method: str,
    settings: dict[str, Any],
    words: dict[str, Any],
    backbone: Backbone,
    picture: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = saved_of(method, words, backbone, **settings)
    save_detector(tmp_path / "one", saved)
    told = export_detector(Request(tmp_path / "one", "safetensors", tmp_path / "d.safetensors"))
    code = Path(told["card"]).read_text().split("```python\n")[1].split("```")[0]
    assert "vlood" not in code
    shutil.copytree(Path(graphs.__file__).parents[2] / "backbone/bundled", tmp_path / "bundled")
    picture.save(tmp_path / "image.jpg", quality=95)
    with Image.open(tmp_path / "image.jpg") as opened:
        pixels = backbone.preprocessing.prepare(opened.convert("RGB"))[None]
    wanted = registry.get(method).score(saved.detector, backbone.encode_pixels(pixels))

    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, found)
    assert found["score"].item() == pytest.approx(wanted.score[0], abs=1e-5)
    assert CLASSES[int(wanted.label[0])].name in printed.getvalue()


def test_no_lines_are_printed_that_would_be_wrong(
    words: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    regional = saved_of("gl-mcm", words, backbone)
    assert scoring_code(regional, "x") is None
    alone = saved_of("mcm", words, None)
    assert scoring_code(alone, "x") is None
    assert scoring_code(replace(alone, model_name="ViT-B-32:no_such"), "x") is None
    named = scoring_code(replace(alone, model_name="ViT-B-16-quickgelu:openai"), "x")
    assert named is not None
    assert '("ViT-B-16-quickgelu", pretrained="openai")' in named
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    for name, saved, adapter, says in (
        ("regional", regional, None, "onnx"),
        ("alone", alone, None, "embeddings alone"),
        ("tuned", saved_of("mcm", words, backbone), tmp_path / "adapter", "--format peft"),
    ):
        save_detector(tmp_path / name, saved, adapter=adapter)
        place = tmp_path / f"{name}.safetensors"
        export_detector(Request(tmp_path / name, "safetensors", place))
        card = (tmp_path / f"{place.name}.md").read_text()
        assert says in card
        assert "```" not in card


@pytest.mark.parametrize("output", ["arrays", "det.npy"])
def test_npy_files_are_read_back_with_their_names(
    output: str, folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / output
    export_detector(Request(folder, "npy", place))
    at = tmp_path / "arrays" if output == "arrays" else tmp_path
    prefix = "" if output == "arrays" else "det-"
    tensors = load_detector(folder).detector.tensors
    for name, names in (
        ("class_features", tuple(each.name for each in CLASSES)),
        ("negative_features", NEGATIVES),
    ):
        path = at / f"{prefix}{name}.npy"
        np.testing.assert_array_equal(read_embeddings(path).features, tensors[name])
        assert tuple(read_names(path)) == names
    assert json.loads((at / f"{prefix}about.json").read_text())["logit_scale"] == 14
    with pytest.raises(UsageError, match="exists already"):
        export_detector(Request(folder, "npy", place))
    export_detector(Request(folder, "npy", place, overwrite=True))


def test_a_name_that_is_no_line_is_refused_for_npy(
    words: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    saved = saved_of("mcm", words, backbone)
    names = ("house", "up\nwards", "star")
    odd = replace(
        saved,
        classes=tuple(ClassName(name, name) for name in names),
        detector=replace(saved.detector, class_names=names),
    )
    save_detector(tmp_path / "odd", odd)
    with pytest.raises(UsageError, match="line of its own"):
        export_detector(Request(tmp_path / "odd", "npy", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    export_detector(Request(tmp_path / "odd", "safetensors", tmp_path / "odd.safetensors"))


# Graphs


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *((method, {}) for method in (*SIMPLE, *LOCAL)),
        ("clipn", {"rule": "ctw"}),
        ("linear-probe", {"score": "entropy"}),
        ("linear-probe", {"embeddings": "unit"}),
        ("mcm", {"temperature": 0.02}),
        ("energy", {"temperature": 3.0}),
        ("neglabel", {"temperature": 0.2}),
        ("gl-mcm", {"lambda_local": 0.5, "temperature": 0.1}),
        ("local-prompt", {"top_k": 3}),
        ("local-prompt", {"neglabel": 0.7}),
    ],
)
@pytest.mark.parametrize("scale", [14.0, 100.0])
def test_torch_forms_are_the_methods(
    method: str, settings: dict[str, Any], scale: float, words: dict[str, Any]
) -> None:
    detector = detector_of(method, words, scale, **settings)
    rng = np.random.default_rng(1)
    raw = rng.normal(size=(30, 128)).astype(np.float32)
    raw[:10] += 20 * words["house"]
    local = rng.normal(size=(30, 9, 128)).astype(np.float32)
    wanted = registry.get(method).score(detector, ImageFeatures(raw, local, (3, 3)))
    score, label, confidence = TorchForm(detector)(torch.from_numpy(raw), torch.from_numpy(local))
    np.testing.assert_allclose(score.numpy(), wanted.score, rtol=2e-6, atol=2e-5)
    np.testing.assert_array_equal(label.numpy(), wanted.label)
    np.testing.assert_allclose(confidence.numpy(), wanted.confidence, atol=2e-5)


def session_of(path: str) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["neglabel", "local-prompt"])
def test_a_graph_takes_any_number_of_pictures(
    method: str, words: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    saved = saved_of(method, words, backbone)
    save_detector(tmp_path / "one", saved)
    told = export_detector(Request(tmp_path / "one", "onnx", tmp_path / "one.onnx"))
    assert told["largest difference from vlood"] <= 1e-4
    session = session_of(told["file"])
    assert [each.name for each in session.get_inputs()] == ["image"]
    assert [(each.name, each.type) for each in session.get_outputs()] == [
        ("score", "tensor(float)"),
        ("label", "tensor(int64)"),
        ("confidence", "tensor(float)"),
    ]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == [each.name for each in CLASSES]
    assert saved.calibration is not None
    assert float(about["threshold"]) == saved.calibration.threshold
    assert about["input"].startswith("image: uint8 [N, 64, 64, 3]")
    assert str(Path.home()).encode() not in Path(told["file"]).read_bytes()
    assert b"site-packages" not in Path(told["file"]).read_bytes()
    for count in (1, 70):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 64, 64, 3), np.uint8)
        features = backbone.encode_pixels(pixels, local=method == "local-prompt")
        wanted = registry.get(method).score(saved.detector, features)
        score, label, confidence = session.run(None, {"image": pixels})
        np.testing.assert_allclose(score, wanted.score, atol=1e-4)
        np.testing.assert_array_equal(label, wanted.label)
        np.testing.assert_allclose(confidence, wanted.confidence, atol=1e-4)


@pytest.mark.slow
@pytest.mark.shared
def test_a_graph_of_a_resnet_agrees_with_vlood_on_photographs(shared: Path, tmp_path: Path) -> None:
    method, name = "gl-mcm", f"local-dir:{shared / 'models' / 'photo-tiny'}"
    backbone = load_backbone(name, device="cpu", precision="fp32")
    kinds = sorted(path.name for path in (shared / "photos").iterdir() if path.is_dir())
    classes = read_classes(str(shared / "photos/id_imagenette/test"))
    text = class_features(lambda texts: backbone.encode_texts(texts), classes, TEMPLATES)
    detector = registry.get(method).fit(text, registry.get(method).settings(), backbone.logit_scale)
    saved = SavedDetector(detector, classes, TEMPLATES, backbone.identity(), backbone.name)
    save_detector(tmp_path / "one", saved)
    told = export_detector(Request(tmp_path / "one", "onnx", tmp_path / "one.onnx"))
    photos: list[Path] = []
    for kind in kinds:
        found = sorted(
            path
            for path in (shared / "photos" / kind).rglob("*")
            if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        photos += found[:: max(1, len(found) // 10)][:10]
    photos = photos[:100]
    assert len(photos) == 100
    pixels = np.stack(
        [backbone.preprocessing.prepare(Image.open(path).convert("RGB")) for path in photos]
    )
    wanted = registry.get(method).score(detector, backbone.encode_pixels(pixels, local=True))
    score, label, confidence = session_of(told["file"]).run(None, {"image": pixels})
    print(np.abs(score - wanted.score).max())
    np.testing.assert_allclose(score, wanted.score, atol=1e-4)
    np.testing.assert_allclose(confidence, wanted.confidence, atol=1e-4)
    np.testing.assert_array_equal(label, wanted.label)


def test_a_graph_that_differs_is_not_written(
    words: dict[str, Any],
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Off:
        def __init__(self, *given: Any, **named: Any) -> None: ...

        def run(self, names: Any, given: dict[str, Any]) -> list[Any]:
            count = len(given["image"])
            return [np.full(count, 0.9), np.zeros(count, np.int64), np.full(count, 0.9)]

    monkeypatch.setattr("onnxruntime.InferenceSession", Off)
    monkeypatch.setattr(graphs, "_exported", lambda *given: b"graph")
    save_detector(tmp_path / "one", saved_of("mcm", words, backbone))
    with pytest.raises(VloodError, match=r"differ by up to .* nothing was written"):
        export_detector(Request(tmp_path / "one", "onnx", tmp_path / "out.onnx"))

    def refuse(*given: Any, **named: Any) -> Any:
        raise RuntimeError("no kernel\nfor that")

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    with pytest.raises(VloodError, match="onnxruntime cannot run the graph"):
        export_detector(Request(tmp_path / "one", "onnx", tmp_path / "out.onnx"))
    monkeypatch.undo()
    monkeypatch.setattr("torch.onnx.export", refuse)
    with pytest.raises(VloodError, match="torch cannot make a graph"):
        export_detector(Request(tmp_path / "one", "onnx", tmp_path / "out.onnx"))
    monkeypatch.setattr(graphs, "_MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="one ONNX file holds 2"):
        export_detector(Request(tmp_path / "one", "onnx", tmp_path / "out.onnx"))
    assert {path.name for path in tmp_path.iterdir()} == {"one"}


def test_what_no_graph_can_be_made_of_is_refused_before_the_model_is_loaded(
    words: dict[str, Any],
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "_backbone", None)
    with pytest.raises(UsageError, match="depends on the images around it"):
        TorchForm(Detector("adaneg", None, ("a",), {}, 1.0))
    with pytest.raises(UsageError, match="mahalanobis-layers has no form for graphs"):
        TorchForm(Detector("mahalanobis-layers", None, ("a",), {}, 1.0))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    saved = saved_of("mcm", words, backbone)
    save_detector(tmp_path / "tuned", saved, adapter=tmp_path / "adapter")
    with pytest.raises(UsageError, match="tuned the model itself"):
        export_detector(Request(tmp_path / "tuned", "onnx", tmp_path / "out.onnx"))
    save_detector(tmp_path / "plain", saved)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'vlood\[onnx\]'"):
        export_detector(Request(tmp_path / "plain", "onnx", tmp_path / "out.onnx"))


def test_a_model_is_needed_and_must_be_the_detectors(
    words: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    save_detector(tmp_path / "alone", saved_of("mcm", words, None))
    with pytest.raises(UsageError, match="name it with --model"):
        export_detector(Request(tmp_path / "alone", "onnx", tmp_path / "out.onnx"))
    other = {**backbone.identity(), "weights": "other"}
    save_detector(tmp_path / "other", replace(saved_of("mcm", words, backbone), backbone=other))
    with pytest.raises(UsageError, match="weights differ"):
        export_detector(Request(tmp_path / "other", "onnx", tmp_path / "out.onnx"))


# Prompts


@pytest.mark.parametrize("shape", [(L, 64), (len(CLASSES), L, 64)])
def test_coop_files_make_the_prompts_that_the_detector_has(
    shape: tuple[int, ...], words: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    saved = learned(backbone, shape, words)
    save_detector(tmp_path / "one", saved)
    told = export_detector(Request(tmp_path / "one", "coop", tmp_path / "run"))
    assert (told["epoch"], told["ctx"], told["left_out"]) == (5, list(shape), [])
    place = tmp_path / "run/prompt_learner"
    assert (place / "checkpoint").read_text() == "model.pth.tar-5\n"
    read = torch.load(place / "model.pth.tar-5", weights_only=True)
    assert set(read) == {"state_dict", "epoch", "optimizer", "scheduler", "val_result"}
    state = read["state_dict"]
    assert set(state) == {"ctx", "token_prefix", "token_suffix"}
    count, width = len(CLASSES), backbone.module.token_embedding.weight.shape[1]
    assert state["token_prefix"].shape == (count, 1, width)
    assert state["token_suffix"].shape == (count, 77 - 1 - L, width)
    # As the authors' code puts them together, read at the end of the text.
    ctx = state["ctx"] if len(shape) == 3 else state["ctx"].expand(count, -1, -1)
    prompts = torch.cat([state["token_prefix"], ctx, state["token_suffix"]], 1)
    texts = [f"{' '.join(['X'] * L)} {each.prompt}." for each in CLASSES]
    assert backbone.text_tower is not None
    ends = backbone.text_tower.ends(backbone.tokenizer(texts))
    with torch.inference_mode():
        features = backbone.text_tower.encode_embedded(prompts, ends).numpy()
    wanted = saved.detector.tensors["class_features"]
    np.testing.assert_allclose(unit(features), wanted, atol=1e-5)
    with pytest.raises(UsageError, match="exists already"):
        export_detector(Request(tmp_path / "one", "coop", tmp_path / "run"))


def test_coop_needs_contexts_of_the_model_and_short_names(
    folder: Path, words: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no learned contexts"):
        export_detector(Request(folder, "coop", tmp_path / "run"))
    saved = learned(backbone, (L, 64), words)
    narrow = Learned("contexts", {"ctx": np.zeros((L, 8), np.float32)})
    save_detector(tmp_path / "narrow", replace(saved, learned=narrow))
    with pytest.raises(UsageError, match="wide"):
        export_detector(Request(tmp_path / "narrow", "coop", tmp_path / "run"))
    long = tuple(ClassName(each.name, f"{each.name} {'x ' * 90}") for each in CLASSES)
    save_detector(tmp_path / "long", replace(saved, classes=long))
    with pytest.raises(UsageError, match="shorter prompt name"):
        export_detector(Request(tmp_path / "long", "coop", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_txt_says_what_a_detector_asks_for(
    folder: Path, words: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    told = export_detector(Request(folder, "txt", tmp_path / "all.txt"))
    lines = (tmp_path / "all.txt").read_text().splitlines()
    assert told["lines"] == len(lines)
    assert lines[:4] == [
        "# classes",
        "a photo of a house.",
        "a photo of a upwards arrow.",
        "a photo of a red star.",
    ]
    assert lines[5:8] == ["# negatives", "drum", "the nice flute"]
    export_detector(Request(folder, "txt", tmp_path / "plain.txt", plain=True))
    plain = (tmp_path / "plain.txt").read_text().splitlines()
    assert plain == ["house", "upwards_arrow", "red star", *NEGATIVES]

    saved = learned(backbone, (L, 64), words)
    vectors = backbone.module.token_embedding.weight[backbone.tokenizer.encode("a photo of a")]
    at_words = Learned("contexts", {"ctx": vectors.detach().numpy()})
    save_detector(tmp_path / "learned", replace(saved, learned=at_words))
    export_detector(Request(tmp_path / "learned", "txt", tmp_path / "learned.txt"))
    near = (tmp_path / "learned.txt").read_text().splitlines()
    assert near[1] == "house"
    assert [line.split()[1] for line in near[-4:]] == ["a", "photo", "of", "a"]
    assert near[-4].startswith("V1: a (0.00), ")

    own = Learned("contexts", {"ctx": np.zeros((3, 2, 64), np.float32)})
    several = replace(saved, learned=own, templates=("a {}", "the {}"))
    save_detector(tmp_path / "several", several)
    export_detector(Request(tmp_path / "several", "txt", tmp_path / "several.txt"))
    text = (tmp_path / "several.txt").read_text()
    assert "# averaged over 2 templates:\n#   a {}\n#   the {}\nhouse\n" in text
    assert "\nprompt 3, V2: " in text


def test_an_adapter_is_loaded_by_peft(
    folder: Path, words: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    def base() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))

    with torch.random.fork_rng():
        tuned = get_peft_model(base(), LoraConfig(r=2, target_modules=["0"]))  # type: ignore[arg-type]
        torch.nn.init.normal_(tuned.base_model.model[0].lora_B["default"].weight)
        tuned.save_pretrained(tmp_path / "made")
        saved = saved_of("mcm", words, backbone)
        save_detector(tmp_path / "tuned", saved, adapter=tmp_path / "made")
        told = export_detector(Request(tmp_path / "tuned", "peft", tmp_path / "adapter"))
        assert told["files"] >= 2
        again = PeftModel.from_pretrained(base(), tmp_path / "adapter")  # type: ignore[arg-type]
        rows = torch.randn(3, 4)
        torch.testing.assert_close(again(rows), tuned(rows))
        assert not torch.allclose(again(rows), base()(rows))
    with pytest.raises(UsageError, match="holds no adapter"):
        export_detector(Request(folder, "peft", tmp_path / "none"))
    assert not (tmp_path / "none").exists()


# The folder


@pytest.mark.parametrize("name", ["d.tar", "d.tar.gz", "d.tgz"])
def test_an_archive_is_the_same_bytes_anywhere_and_is_read_back(
    name: str, folder: Path, tmp_path: Path
) -> None:
    (folder / "private.key").write_text("not a detector's")
    told = export_detector(Request(folder, "tar", tmp_path / name))
    other = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, other)
    for file in other.rglob("*"):
        os.utime(file, (1, 1))
        file.chmod(0o700)
    write_archive(other, tmp_path / f"again-{name}")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == (name != "d.tar")
    with tarfile.open(tmp_path / name) as archive:
        entries = archive.getmembers()
        archive.extractall(tmp_path / "out", filter="data")
    assert told["files"] == len([entry for entry in entries if entry.isfile()])
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in entries} == {
        (0, 0, 0, "")
    }
    assert "private.key" not in left_in(tmp_path / "out")
    again = load_detector(tmp_path / "out" / folder.name)
    np.testing.assert_array_equal(
        again.detector.tensors["negative_features"],
        load_detector(folder).detector.tensors["negative_features"],
    )


def test_a_repository_has_front_matter_and_the_detectors_files(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "private.key").write_text("not a detector's")
    listed = export_detector(Request(folder, "hub", repository="acme/fruit", dry_run=True))
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}
    export_detector(Request(folder, "hub", tmp_path / "repository"))
    sizes = {
        str(path.relative_to(tmp_path / "repository")): path.stat().st_size
        for path in (tmp_path / "repository").rglob("*")
        if path.is_file()
    }
    assert {row["file"]: row["bytes"] for row in listed["files"]} == sizes
    assert "private.key" not in sizes
    card = (tmp_path / "repository/README.md").read_text()
    assert card.startswith("---\n")
    assert "library_name: open_clip" in card
    assert "pipeline_tag: zero-shot-image-classification" in card
    assert "- neglabel" in card
    assert "base_model" not in card
    assert card.count("\n---\n") == 1
    assert load_detector(tmp_path / "repository").detector.negative_names == NEGATIVES
    # Exported again, the front matter is kept as it is.
    export_detector(Request(tmp_path / "repository", "hub", tmp_path / "twice"))
    assert (tmp_path / "twice/README.md").read_text() == card


def test_the_model_behind_a_detector_is_named_where_it_is_on_the_hub() -> None:
    assert hub.base_model_of("hf-hub:acme/clip") == "acme/clip"
    known = hub.base_model_of("ViT-B-16:laion2b_s34b_b88k")
    assert known == "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
    assert hub.base_model_of("bundled") is None
    assert hub.base_model_of("nonsense") is None
    assert hub.base_model_of(None) is None


class FakeHub:
    calls: ClassVar[list[tuple[str, Any]]] = []
    fails: ClassVar[Exception | None] = None

    def __init__(self, token: str) -> None:
        assert token == "secret"

    def create_repo(self, repository: str, **given: Any) -> str:
        if self.fails is not None:
            raise self.fails
        self.calls.append(("create", repository))
        return f"https://hub/{repository}"

    def upload_folder(self, **given: Any) -> None:
        self.calls.append(("upload", sorted(left_in(Path(given["folder_path"])))))


def test_uploading_needs_a_token_a_name_and_the_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UsageError, match="nobody is logged in"):
        export_detector(Request(folder, "hub", repository="acme/fruit"))
    for name in ("fruit", "a/b/c", "acme/", "acme/fr uit", "../x", "a/" + "x" * 99):
        with pytest.raises(UsageError, match="expected ORG/NAME"):
            export_detector(Request(folder, "hub", repository=name))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    told = export_detector(Request(folder, "hub", repository="acme/fruit"))
    assert told["address"] == "https://hub/acme/fruit"
    (_, repository), (_, files) = FakeHub.calls
    assert repository == "acme/fruit"
    assert files == sorted(row["file"] for row in told["files"])
    FakeHub.fails = ConnectionError("no route\nto host")
    with pytest.raises(VloodError, match=r"could not be uploaded \(no route\)"):
        export_detector(Request(folder, "hub", repository="acme/fruit"))


# Places


def test_endings_mean_formats() -> None:
    named = {
        "a.safetensors": "safetensors",
        "a.NPY": "npy",
        "a.onnx": "onnx",
        "a.txt": "txt",
        "a.tar": "tar",
        "a.tar.gz": "tar",
        "a.tgz": "tar",
        "a.gz": None,
        "a": None,
    }
    assert {name: format_of(Path("x") / name) for name in named} == named


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"format": "zip"}, "expected one of safetensors, npy"),
        ({"format": "safetensors"}, "-o is missing"),
        ({"format": "hub"}, "give -o FOLDER, --repo ORG/NAME or --dry-run"),
        ({"format": "txt", "output": "x.txt", "dry_run": True}, "--dry-run: goes with"),
        ({"format": "txt", "output": "x.txt", "repository": "a/b"}, "--repo: goes with"),
        ({"format": "npy", "output": "x", "plain": True}, "--plain: goes with"),
        ({"format": "tar", "output": "x.zip"}, "ends in .tar"),
        ({"format": "txt", "output": "no/such/x.txt"}, "does not exist"),
        ({"format": "txt", "output": "."}, "is a folder"),
        ({"format": "txt", "output": "full/file"}, "exists already"),
        ({"format": "npy", "output": "full/file"}, "is a file"),
        ({"format": "npy", "output": "full", "overwrite": True}, "no earlier export"),
        ({"format": "peft", "output": "neglabel", "overwrite": True}, "lies in the folder"),
        ({"format": "txt", "output": "neglabel/x.txt"}, "lies in the folder"),
        ({"format": "txt", "output": "neglabel/../neglabel/x"}, "lies in the folder"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    request_: dict[str, Any],
    says: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    before = left_in(tmp_path)
    given = {**request_, "output": Path(request_["output"]) if "output" in request_ else None}
    with pytest.raises(UsageError) as caught:
        export_detector(Request(folder, **given))
    assert says in str(caught.value)
    assert left_in(tmp_path) == before
    assert (tmp_path / "full/file").read_text() == "mine"


def test_a_card_beside_is_not_overwritten_unasked(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "d.safetensors.md").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        export_detector(Request(folder, "safetensors", tmp_path / "d.safetensors"))
    assert not (tmp_path / "d.safetensors").exists()
    export_detector(Request(folder, "safetensors", tmp_path / "d.safetensors", overwrite=True))
    assert (tmp_path / "d.safetensors.md").read_text() != "mine"


@pytest.mark.parametrize(
    "format", [name for name in FORMATS if name not in ("coop", "peft", "open-clip")]
)
def test_a_disk_that_refuses_is_a_sentence_and_leaves_nothing(
    format: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **named: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlood.detector.export.onnx.onnx_bytes", lambda *given: (b"graph", 0.0))
    monkeypatch.setattr("os.fsync", full)
    before = left_in(tmp_path)
    ending = {"safetensors": ".safetensors", "onnx": ".onnx", "txt": ".txt", "tar": ".tar"}
    place = tmp_path / f"out{ending.get(format, '')}"
    with pytest.raises(VloodError, match=r"-o .*No space left on device.*another place"):
        export_detector(Request(folder, format, place))
    assert left_in(tmp_path) == before


def test_a_damaged_detector_is_not_exported(folder: Path, tmp_path: Path) -> None:
    (folder / "tensors.safetensors").write_bytes(b"")
    for name in FORMATS:
        place = tmp_path / ("out.tar" if name == "tar" else "out")
        with pytest.raises(UsageError, match="damaged"):
            export_detector(Request(folder, name, place))
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}
