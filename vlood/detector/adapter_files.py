"""A learned adapter as PEFT's own files, in the folder ``adapter/`` of a detector.

Any program that reads PEFT adapters reads them; here they are the arrays of what was learned whose
names begin with ``adapter.``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.methods.contract import Learned

MARK = "adapter."
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_ABOUT = "adapter"


def has_adapter(learned: Learned | None) -> bool:
    """Say whether an adapter was learned."""
    return learned is not None and any(name.startswith(MARK) for name in learned.arrays)


def write_adapter(folder: Path, learned: Learned) -> None:
    """Write the adapter's configuration and weights into a new folder."""
    from safetensors.numpy import save_file

    folder.mkdir()
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

    try:
        held = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{where}: its {folder.name}/{WEIGHTS_FILE} cannot be read; get the detector again"
        ) from error
    return {MARK + name: array for name, array in held.items()}
