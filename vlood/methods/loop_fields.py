"""Settings of the training loop that several methods have, each declared once."""

from __future__ import annotations

from typing import Any

from vlood.methods.settings import setting


def precision_field(source: str) -> Any:
    """Declare the numbers that training computes with, ``auto`` by default."""
    return setting(
        "auto",
        help="of training: fp32, bf16, fp16, or auto, that of the model",
        unit="-",
        source=source,
    )


def accumulate_field(source: str) -> Any:
    """Declare in how many parts a step is made, 1 by default."""
    return setting(
        1, help="parts that a step is made in, to save memory", unit="parts", source=source
    )


def clip_field(source: str) -> Any:
    """Declare the longest gradient, 0 (any) by default."""
    return setting(0.0, help="longest gradient; 0: any", unit="-", source=source)
