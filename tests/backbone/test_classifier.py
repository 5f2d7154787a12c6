"""Classifiers beside the model: every way to name one, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vlood.backbone.classifier.classifier import Classifier
from vlood.backbone.classifier.folder import is_classifier, write_classifier
from vlood.backbone.classifier.input import MEANS, InputChoice
from vlood.backbone.classifier.load import load_classifier
from vlood.backbone.classifier.networks import Library, head_names, unwrapped
from vlood.backbone.classifier.spec import ClassifierSpec
from vlood.errors import UsageError, VloodError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
SEEN = {"normalisation": "cifar100", "size": "32"}
IMAGENET = {"normalisation": "imagenet", "size": "32"}


@pytest.fixture(scope="module")
def network() -> Any:
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = timm.create_model("test_resnet", num_classes=4).eval()
        # As after training: statistics far from those of a new network.
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
    return made


@pytest.fixture(scope="module")
def files(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifiers")
    state = network.state_dict()
    save_file(state, folder / "a.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": one for name, one in state.items()}}, folder / "a.pt"
    )
    traced = torch.jit.trace(network, torch.zeros(1, 3, 32, 32))
    traced.save(str(folder / "a.torchscript"))
    return folder


def load(text: str | Path, settings: dict[str, str] | None = None) -> Classifier:
    return load_classifier(ClassifierSpec.parse(str(text), settings), device="cpu")


def graph(
    path: Path,
    shape: Sequence[int | str] = ("n", 3, 32, 32),
    *,
    inputs: int = 1,
    outputs: int = 1,
    flat: bool = True,
    kind: int = 1,
    odd: bool = False,
) -> Path:
    """Write an ONNX network: mean colours, times a matrix of 4 classes."""
    import onnx
    from onnx import helper, numpy_helper

    matrix = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    nodes = [helper.make_node("GlobalAveragePool", ["x0"], ["pooled"])]
    last = "pooled"
    if odd:
        nodes, last = [helper.make_node("Flatten", ["x0"], ["y0"])], "y0"
    elif flat:
        nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
        nodes.append(helper.make_node("MatMul", ["flat", "w"], ["y0"]))
        last = "y0"
    given = [helper.make_tensor_value_info(f"x{row}", kind, list(shape)) for row in range(inputs)]
    names = [last, *(["flat"] if outputs > 1 else [])]
    told = [helper.make_tensor_value_info(name, kind, None) for name in names]
    made = helper.make_graph(nodes, "g", given, told, [numpy_helper.from_array(matrix, "w")])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def expected(network: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
    shape = (1, 3, 1, 1)
    images = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    with torch.no_grad():
        return network(images).numpy()


def test_every_form_gives_the_networks_logits(network: Any, files: Path, tmp_path: Path) -> None:
    wanted = expected(network, *MEANS["cifar100"])
    first = load(f"timm:test_resnet:{files / 'a.safetensors'}", SEEN)
    write_classifier(
        tmp_path,
        kind="timm",
        architecture="test_resnet",
        names=tuple("abcd"),
        input=first.input,
        weights=first.weights,
    )
    assert is_classifier(tmp_path)
    again = load(f"timm:test_resnet:{files / 'a.pt'}", SEEN)
    traced = load(files / "a.torchscript", SEEN)
    folder = load(tmp_path)
    for one in (first, again, traced, folder):
        np.testing.assert_allclose(one.logits(PIXELS), wanted, atol=1e-4)
        np.testing.assert_array_equal(one.logits(PIXELS[:0]), np.zeros((0, 4)))
    assert first.digest == again.digest == folder.digest != traced.digest
    assert first.identity() == again.identity() == folder.identity()
    assert (first.named, folder.named, folder.names) == (False, True, tuple("abcd"))


def test_the_normalisation_decides_the_logits(files: Path) -> None:
    text = f"timm:test_resnet:{files / 'a.safetensors'}"
    one, other = load(text, SEEN), load(text, IMAGENET)
    assert np.abs(one.logits(PIXELS) - other.logits(PIXELS)).max() > 1e-3
    assert one.identity() != other.identity()
    spelt = {"mean": "0.5071,0.4867,0.4408", "std": "0.2675,0.2565,0.2761", "size": "32"}
    assert load(text, spelt).identity() == one.identity()


@pytest.mark.parametrize("batch", ["n", 2, 1])
def test_onnx_runs_in_the_batches_it_was_exported_for(tmp_path: Path, batch: int | str) -> None:
    pytest.importorskip("onnxruntime")
    one = load(graph(tmp_path / "a.onnx", (batch, 3, 32, 32)), {"normalisation": "none"})
    matrix = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    wanted = PIXELS.reshape(5, -1, 3).mean(axis=1) / 255 @ matrix
    np.testing.assert_allclose(one.logits(PIXELS), wanted, atol=1e-5)
    assert one.input.size == (32, 32)
    assert one.identity()["runtime"].startswith("onnxruntime")


def test_onnx_of_any_size_needs_one(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = graph(tmp_path / "a.onnx", ("n", 3, "h", "w"))
    with pytest.raises(UsageError, match="nothing states the size of its input"):
        load(path, {"normalisation": "none"})
    assert load(path, {"normalisation": "none", "size": "48"}).input.size == (48, 48)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": 2}, "has 2 inputs"),
        ({"outputs": 2}, "has 2 outputs"),
        ({"shape": ("n", 32, 32, 3), "odd": True}, "channels come last"),
        ({"shape": ("n", 1, 32, 32), "odd": True}, r"is \[\?, 1, 32, 32\]"),
        ({"shape": ("n", 3072), "odd": True}, r"is \[\?, 3072\]"),
        ({"flat": False}, r"gives \[1, 3, 1, 1\] for one picture"),
        ({"kind": 6, "odd": True}, r"its input x0 is tensor\(int32\)"),
    ],
)
def test_wrong_onnx_is_one_sentence(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UsageError, match=said):
        load(graph(tmp_path / "a.onnx", **options), SEEN)


def test_a_size_that_the_graph_does_not_have_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UsageError, match="its input is 32x32 pixels, and another size"):
        load(graph(tmp_path / "a.onnx"), {**SEEN, "size": "64"})


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("timm:test_resnet:F/a.safetensors", {}, "missing normalisation"),
        ("timm:test_resnet:F/a.safetensors", {"size": "32"}, "missing normalisation"),
        ("F/a.torchscript", {"size": "32"}, "missing normalisation"),
        ("timm:test_resnet:F/a.safetensors", {"normalisation": "half"}, "size of its input"),
        ("timm:test_resnt:F/a.safetensors", SEEN, "did you mean test_resnet"),
        ("torchvision:resnet8:F/a.safetensors", SEEN, "did you mean resnet"),
        ("timm:test_resnet.x:F/a.safetensors", SEEN, "no weights called 'x'; it has r160_in1k"),
        ("timm:test_vit:F/a.safetensors", SEEN, "does not hold weights of test_vit"),
        ("timm:test_resnet:F/none.pt", SEEN, "there is no"),
        ("timm:test_resnet", SEEN, "is incomplete"),
        ("F/a.pt", SEEN, "do not say their architecture"),
        ("F/a.safetensors", SEEN, "do not say their architecture"),
        ("F", SEEN, "has no config.json"),
        ("F/a.torchscript", {"normalisation": "imagnet"}, "expected one of imagenet"),
        ("F/a.torchscript", {"colour": "1"}, "is no setting"),
        ("F/a.torchscript", {"mean": "1,2"}, "expected three numbers"),
        ("F/a.torchscript", {"std": "0,0,0"}, "expected three numbers"),
        ("F/a.torchscript", {"size": "x"}, "whole number of pixels"),
        ("F/a.torchscript", {**SEEN, "resize": "16"}, "would have borders"),
    ],
)
def test_wrong_values_are_one_sentence(
    files: Path, text: str, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        load(text.replace("F", str(files), 1), settings)
    assert len(str(caught.value)) < 600


def test_a_file_that_is_no_torchscript_is_refused(tmp_path: Path, files: Path) -> None:
    (tmp_path / "a.ts").write_bytes((files / "a.pt").read_bytes())
    (tmp_path / "b.ts").write_bytes(b"nothing")
    for name in ("a.ts", "b.ts"):
        with pytest.raises(UsageError, match="is no TorchScript"):
            load(tmp_path / name, SEEN)


def test_pickled_objects_are_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "a.pt").write_bytes(pickle.dumps({"state_dict": Trap()}))
    torch.save({"state_dict": {"fc.weight": Trap()}}, tmp_path / "b.pt")
    (tmp_path / "a.ts").write_bytes((tmp_path / "a.pt").read_bytes())
    for text in ("timm:test_resnet:D/a.pt", "timm:test_resnet:D/b.pt", "D/a.ts"):
        with pytest.raises(VloodError):
            load(text.replace("D", str(tmp_path), 1), SEEN)
    assert not (tmp_path / "sprung").exists()


def test_outputs_are_as_many_as_the_classes(files: Path) -> None:
    from dataclasses import replace

    spec = ClassifierSpec.parse(f"timm:test_resnet:{files / 'a.safetensors'}", SEEN)
    assert load_classifier(replace(spec, listed=tuple("wxyz"))).names == tuple("wxyz")
    with pytest.raises(UsageError, match="has 4 outputs, and there are 3 classes in the class"):
        load_classifier(replace(spec, listed=tuple("xyz")))
    with pytest.raises(UsageError, match="there are 5 classes in its class names"):
        load_classifier(replace(spec, listed=tuple("wxyz"), classes=tuple("vwxyz")))


@pytest.mark.parametrize(
    "tag", ["resnet10t.c3_in1k", "resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"]
)
def test_what_timm_states_is_timms_own_transform(tag: str) -> None:
    import timm

    architecture, _, name = tag.partition(".")
    stated = Library("timm").stated(architecture, name, None, "x").settled("x")
    wanted = timm.data.resolve_data_config(
        pretrained_cfg=timm.models.get_pretrained_cfg(tag).to_dict()
    )
    transform = timm.data.create_transform(**wanted)
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (300, 260, 3), np.uint8))
    steps = stated.preprocessing()
    ours = steps.normalise(steps.prepare(picture)[None])[0]
    torch.testing.assert_close(ours, transform(picture), atol=1e-5, rtol=0)


def test_what_torchvision_states_is_its_own_transform(tmp_path: Path) -> None:
    from torchvision import models

    weights = models.ResNet18_Weights.IMAGENET1K_V1
    library = Library("torchvision")
    stated = library.stated("resnet18", weights.name, None, "x").settled("x")
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (300, 260, 3), np.uint8))
    steps = stated.preprocessing()
    ours = steps.normalise(steps.prepare(picture)[None])[0]
    torch.testing.assert_close(ours, weights.transforms()(picture), atol=1e-5, rtol=0)
    # Weights that are not those published say nothing.
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"other")
    unknown = library.stated("resnet18", "", tmp_path / "resnet18-f37072fd.pth", "x")
    assert unknown == InputChoice()


def test_cookeds_own_checkpoints_are_understood() -> None:
    """Their training code wraps a torchvision network: `backbone.*` and a linear `fc`."""
    heads = head_names(Library("torchvision"), "vit_b_16")
    assert heads == ["heads.head.weight", "heads.head.bias"]
    one = torch.zeros(1)
    wrapped = {"backbone.conv_proj.weight": one, "fc.weight": one, "fc.bias": one}
    assert set(unwrapped(wrapped, heads)) == {"conv_proj.weight", *heads}
    plain = {"module.conv1.weight": one, "module.fc.weight": one}
    assert set(unwrapped(plain, ["fc.weight"])) == {"conv1.weight", "fc.weight"}


def test_torchvision_weights_load(tmp_path: Path) -> None:
    from torchvision import models

    made = models.squeezenet1_1(num_classes=3).eval()
    torch.save(made.state_dict(), tmp_path / "a.pth")
    one = load(f"torchvision:squeezenet1_1:{tmp_path / 'a.pth'}", IMAGENET)
    wanted = expected(made, *MEANS["imagenet"])
    np.testing.assert_allclose(one.logits(PIXELS), wanted, atol=1e-4)


def test_a_folder_of_timms_is_read(network: Any, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config: dict[str, Any] = {"architecture": "test_resnet", "num_classes": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="missing normalisation"):
        load(tmp_path)
    stated = {"mean": [0.1] * 3, "std": [0.2] * 3, "input_size": [3, 32, 32], "crop_pct": 0.8}
    config |= {"pretrained_cfg": stated, "label_names": list("abcd")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    one = load(tmp_path)
    assert (one.input.mean, one.input.size, one.input.resize) == ((0.1,) * 3, (32, 32), 40)
    assert one.names == tuple("abcd")
    for broken in ("[]", "{}", '{"vlood": {"kind": "x"}}', "{"):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(UsageError, match="does not describe a classifier"):
            load(tmp_path)


def test_a_written_folder_is_timms_too(files: Path, tmp_path: Path) -> None:
    import timm

    one = load(f"timm:test_resnet:{files / 'a.safetensors'}", SEEN)
    write_classifier(
        tmp_path,
        kind="timm",
        architecture="test_resnet",
        names=tuple("abcd"),
        input=one.input,
        weights=one.weights,
    )
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert theirs.pretrained_cfg["mean"] == list(one.input.mean)
    wanted = expected(theirs, *MEANS["cifar100"])
    np.testing.assert_allclose(one.logits(PIXELS), wanted, atol=1e-4)
