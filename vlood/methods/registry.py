"""Find methods by name, vlood's own and those of other packages, through one door.

A package offers a method with an entry point of the group ``vlood.methods``::

    [project.entry-points."vlood.methods"]
    mcm = "vlood.methods.mcm:METHOD"

whose name is the method's and whose object is a :class:`~vlood.methods.contract.Method`. Nothing is
imported before it is asked for. A broken plug-in is a warning, never the end of a run.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError, VloodError
from vlood.methods.contract import Detector, Method, Scores

logger = logging.getLogger(__name__)

GROUP = "vlood.methods"
# The same lines as in pyproject.toml: a checkout whose installed metadata is older than its files
# still finds every method of its own.
BUILT_INS = (
    EntryPoint("mcm", "vlood.methods.mcm:METHOD", GROUP),
    EntryPoint("msp", "vlood.methods.msp:METHOD", GROUP),
    EntryPoint("max-logit", "vlood.methods.max_logit:METHOD", GROUP),
    EntryPoint("energy", "vlood.methods.energy:METHOD", GROUP),
    EntryPoint("entropy", "vlood.methods.entropy:METHOD", GROUP),
    EntryPoint("gl-mcm", "vlood.methods.gl_mcm:METHOD", GROUP),
    EntryPoint("neglabel", "vlood.methods.neglabel:METHOD", GROUP),
    EntryPoint("adaneg", "vlood.methods.adaneg:METHOD", GROUP),
    EntryPoint("tanl", "vlood.methods.tanl:METHOD", GROUP),
    EntryPoint("clipn", "vlood.methods.clipn:METHOD", GROUP),
    EntryPoint("local-prompt", "vlood.methods.local_prompt:METHOD", GROUP),
    EntryPoint("linear-probe", "vlood.methods.linear_probe:METHOD", GROUP),
    EntryPoint("knn", "vlood.methods.knn:METHOD", GROUP),
    EntryPoint("mahalanobis", "vlood.methods.mahalanobis:METHOD", GROUP),
    EntryPoint("relative-mahalanobis", "vlood.methods.relative_mahalanobis:METHOD", GROUP),
    EntryPoint("mahalanobis-layers", "vlood.methods.mahalanobis_layers:METHOD", GROUP),
    EntryPoint("gmm", "vlood.methods.gmm:METHOD", GROUP),
    EntryPoint("gen", "vlood.methods.gen:METHOD", GROUP),
    EntryPoint("kl-matching", "vlood.methods.kl_matching:METHOD", GROUP),
    EntryPoint("vim", "vlood.methods.vim:METHOD", GROUP),
    EntryPoint("residual", "vlood.methods.residual:METHOD", GROUP),
    EntryPoint("react", "vlood.methods.react:METHOD", GROUP),
    EntryPoint("ash", "vlood.methods.ash:METHOD", GROUP),
    EntryPoint("tip-adapter", "vlood.methods.tip_adapter:METHOD", GROUP),
    EntryPoint("mixoe", "vlood.methods.mixoe:METHOD", GROUP),
    EntryPoint("abet", "vlood.methods.abet:METHOD", GROUP),
    EntryPoint("palm", "vlood.methods.palm:METHOD", GROUP),
    EntryPoint("tagood", "vlood.methods.tagood:METHOD", GROUP),
    EntryPoint("cooked", "vlood.methods.cooked:METHOD", GROUP),
    EntryPoint("ensemble", "vlood.methods.ensemble:METHOD", GROUP),
    EntryPoint("coop", "vlood.methods.coop:METHOD", GROUP),
    EntryPoint("locoop", "vlood.methods.locoop:METHOD", GROUP),
    EntryPoint("lapt", "vlood.methods.lapt:METHOD", GROUP),
    EntryPoint("synood", "vlood.methods.synood:METHOD", GROUP),
    EntryPoint("cma", "vlood.methods.cma:METHOD", GROUP),
)


def names() -> tuple[str, ...]:
    """Return every registered name, vlood's own first; nothing is imported."""
    return tuple(_registered())


def get(name: str) -> Method:
    """Return the method of this name; case, ``_`` and ``-`` do not matter.

    Raises:
        UsageError: no such method.
        VloodError: another package offers it, but it cannot be loaded.
    """
    # Asked for at every batch, and looking through all installed packages takes milliseconds; a
    # method of vlood's own needs no look, for it cannot be replaced.
    own = next((entry for entry in BUILT_INS if _plain(entry.name) == _plain(name)), None)
    if own is not None:
        return _load(own)
    registered = _registered()
    found = {_plain(each): entry for each, entry in registered.items()}.get(_plain(name))
    if found is None:
        known = ", ".join(registered)
        close = difflib.get_close_matches(_plain(name), registered, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"--method {name}: there is no such method; {hint}there are: {known}")
    return _load(found)


def all_methods() -> tuple[Method, ...]:
    """Load every method, vlood's own first; those that cannot be loaded are warned of."""
    loaded = []
    for entry in _registered().values():
        try:
            loaded.append(_load(entry))
        except VloodError as error:
            logger.warning("%s", error)
    return tuple(loaded)


def comparable() -> tuple[str, ...]:
    """Return the methods that a comparison takes when nobody chooses.

    They need no training, read whole-image embeddings alone, and give an image a score of its own:
    test-time methods, whose scores depend on other images, are left out.
    """
    return tuple(
        method.name
        for method in all_methods()
        if not (method.record.stream or method.record.trains)
        and set(method.record.needs) <= {"classes", "negatives"}
    )


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score images with the method a detector was fitted by."""
    return get(detector.method).score(detector, images)


def width(detector: Detector) -> int:
    """Return the width D of the embeddings that a detector takes.

    Raises:
        ValueError: none of its arrays tells.
    """
    for name, shape in get(detector.method).arrays_of(detector.tensors).items():
        axes = shape.split()
        if "D" in axes:
            return int(detector.tensors[name].shape[axes.index("D")])
    for member in detector.members.values():
        return width(member)
    raise ValueError(f"{detector.method}: none of its arrays is as wide as an embedding")


def needs(detector: Detector) -> frozenset[str]:
    """Return what scoring with a detector needs, the needs of an ensemble's members among them."""
    own = frozenset(get(detector.method).record.needs)
    return own.union(*map(needs, detector.members.values()))


def identity_arrays(detector: Detector) -> dict[str, NDArray[Any]]:
    """Return arrays that tell a detector from others of its method and settings.

    They are its own; of an ensemble's members also their methods and settings, as bytes.
    """
    found = dict(detector.tensors)
    for name, member in detector.members.items():
        facts = {"method": member.method, "settings": dataclasses.asdict(member.settings)}
        text = json.dumps({**facts, "logit_scale": member.logit_scale}, sort_keys=True)
        found[f"{name}/"] = np.frombuffer(text.encode(), np.uint8)
        found |= {f"{name}/{key}": array for key, array in identity_arrays(member).items()}
    return found


def _registered() -> dict[str, EntryPoint]:
    """Return the entry points by name; the built-in ones cannot be replaced."""
    registered = {entry.name: entry for entry in BUILT_INS}
    for entry in sorted(entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        known = registered.setdefault(entry.name, entry)
        if known.value != entry.value and not entry.value.startswith("vlood."):
            logger.warning(
                "the method %s of %s is left out: %s has that name",
                entry.name,
                entry.value,
                known.value,
            )
    return registered


def _load(entry: EntryPoint) -> Method:
    try:
        method = entry.load()
    except Exception as error:  # a plug-in may fail in any way while it is imported
        raise VloodError(
            f"the method {entry.name} ({entry.value}) cannot be loaded: {type(error).__name__}: "
            f"{error}; update or remove the package that offers it"
        ) from error
    if not isinstance(method, Method) or method.name != entry.name:
        what = f"is named {method.name}" if isinstance(method, Method) else "is not a Method"
        raise VloodError(
            f"the method {entry.name} ({entry.value}) {what}; "
            "update or remove the package that offers it"
        )
    return method


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")
