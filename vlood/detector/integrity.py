"""What a stored detector is held against: the digests of its files, and its tensors' shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vlood.detector.described import Described
from vlood.errors import UsageError
from vlood.features.checksums import sha256_of_file
from vlood.methods.contract import Detector, Method

# CLIP's is 100; what is far beyond any model's leaves the range of single precision.
_MOST_SCALE = 1e9


def digests_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, by its path there."""
    return {
        file.relative_to(folder).as_posix(): sha256_of_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def verify(path: Path, described: Described, needed: Sequence[str]) -> None:
    """Compare every file with its digest; those of ``needed`` must have one.

    Raises:
        UsageError: a digest is missing or of another file's place, or a file is not what it was.
    """
    digests = described.mapping_of_texts("digests")
    for name in needed:
        if name not in digests:
            raise described.wrong("digests", f"complete (it lacks {name})")
    for name, digest in digests.items():
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name:
            raise described.wrong("digests", f"of files in the folder ({name!r})")
        file = path.joinpath(*parts)
        try:
            good = file.is_file() and sha256_of_file(file) == digest
        except OSError:
            good = False
        if not good:
            raise damaged(str(path), f"{name} is missing or does not match its digest")


def check_tensors(detector: Detector, method: Method, width: int, where: str) -> None:
    """Hold every tensor against the shape and kind its method declares.

    Raises:
        UsageError: naming the tensor.
    """
    sizes = {"K": len(detector.class_names), "M": len(detector.negative_names), "D": width}
    if not 0 < detector.logit_scale <= _MOST_SCALE:
        raise damaged(where, f"logit_scale is not above zero and at most {_MOST_SCALE:g}")
    shapes = method.arrays_of(detector.tensors)
    if set(detector.tensors) != set(shapes):
        differing = sorted(set(detector.tensors) ^ set(shapes))
        raise damaged(where, f"{method.name} has other tensors ({', '.join(differing)[:100]})")
    for name, wanted in shapes.items():
        array = detector.tensors[name]
        letters = [part for part in wanted.split() if part != "int"]
        whole = wanted.endswith(" int")
        if array.dtype != (np.int64 if whole else np.float32):
            raise damaged(where, f"{name} holds {array.dtype}")
        if array.ndim != len(letters):
            raise damaged(where, f"{name} has the shape {array.shape}")
        for letter, length in zip(letters, array.shape, strict=True):
            if sizes.setdefault(letter, length) != length or length == 0:
                raise damaged(where, f"{name} has the shape {array.shape}")
        if not whole and not np.isfinite(array).all():
            raise damaged(where, f"{name} holds numbers that are not finite")
    if method.check is not None:
        try:
            method.check(detector)
        except UsageError as error:
            raise damaged(where, str(error)) from error


def damaged(where: str, what: str) -> UsageError:
    """Return the error that a detector is damaged, and how."""
    reason = " ".join(what.split())[:200]
    return UsageError(f"{where}: the detector is damaged ({reason}); copy or make it again")
