"""A classifier's folder: ``config.json`` and the weights, in the layout of timm's model folders.

``config.json`` has timm's fields where the network is timm's, so that timm itself reads the folder
as ``local-dir:FOLDER``; what vlood needs stands under ``vlood``. A folder that timm wrote, with its
architecture, its normalisation and perhaps ``label_names``, is read as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vlood.backbone.classifier.input import INTERPOLATIONS, ClassifierInput, InputChoice
from vlood.errors import UsageError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
GRAPH_FILE = "model.onnx"
KINDS = ("timm", "torchvision", "onnx")
SCHEMA = 1


@dataclass(frozen=True)
class StoredClassifier:
    """What a folder says of its classifier.

    Attributes:
        kind: ``timm``, ``torchvision`` or ``onnx``.
        architecture: of the network, "" for ONNX.
        file: of the weights or the graph.
        names: the classes of its outputs, in order; none where nothing states them.
        choice: what is stated of its input.
        about: how it was made and how good it was; JSON-able.
    """

    kind: str
    architecture: str
    file: Path
    names: tuple[str, ...]
    choice: InputChoice
    about: Mapping[str, Any] = field(default_factory=dict)


def is_classifier(path: Path) -> bool:
    """Tell whether a path is a folder that ``write_classifier`` made."""
    try:
        described = json.loads((path / CONFIG_FILE).read_bytes())
        return bool(described["vlood"]["kind"] == "classifier")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_classifier(
    folder: Path,
    *,
    kind: str,
    architecture: str,
    names: tuple[str, ...],
    input: ClassifierInput,
    weights: Mapping[str, torch.Tensor] | None = None,
    graph: bytes | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a classifier into an empty folder: its weights, or its ONNX graph."""
    from safetensors.torch import save_file

    described: dict[str, Any] = {}
    if kind == "timm":
        described = _of_timm(architecture, names, input)
    described["vlood"] = {
        "schema": SCHEMA,
        "kind": "classifier",
        "library": kind,
        "architecture": architecture,
        "classes": list(names),
        "input": input.described(),
        **(about or {}),
    }
    if weights is not None:
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        # Tied weights share their memory, which the format cannot hold.
        save_file({name: tensor.clone() for name, tensor in own.items()}, folder / WEIGHTS_FILE)
    if graph is not None:
        (folder / GRAPH_FILE).write_bytes(graph)
    text = json.dumps(described, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def read_classifier(folder: Path, where: str) -> StoredClassifier:
    """Read what a folder says; its weights are not touched.

    Raises:
        UsageError: it is no classifier's, or is damaged.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UsageError(
            f"{where}: {folder} has no {CONFIG_FILE}; expected a folder made by `vlood tune "
            "classifier`, or one in timm's layout"
        )
    try:
        described = json.loads(path.read_bytes())
        own = described.get("vlood")
        found = _read_own(folder, own) if own is not None else _read_timm(folder, described)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{where}: {path} does not describe a classifier ({type(error).__name__}: {error}); "
            "make or copy the folder again"
        ) from error
    if not found.file.is_file():
        raise UsageError(f"{where}: {found.file} is missing; copy the folder again")
    return found


def _of_timm(architecture: str, names: tuple[str, ...], input: ClassifierInput) -> dict[str, Any]:
    side = input.size[0]
    return {
        "architecture": architecture,
        "num_classes": len(names),
        "label_names": list(names),
        "pretrained_cfg": {
            "input_size": [3, *input.size],
            "interpolation": input.interpolation,
            "crop_pct": side / input.resize if input.resize else 1.0,
            "crop_mode": "center" if input.resize else "squash",
            "mean": list(input.mean),
            "std": list(input.std),
            "num_classes": len(names),
        },
    }


def _read_own(folder: Path, own: Mapping[str, Any]) -> StoredClassifier:
    if own["kind"] != "classifier" or own["library"] not in KINDS:
        raise ValueError(f"kind is {own['kind']!r} of {own['library']!r}")
    if int(own["schema"]) > SCHEMA:
        raise ValueError("it was written by a newer vlood; update vlood")
    seen = own["input"]
    known = ClassifierInput(
        _pair(seen["size"]),
        int(seen["resize"]),
        _one_of(seen["interpolation"], INTERPOLATIONS),
        _three(seen["mean"]),
        _three(seen["std"]),
    )
    file = GRAPH_FILE if own["library"] == "onnx" else WEIGHTS_FILE
    listed = ("schema", "kind", "library", "architecture", "classes", "input")
    return StoredClassifier(
        own["library"],
        str(own["architecture"]),
        folder / file,
        tuple(map(str, own["classes"])),
        InputChoice.of_input(known),
        {name: value for name, value in own.items() if name not in listed},
    )


def _read_timm(folder: Path, described: Mapping[str, Any]) -> StoredClassifier:
    stated = described.get("pretrained_cfg", {})
    choice = InputChoice()
    if "mean" in stated and "std" in stated:
        choice = InputChoice(mean=_three(stated["mean"]), std=_three(stated["std"]))
    if "input_size" in stated:
        _, height, width = stated["input_size"]
        squash = stated.get("crop_mode") == "squash" or height != width
        choice = InputChoice(
            size=(int(height), int(width)),
            resize=0 if squash else int(height / float(stated.get("crop_pct", 1.0))),
            interpolation=_one_of(stated.get("interpolation", "bilinear"), INTERPOLATIONS),
            mean=choice.mean,
            std=choice.std,
        )
    names = described.get("label_names") or stated.get("label_names") or ()
    if isinstance(names, dict):
        raise ValueError("label_names is no list")
    architecture = str(described["architecture"]).partition(".")[0]
    file = next(
        (
            folder / name
            for name in (WEIGHTS_FILE, "pytorch_model.bin")
            if (folder / name).is_file()
        ),
        folder / WEIGHTS_FILE,
    )
    return StoredClassifier("timm", architecture, file, tuple(map(str, names)), choice)


def _pair(values: Any) -> tuple[int, int]:
    height, width = values
    return int(height), int(width)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _one_of(value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return str(value)
