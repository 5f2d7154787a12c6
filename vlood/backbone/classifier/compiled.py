"""Classifiers that are one file with all of the network: ONNX and TorchScript."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlood.backbone.classifier.classifier import Run
from vlood.errors import UsageError, VloodError

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class Graph:
    """An ONNX network that can run.

    Attributes:
        run: pictures to logits, on the CPU.
        size: height and width that it fixes, or None where they are open.
        runtime: the library that runs it, with its version.
    """

    run: Run
    size: tuple[int, int] | None
    runtime: str


def read_onnx(data: bytes, where: str) -> Graph:
    """Open an ONNX network.

    Raises:
        VloodError: the extra that runs ONNX is not installed.
        UsageError: the file is none, or does not take pictures [N, 3, H, W].
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise VloodError(
            f"{where}: running ONNX needs more packages; pip install 'vlood[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        # From bytes, so that what runs is what was digested: no files beside it are read.
        session = onnxruntime.InferenceSession(
            data, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise UsageError(
            f"{where}: cannot be read as ONNX ({_reason(error)}); expected one whole .onnx file "
            "with its weights inside"
        ) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    batch, size = _picture_input(inputs, where)
    if len(outputs) != 1:
        names = ", ".join(one.name for one in outputs)
        raise UsageError(
            f"{where}: has {len(outputs)} outputs ({names}); expected one, logits [N, C]"
        )
    kind = _TYPES[inputs[0].type]
    name = inputs[0].name

    def once(pictures: Any) -> Any:
        return session.run(None, {name: pictures})[0]

    def run(images: torch.Tensor) -> torch.Tensor:
        pictures = images.cpu().numpy().astype(kind)
        if batch is None:
            return torch.from_numpy(np.asarray(once(pictures)))
        parts = []
        for start in range(0, len(pictures), batch):
            some = pictures[start : start + batch]
            filler = np.zeros((batch - len(some), *some.shape[1:]), kind)
            parts.append(np.asarray(once(np.concatenate([some, filler])))[: len(some)])
        return torch.from_numpy(np.concatenate(parts))

    return Graph(run, size, f"onnxruntime {onnxruntime.__version__}")


def read_torchscript(data: Any, device: str, where: str) -> Run:
    """Open a TorchScript network by ``torch.jit.load`` alone, which runs no Python.

    Raises:
        UsageError: the file is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: Any = torch.jit.load(data, map_location=device)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise UsageError(
            f"{where}: is no TorchScript ({_reason(error)}); save it with torch.jit.save, or give "
            "weights as timm:ARCH:FILE or torchvision:ARCH:FILE"
        ) from error
    module.eval()

    def run(images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module(images)
        return found

    return run


def _picture_input(inputs: Any, where: str) -> tuple[int | None, tuple[int, int] | None]:
    """Check that a network takes pictures; return the batch and the size where it fixes them."""
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs)
        raise UsageError(
            f"{where}: has {len(inputs)} inputs ({names}); expected one, pictures [N, 3, H, W]"
        )
    only = inputs[0]
    shape = [one if isinstance(one, int) else None for one in only.shape]
    shown = "[" + ", ".join("?" if one is None else str(one) for one in shape) + "]"
    if only.type not in _TYPES:
        raise UsageError(
            f"{where}: its input {only.name} is {only.type}; expected pictures [N, 3, H, W] of "
            "floats"
        )
    if len(shape) != 4:
        raise UsageError(
            f"{where}: its input {only.name} is {shown}; expected pictures [N, 3, H, W]"
        )
    batch, channels, height, width = shape
    if channels not in (3, None):
        last = " (channels come last here)" if width == 3 else ""
        raise UsageError(
            f"{where}: its input {only.name} is {shown}{last}; expected pictures [N, 3, H, W]; "
            "export it anew"
        )
    return batch, None if height is None or width is None else (height, width)


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).strip()[:160]
