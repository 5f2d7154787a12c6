"""CMA: a whole fine-tuned CLIP, which becomes a model folder rather than a detector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlood.backbone.load import CONFIG_FILE, quiet_libraries
from vlood.detector.importing.checkpoint import Checkpoint
from vlood.detector.importing.found import described, lacks
from vlood.detector.importing.report import ImportReport
from vlood.errors import UsageError, VloodError
from vlood.features.atomic import atomic_folder

FORMAT = "cma"
ARCHITECTURE = "ViT-B-16-quickgelu"
WEIGHTS_FILE = "open_clip_model.safetensors"
# OpenAI's archives carry these numbers beside the weights.
_SIZES = ("input_resolution", "context_length", "vocab_size")
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def check_new(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse a place where a model folder cannot be written, before anything slow is done.

    Raises:
        UsageError: something else is there, or a model and ``overwrite`` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder}: is a file; name a folder for the model")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / CONFIG_FILE).is_file():
            raise UsageError(f"-o {folder}: is not empty and no model; name a new folder")
        if not overwrite:
            raise UsageError(
                f"-o {folder}: holds a model already; use --overwrite, or another folder"
            )


def import_cma(
    checkpoint: Checkpoint, folder: Path, *, architecture: str = ARCHITECTURE
) -> ImportReport:
    """Write a fine-tuned CLIP as a folder that ``--model local-dir:FOLDER`` takes.

    Args:
        checkpoint: holds every tensor of the model, under OpenAI's names.
        folder: the new folder.
        architecture: open_clip's name of it; its activation is not in the file, and CMA's is
            QuickGELU.

    Raises:
        UsageError: there is no such architecture, or a tensor is missing, unknown or of another
            shape.
        VloodError: the place cannot be written.
    """
    from safetensors.torch import save_file

    if "visual.proj" not in checkpoint.tensors and "token_embedding.weight" not in (
        checkpoint.tensors
    ):
        raise lacks(checkpoint, "visual.proj and token_embedding.weight", FORMAT)
    config = _config(architecture)
    expected = _expected(architecture)
    left = [name for name in _SIZES if name in checkpoint.tensors]
    given = {name: each for name, each in checkpoint.tensors.items() if name not in left}
    _check_fits(checkpoint, given, expected, architecture)
    # Copies: a safetensors file refuses tensors that share memory, as mapped ones do.
    weights = {
        name: tensor.detach().to(torch.float32, copy=True).contiguous()
        for name, tensor in given.items()
    }
    preprocessing = {
        "mean": _MEAN,
        "std": _STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}, indent=1) + "\n"
    try:
        with atomic_folder(folder) as made:
            save_file(weights, made / WEIGHTS_FILE)
            (made / CONFIG_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise VloodError(
            f"-o {folder}: cannot be written ({reason}); choose another place"
        ) from error
    return ImportReport(
        found=described(checkpoint, given),
        ignored=(*described(checkpoint, left), *checkpoint.beside),
        missing=(),
        matched=f"all {len(given)} tensors are those of {architecture}; the model is "
        f"local-dir:{folder}",
        notes=(
            "this is a model and no detector: make one with `vlood tune neglabel --model "
            f"local-dir:{folder} --template 'The nice {{}}' --classes CLASSES -o DETECTOR`",
            f"the file does not tell the activation; it is taken to be that of {architecture}",
        ),
    )


def _config(architecture: str) -> dict[str, Any]:
    from vlood.backbone.library import open_clip

    config = open_clip.get_model_config(architecture)
    if config is None:
        raise UsageError(
            f"--architecture {architecture}: open_clip has no such architecture; `vlood models` "
            f"lists them, and CMA's is {ARCHITECTURE}"
        )
    return dict(config)


def _expected(architecture: str) -> dict[str, torch.Size]:
    """Return the names and shapes of an architecture's tensors, without making any."""
    from vlood.backbone.library import open_clip

    try:
        with quiet_libraries(), torch.device("meta"):
            model = open_clip.create_model(
                architecture, load_weights=False, pretrained_text=False, device="meta"
            )
    except (OSError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UsageError(
            f"--architecture {architecture}: cannot be built here; CMA's is {ARCHITECTURE}"
        ) from error
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _check_fits(
    checkpoint: Checkpoint,
    given: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Size],
    architecture: str,
) -> None:
    advice = "name the --architecture it was fine-tuned from, or use a complete checkpoint"
    where = f"{checkpoint.path}: is not a {architecture}"
    for what, names in (
        ("lacks", [name for name in expected if name not in given]),
        ("has unknown", [name for name in given if name not in expected]),
    ):
        if names:
            raise UsageError(f"{where}: it {what} {names[0]} ({len(names)} such tensors); {advice}")
    for name, shape in expected.items():
        if given[name].shape != shape:
            raise UsageError(
                f"{where}: {name} has shape {checkpoint.shape(name)}, expected {tuple(shape)}; "
                f"{advice}"
            )
