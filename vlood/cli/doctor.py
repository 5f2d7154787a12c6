"""``vlood doctor``: versions, devices, cache, weights, and what works offline."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

import typer

from vlood import __version__
from vlood.cli import options as opt
from vlood.cli.guard import FAILED, guarded

_PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "pillow",
    "numpy",
    "faiss-cpu",
    "peft",
    "safetensors",
    "pyarrow",
    "scikit-learn",
    "matplotlib",
    "typer",
    "rich",
)


@guarded
def doctor(
    cache: opt.CacheFolder = None,
    json_lines: opt.OneJson = False,
) -> None:
    """Check the installation and say what works here, offline included.

    Example:

      vlood doctor
    """
    facts = {
        "vlood": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        **_versions(),
        **_devices(),
        "cache": _cache_state(cache),
        "weights cache": _weights_folder(),
        "bundled model": _bundled_state(),
    }
    if json_lines or not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            sys.stdout.write(f"{name:<{width}}  {value}\n")
    if not str(facts["bundled model"]).startswith("works"):
        raise typer.Exit(FAILED)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _devices() -> dict[str, str]:
    import torch

    cuda = "none"
    if torch.cuda.is_available():
        cuda = ", ".join(
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        )
    return {
        "cuda": cuda,
        "mps": "yes" if torch.backends.mps.is_available() else "none",
        "torch threads": str(torch.get_num_threads()),
    }


def _cache_state(folder: Path | None) -> str:
    from vlood.features.cache import default_cache_folder

    place = folder or default_cache_folder()
    nearest = next(parent for parent in (place, *place.parents) if parent.exists())
    writable = os.access(nearest, os.W_OK)
    return f"{place} ({'writable' if writable else 'not writable: runs go on without it'})"


def _weights_folder() -> str:
    place = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    held = sorted(path.name for path in place.glob("models--*")) if place.is_dir() else []
    return f"{place} ({len(held)} models)"


def _bundled_state() -> str:
    import numpy as np

    from vlood.backbone.load import load_backbone

    backbone = load_backbone("bundled", device="cpu")
    side = backbone.preprocessing.draft_side
    picture = np.zeros((1, side or 64, side or 64, 3), np.uint8)
    features = backbone.encode_pixels(picture)
    if not np.isfinite(features.raw).all():
        return "broken: gives numbers that are not finite; install vlood again"
    return f"works offline (--model bundled), digest {backbone.digest[:12]}"
