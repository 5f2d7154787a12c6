"""A detector's arrays as others read them: one safetensors file with its card, or .npy files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.detector.export.described import as_texts, facts_of, lines_of
from vlood.detector.export.recipe import recipe
from vlood.methods import registry

if TYPE_CHECKING:
    from vlood.detector.saved import SavedDetector

ABOUT_FILE = "about.json"


def safetensors_files(saved: SavedDetector, path: Path, *, tuned: bool) -> dict[Path, bytes]:
    """Return a detector as one safetensors file, and the card beside it.

    The tensors are the method's, by its names, and ``logit_scale`` (0-d). The metadata holds what
    :func:`~vlood.detector.export.described.facts_of` says; all but plain texts are JSON.

    Args:
        saved: the detector.
        path: where the file will be; the card is ``NAME.safetensors.md``.
        tuned: whether its model has an adapter, without which the arrays mean nothing.
    """
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(array) for name, array in saved.detector.tensors.items()
    }
    # Not through ascontiguousarray, which would make it [1].
    tensors["logit_scale"] = np.array(saved.detector.logit_scale, np.float32)
    text = recipe(saved, path.name, tuned=tuned)
    return {
        path: save(tensors, metadata=as_texts(facts_of(saved))),
        path.with_name(f"{path.name}.md"): text.encode("utf-8", "backslashreplace"),
    }


def npy_files(saved: SavedDetector, *, prefix: str = "") -> dict[str, bytes]:
    """Return a detector as .npy files by name, each with the names of its rows in a .txt.

    ``class_features.npy`` is what ``--class-embeddings`` takes and ``negative_features.npy`` what
    ``--negative-embeddings`` takes. ``about.json`` holds the rest.

    Args:
        saved: the detector.
        prefix: what every name begins with.

    Raises:
        UsageError: a name that cannot stand on a line.
    """
    detector = saved.detector
    rows_named = {
        "K": lines_of(detector.class_names, "--format npy"),
        "M": lines_of(detector.negative_names, "--format npy"),
    }
    shapes = registry.get(detector.method).arrays
    files = {}
    for name, array in detector.tensors.items():
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        files[f"{prefix}{name}.npy"] = stream.getvalue()
        names = rows_named.get(shapes[name].split()[0])
        if names is not None and array.ndim == 2:
            files[f"{prefix}{name}.txt"] = names.encode("utf-8", "surrogateescape")
    about = json.dumps(facts_of(saved), indent=1) + "\n"
    files[prefix + ABOUT_FILE] = about.encode()
    return files
