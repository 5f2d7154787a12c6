"""Where the model runs and in which number format, chosen once and recorded."""

from __future__ import annotations

from dataclasses import dataclass

from vlood.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Precision:
    """The number format of weights and activations: ``fp32``, ``bf16`` or ``fp16``, and why.

    Norm layers stay in single precision in all of them, and features are always returned in it.
    """

    name: str
    reason: str


def choose_device(device: str = "auto") -> str:
    """Return the torch device to use: ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: the device is unknown or this machine does not have it.
    """
    import torch

    kind = device.partition(":")[0]
    if kind not in DEVICES:
        raise UsageError(f"--device {device}: expected one of {', '.join(DEVICES)}")
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if has_cuda else "mps" if has_mps else "cpu"
    if kind == "cuda":
        ordinal = device.partition(":")[2] or "0"
        if not has_cuda or not ordinal.isdecimal() or int(ordinal) >= torch.cuda.device_count():
            raise UsageError(
                f"--device {device}: torch finds {torch.cuda.device_count()} CUDA devices here; "
                "use --device auto"
            )
    if kind == "mps" and not has_mps:
        raise UsageError("--device mps: torch finds no Apple GPU here; use --device auto")
    return device


def choose_precision(precision: str, device: str) -> Precision:
    """Choose the number format for a device as ``choose_device`` returns it.

    ``auto`` is fp32 on the CPU and on MPS, and fp16 on CUDA: CLIP's cosines lie close together, and
    fp16 has eight times finer steps than bf16. A tower whose numbers leave its range is told of.

    Raises:
        UsageError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return Precision(precision, "asked for")
    if not device.startswith("cuda"):
        return Precision("fp32", f"the default on {device}")
    return Precision("fp16", "the default on a GPU")
