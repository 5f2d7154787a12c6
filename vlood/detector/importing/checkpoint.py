"""Files of tensors that others have saved, read so that nothing in them is ever run.

A torch file is a pickle, and its training state often holds schedulers and NumPy scalars beside the
tensors. Those come out as inert placeholders: the classes they name are not even imported. A file
that names anything else is refused before anything is built.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.features.checksums import sha256_of_file

# What a file that holds one tensor and no names calls it.
BARE = "(the tensor)"
_ENVELOPES = ("state_dict", "model_state_dict")
_PREFIX = "module."
_EXPECTED = "a whole torch, .safetensors or .npy file"
_FIRST_OF_PICKLE, _FIRST_OF_ZIP = b"\x80", b"PK"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of a file, by name.

    Attributes:
        path: the file.
        tensors: strided tensors on the CPU as they are stored, large files mapped from disk;
            ``module.`` is taken off their names. One without a name is called ``BARE``.
        beside: names of what else the file holds: epoch, optimizer.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    beside: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """The file's SHA-256, hex."""
        return sha256_of_file(self.path)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self.tensors[name].shape)

    def array(self, name: str) -> NDArray[np.float32]:
        """Return a tensor in single precision, of its own shape, in memory of its own.

        Raises:
            UsageError: it holds numbers that are not finite.
        """
        array = np.array(self.tensors[name].to(torch.float32).numpy(), np.float32, order="C")
        if not np.isfinite(array).all():
            raise UsageError(
                f"{self.path}: {name} holds numbers that are not finite; use another checkpoint of "
                "the run"
            )
        return array


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a torch file (whatever it is called), a ``.safetensors`` or a ``.npy``.

    A training checkpoint's ``state_dict`` or ``model_state_dict`` is taken out of it.

    Raises:
        UsageError: it does not exist, is damaged, is something else, holds Python objects besides
            tensors, or holds no tensor.
    """
    _check_file(path)
    if path.suffix.lower() == ".safetensors":
        stored: Any = _read_safetensors(path)
    elif path.suffix.lower() == ".npy":
        stored = _read_npy(path)
    else:
        stored = _read_torch(path)
    if isinstance(stored, torch.Tensor):
        return Checkpoint(path, _only_plain({BARE: stored}, path))
    if not isinstance(stored, Mapping):
        what = "an object" if isinstance(stored, _Placeholder) else f"a {type(stored).__name__}"
        raise UsageError(f"{path}: holds {what} and no tensors by name; save a state_dict")
    beside: list[str] = []
    for envelope in _ENVELOPES:
        if isinstance(stored.get(envelope), Mapping):
            beside = [str(name) for name in stored if name != envelope]
            stored = stored[envelope]
            break
    tensors = {
        str(name): value for name, value in stored.items() if isinstance(value, torch.Tensor)
    }
    beside += [str(name) for name in stored if str(name) not in tensors]
    return Checkpoint(path, _only_plain(_without_prefix(tensors), path), tuple(beside))


class _Placeholder:
    """What stands for an object of no use here: it takes any argument and does nothing."""

    def __new__(cls, *_: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        return

    def __setstate__(self, _: Any) -> None:
        return


def _plain_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _placeholders() -> list[Any]:
    """Return what the training state of the published codes names, and what is built instead."""
    names = [
        f"{module}.{name}"
        for module in ("numpy._core.multiarray", "numpy.core.multiarray")
        for name in ("scalar", "_reconstruct")
    ]
    names += ["numpy.dtype", "numpy.ndarray", "builtins.dict", "argparse.Namespace"]
    names += [
        f"dassl.optim.{name}"
        for name in (
            *("lr_scheduler.ConstantWarmupScheduler", "lr_scheduler.LinearWarmupScheduler"),
            *("radam.RAdam", "radam.PlainRAdam", "radam.AdamW"),
        )
    ]
    for module in (torch.optim, torch.optim.lr_scheduler):
        names += [
            f"{each.__module__}.{each.__qualname__}"
            for each in vars(module).values()
            if isinstance(each, type) and each.__module__.startswith("torch.optim.")
        ]
    names += [f"torch.cuda.amp.{name}" for name in ("GradScaler", "grad_scaler.GradScaler")]
    own: list[Any] = [(_Placeholder, name) for name in dict.fromkeys(names)]
    return [*own, (_plain_dict, "collections.defaultdict")]


def _read_torch(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    with open(path, "rb") as stream:
        start = stream.read(512)
    if not zipped and start.startswith(_FIRST_OF_ZIP):
        raise UsageError(f"{path}: is cut off or damaged; copy or download it again")
    if not zipped and not start.startswith(_FIRST_OF_PICKLE):
        what = "is text, not tensors (a download page or a pointer to the file, perhaps)"
        if b"\0" in start:
            what = "is no file of tensors"
        raise UsageError(f"{path}: {what}; expected {_EXPECTED}")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_placeholders()):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise UsageError(f"{path}: {_torch_failure(str(error))}") from error


def _torch_failure(message: str) -> str:
    if "TorchScript" in message:
        return "is a TorchScript program, which is never run; save its state_dict instead"
    _, named, rest = message.partition("GLOBAL ")
    if named:
        found = rest.split()[0][:80] if rest.split() else "an object"
        return (
            f"holds Python objects besides tensors ({found}), and those are never run; save its "
            "state_dict alone, best as .safetensors"
        )
    return f"cannot be read; it is damaged, or is not {_EXPECTED}"


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path, device="cpu"))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: cannot be read as .safetensors; it is damaged: copy or download it again"
        ) from error


def _read_npy(path: Path) -> torch.Tensor:
    try:
        array = np.load(path, allow_pickle=False)
        # A copy: what is big-endian or read-only torch does not take.
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
    except (OSError, ValueError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"{path}: cannot be read as a .npy file of numbers; save it with numpy.save"
        ) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UsageError(
            f"{path}: is a folder; name the checkpoint file in it, such as model-best.pth.tar"
        )
    if not path.is_file():
        raise UsageError(f"{path}: does not exist; name a checkpoint file")
    if path.stat().st_size == 0:
        raise UsageError(f"{path}: is empty; expected {_EXPECTED}")


def _without_prefix(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    plain = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    return plain if len(plain) == len(tensors) else dict(tensors)


def _only_plain(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Leave out what has no values of its own: meta, sparse, quantised and complex tensors."""
    kept = {
        name: tensor.detach()
        for name, tensor in tensors.items()
        if tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_complex())
    }
    if not kept:
        raise UsageError(f"{path}: holds no tensors; expected {_EXPECTED}")
    return kept
