"""A damaged folder of a classifier, and networks that are no classifiers: one sentence each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlood.backbone.classifier.classifier import Classifier, count_outputs
from vlood.backbone.classifier.folder import (
    WEIGHTS_FILE,
    is_classifier,
    read_classifier,
    write_classifier,
)
from vlood.backbone.classifier.input import ClassifierInput
from vlood.errors import UsageError, VloodError

SEEN = ClassifierInput((8, 8), 0, "bilinear", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tied = torch.ones(2, 2)
    write_classifier(
        tmp_path,
        kind="torchvision",
        architecture="resnet18",
        names=("cat", "dog"),
        input=SEEN,
        weights={"one": tied, "two": tied},
        about={"accuracy": 0.5},
    )
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    assert is_classifier(folder)
    found = read_classifier(folder, "--classifier")
    assert (found.kind, found.architecture, found.names) == (
        *("torchvision", "resnet18", ("cat", "dog")),
    )
    assert found.about == {"accuracy": 0.5}
    assert found.choice.size == (8, 8)


def test_what_vlood_did_not_write_is_no_classifier(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    assert not is_classifier(folder / "nowhere")
    for other in ({}, {"vlood": {"kind": "detector"}}, {"vlood": None}, []):
        (folder / "config.json").write_text(json.dumps(other))
        assert not is_classifier(folder)
    (folder / "config.json").write_text(json.dumps(described))
    assert is_classifier(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 99}, "newer vlood"),
        ({"library": "pickle"}, "kind is 'classifier' of 'pickle'"),
        ({"input": {**SEEN.described(), "interpolation": "nearest"}}, "'nearest' is none of"),
        ({"input": {**SEEN.described(), "mean": [0.5]}}, "does not describe a classifier"),
    ],
)
def test_a_damaged_description_says_what_is_wrong(
    folder: Path, change: dict[str, Any], said: str
) -> None:
    described = json.loads((folder / "config.json").read_text())
    described["vlood"] |= change
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match=said):
        read_classifier(folder, "--classifier")


def test_weights_and_descriptions_may_be_missing(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(UsageError, match=rf"--classifier: .*{WEIGHTS_FILE} is missing; copy"):
        read_classifier(folder, "--classifier")
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match=r"has no config\.json"):
        read_classifier(folder, "--classifier")


def test_label_names_of_timm_are_a_list(tmp_path: Path) -> None:
    stated = {"architecture": "resnet18", "label_names": {"0": "cat"}}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(UsageError, match="label_names is no list"):
        read_classifier(tmp_path, "--classifier")


def fails(images: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("\n\nmat1 and mat2 cannot be multiplied\n")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (fails, r"does not take pictures \[N, 3, 8, 8\] \(mat1 and mat2 cannot be multiplied\)"),
        (lambda images: images, r"gives \[1, 3, 8, 8\] for one picture"),
        (lambda images: [images], "gives list for one picture"),
        (lambda images: images[:, :0, 0, 0], "gives no logits at all"),
    ],
)
def test_what_is_no_classifier_is_refused(run: Callable[..., Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        count_outputs(run, SEEN, "cpu", "--classifier x")


def test_logits_are_finite_and_of_as_many_pictures() -> None:
    def of(values: Callable[[torch.Tensor], torch.Tensor]) -> Classifier:
        return Classifier(
            name="x",
            kind="onnx",
            architecture="",
            digest="",
            names=("cat", "dog"),
            named=True,
            input=SEEN,
            run=values,
            device="cpu",
            precision="fp32",
        )

    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    logits = of(lambda images: images.mean(dim=(2, 3))[:, :2]).logits
    np.testing.assert_allclose(logits(pixels), np.full((3, 2), -2.0))
    assert logits(pixels[:0]).shape == (0, 2)
    with pytest.raises(VloodError, match=r"not finite numbers in fp32; use --precision fp32"):
        of(lambda images: images[:, :2, 0, 0] / 0).logits(pixels)
