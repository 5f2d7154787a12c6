"""Weight files: finding, reading, identifying and loading them. Nothing in a file is ever run."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from vlood.backbone.spec import WEIGHT_SUFFIXES
from vlood.errors import VloodError

_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)


def find_weights(folder: Path) -> Path:
    """Return the weight file of a folder in open_clip's layout.

    Raises:
        VloodError: there is none, or several without a conventional name.
    """
    for name in _PREFERRED:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if len(others) == 1:
        return others[0]
    found = f"found {', '.join(path.name for path in others)}" if others else "found none"
    raise VloodError(f"{folder} should hold one weight file named {_PREFERRED[0]}; {found}")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a weight file as they are stored, by name.

    ``.safetensors``, or a torch file of tensors only; a training checkpoint's ``state_dict`` is
    taken out of it.

    Raises:
        VloodError: the file is missing, damaged or holds more than tensors.
    """
    from vlood.backbone.library import open_clip

    if not path.is_file():
        raise VloodError(f"there is no weight file {path}; check the name")
    try:
        state = open_clip.factory.load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise VloodError(
                f"{path} holds Python objects besides tensors, and those are never run; save its "
                "state_dict as .safetensors"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise VloodError(
            f"{path} cannot be read as weights ({reason}); expected a whole .safetensors file or a "
            "torch file of tensors"
        ) from error
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise VloodError(f"{path} holds no tensors; expected the weights of a model")
    return tensors


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return 32 hex digits that identify the weights: their names, types, shapes and bytes."""

    def one(name: str) -> bytes:
        tensor = tensors[name]
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.digest()

    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        parts = list(pool.map(one, sorted(tensors)))
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def load_weights(module: Any, path: Path, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Load a weight file into an open_clip model called ``name``, by open_clip's own conversions.

    Raises:
        VloodError: the weights are of another architecture; says how far they are off.
    """
    from vlood.backbone.library import open_clip

    try:
        open_clip.load_checkpoint(module, str(path), strict=True, weights_only=True, device="cpu")
    except Exception as error:
        raise VloodError(
            f"{path} does not hold weights of {name}: {difference(tensors, module.state_dict())}; "
            "name the architecture that the file was saved from"
        ) from error


def difference(stored: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str:
    """Say how the tensors of a file differ from those that a network expects."""
    missing = [name for name in expected if name not in stored]
    unknown = [name for name in stored if name not in expected]
    other = [
        name for name in expected if name in stored and stored[name].shape != expected[name].shape
    ]
    parts = [
        f"{len(names)} {what} (such as {names[0]})"
        for names, what in ((missing, "tensors are missing"), (unknown, "are not the model's"))
        if names
    ]
    if other:
        name = other[0]
        file_shape, model_shape = ("x".join(map(str, s[name].shape)) for s in (stored, expected))
        parts.append(
            f"{len(other)} have another shape ({name} is {file_shape} in the file, {model_shape} "
            "in the model)"
        )
    return ", ".join(parts) or "its tensors do not fit"
