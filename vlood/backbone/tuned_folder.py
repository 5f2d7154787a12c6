"""A tuned CLIP in a folder: PEFT's own files or changed tensors, and which model they belong to.

- ``adapter_config.json`` and ``adapter_model.safetensors``: as PEFT writes and reads them
- ``deltas.safetensors``: what is added to tensors of the model, where whole towers were tuned
- ``base.json``: the model they were tuned on, its digests and those of the two merged
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
DELTAS_FILE, BASE_FILE = "deltas.safetensors", "base.json"
ADAPTER_FOLDER = "adapter"
PREFIX = "tuned:"
# What of a PEFT configuration says how an adapter is built.
ADAPTER_SHAPE = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_dora",
    "use_rslora",
    "target_modules",
    "target_parameters",
)
_SAME = ("architecture", "config", "weights")


@dataclass(frozen=True, eq=False)
class TunedWeights:
    """What differs from the base model.

    Attributes:
        adapter: PEFT's tensors, by its own names.
        config: PEFT's configuration, or None where there is no adapter.
        deltas: what is added to tensors of the model, by their names.
    """

    adapter: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    deltas: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def digest(self, base: str) -> str:
        """Return 32 hex digits that identify the tuned model, whose base has the digest ``base``.

        What a configuration says beyond the shape of the adapter changes nothing.
        """
        import torch

        from vlood.backbone.weights import weights_digest

        config = self.config or {}
        shape = {name: config.get(name) for name in ADAPTER_SHAPE}
        digest = hashlib.blake2b(f"{base} {json.dumps(shape, sort_keys=True)}".encode())
        for arrays in (self.adapter, self.deltas):
            tensors = {name: torch.from_numpy(np.asarray(one)) for name, one in arrays.items()}
            digest.update(weights_digest(tensors).encode())
        return digest.hexdigest()[:32]


def write_tuned(folder: Path, weights: TunedWeights, base: Mapping[str, Any]) -> None:
    """Write tuned weights into a folder that exists.

    Args:
        folder: it.
        weights: what was tuned.
        base: from :func:`describe_base`.
    """
    from safetensors.numpy import save_file

    if weights.config is not None:
        config = {**weights.config, "base_model_name_or_path": base["name"]}
        _write_json(folder / CONFIG_FILE, config)
        save_file(_contiguous(weights.adapter), folder / WEIGHTS_FILE, {"format": "pt"})
    if weights.deltas:
        save_file(_contiguous(weights.deltas), folder / DELTAS_FILE, {"format": "pt"})
    _write_json(folder / BASE_FILE, base)


def read_tuned(folder: Path) -> tuple[TunedWeights, dict[str, Any]]:
    """Read tuned weights and which model they belong to.

    Args:
        folder: a detector's, or the one inside it.

    Raises:
        UsageError: there are none, or they are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    inside = folder / ADAPTER_FOLDER if (folder / ADAPTER_FOLDER).is_dir() else folder
    if not (inside / BASE_FILE).is_file():
        raise UsageError(
            f"--model {PREFIX}{folder}: there is no tuned model in this folder (no {BASE_FILE}); "
            "name a detector made by `vlood tune cma`, or another model"
        )
    try:
        base = json.loads((inside / BASE_FILE).read_text(encoding="utf-8"))
        identity, config = base["identity"], None
        if not all(isinstance(identity[name], str) for name in _SAME):
            raise ValueError("no identity")
        adapter: Mapping[str, NDArray[Any]] = {}
        deltas: Mapping[str, NDArray[Any]] = {}
        if (inside / CONFIG_FILE).is_file():
            config = json.loads((inside / CONFIG_FILE).read_text(encoding="utf-8"))
            adapter = load_file(inside / WEIGHTS_FILE)
        if (inside / DELTAS_FILE).is_file():
            deltas = load_file(inside / DELTAS_FILE)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--model {PREFIX}{folder}: its {inside.name} cannot be read ({error}); get it again"
        ) from error
    return TunedWeights(adapter, config, deltas), base


def describe_base(base: Backbone, merged: str) -> dict[str, Any]:
    """Return what is kept of the model that weights were tuned on; JSON-able.

    Args:
        base: it.
        merged: digest of the two together, as :func:`merged_digest` gives it.
    """
    return {"name": base.name, "identity": base.identity(), "merged": merged}


def check_base(identity: Mapping[str, str], base: Mapping[str, Any], where: str) -> None:
    """Refuse a model that the weights were not tuned on.

    Raises:
        UsageError: it is another, or has them built in already.
    """
    wanted = base["identity"]
    if identity["weights"] == base.get("merged"):
        raise UsageError(
            f"{where}: the model {identity['architecture']} has these weights built in already; "
            "use it alone, or the adapter with the model it was tuned on"
        )
    differing = [name for name in _SAME if identity[name] != wanted[name]]
    if differing:
        raise UsageError(
            f"{where}: was tuned on another model ({base['name']}; {', '.join(differing)} differ); "
            f"use {PREFIX}DIR@MODEL with the one it was tuned on"
        )


def with_tuned(base: Backbone, folder: Path, name: str) -> Backbone:
    """Build the tuned weights of a folder into their base.

    Raises:
        UsageError: there are none, or they were tuned on another model.
    """
    from vlood.backbone.tuned_weights import tuned_backbone

    weights, described = read_tuned(folder)
    check_base(base.identity(), described, f"--model {name}")
    return tuned_backbone(base, weights, name)


def _contiguous(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    # A number alone would become a row of one.
    return {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(value), indent=2, sort_keys=True) + "\n", encoding="utf-8")
