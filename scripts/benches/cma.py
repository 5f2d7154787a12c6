"""A step of CMA over the plain form's, with memory; the step itself is in scripts/bench_cma.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from benches.measuring import Measured, rounded


def cma(options: argparse.Namespace) -> Iterator[Measured]:
    """Every form of the step in a process of its own, all from the same weights."""
    from bench_cma import ARCHITECTURE, BATCH, CLASSES, FORMS, measured

    batch = options.count or BATCH
    plain: dict[str, Any] | None = None
    rows = []
    for form, title in FORMS.items():
        one = measured(form, CLASSES, batch, options.device)
        plain = plain or one
        rows.append(
            (
                *(title, one["texts"], one["tokens"], round(one["seconds"], 1)),
                rounded(plain["seconds"] / one["seconds"]),
                *(round(one[part] / 1e9, 2) for part in ("peak", "step")),
                rounded(abs(one["loss"] - plain["loss"]), 2),
            )
        )
    yield Measured(
        *("reference-forms", "cma"),
        (
            *("form", "texts", "tokens", "s of CPU a step", ("times as fast", 2)),
            *(("peak of the process, GB", 2), ("what the step adds, GB", 2), "first losses apart"),
        ),
        tuple(rows),
        caption=(
            f"A step of CMA. {ARCHITECTURE} with random weights, all of it trained with AdamW, "
            f"{batch} images of {CLASSES:,} classes.",
        ),
    )
