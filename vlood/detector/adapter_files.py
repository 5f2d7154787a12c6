"""A learned adapter as PEFT's own files, in the folder ``adapter/`` of a detector.

Any program that reads PEFT adapters reads them; here they are the arrays of what was learned whose
names begin with ``adapter.``. Beside them lie the changes of a tuned model's tensors, ``delta.``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.tuned_folder import (
    CONFIG_FILE,
    DELTAS_FILE,
    WEIGHTS_FILE,
    TunedWeights,
    write_tuned,
)
from vlood.errors import UsageError
from vlood.methods.contract import Learned

MARK, DELTA = "adapter.", "delta."
MARKS = (MARK, DELTA)
_ABOUT = "adapter"


def has_adapter(learned: Learned | None) -> bool:
    """Say whether an adapter was learned."""
    return learned is not None and any(name.startswith(MARKS) for name in learned.arrays)


def is_tuned_model(learned: Learned | None) -> bool:
    """Say whether the model's own towers were tuned, so that it is used with what was learned."""
    return learned is not None and learned.kind == "weights" and "base" in learned.about


def tuned_weights(learned: Learned) -> TunedWeights:
    """Return the tuned weights among what was learned."""

    def of(mark: str) -> dict[str, NDArray[Any]]:
        return {
            name.removeprefix(mark): array
            for name, array in learned.arrays.items()
            if name.startswith(mark)
        }

    return TunedWeights(of(MARK), learned.about.get(_ABOUT), of(DELTA))


def write_adapter(folder: Path, learned: Learned) -> None:
    """Write the adapter's configuration and weights into a new folder."""
    from safetensors.numpy import save_file

    folder.mkdir()
    if is_tuned_model(learned):
        write_tuned(folder, tuned_weights(learned), learned.about["base"])
        return
    config = json.dumps(dict(learned.about[_ABOUT]), indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
    weights = {
        name.removeprefix(MARK): np.ascontiguousarray(array)
        for name, array in learned.arrays.items()
        if name.startswith(MARK)
    }
    save_file(weights, folder / WEIGHTS_FILE, {"format": "pt"})


def read_adapter(folder: Path, where: str) -> Mapping[str, NDArray[Any]]:
    """Read the weights, under the names that they have among what was learned.

    Raises:
        UsageError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    held: dict[str, NDArray[Any]] = {}
    try:
        for mark, file in ((MARK, WEIGHTS_FILE), (DELTA, DELTAS_FILE)):
            if (mark == MARK and not (folder / DELTAS_FILE).is_file()) or (folder / file).is_file():
                held |= {mark + name: array for name, array in load_file(folder / file).items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{where}: its {folder.name}/{WEIGHTS_FILE} cannot be read; get the detector again"
        ) from error
    return held
