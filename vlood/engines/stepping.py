"""Let the model move pixels a little for detectors that ask for it, before it encodes them."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING

from vlood.errors import UsageError
from vlood.methods.contract import Detector

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone


def stepping(detectors: Iterable[Detector]) -> list[Detector]:
    """Return the detectors, and members of ensembles, that score moved pictures."""
    found = []
    for one in detectors:
        if getattr(one.settings, "step", 0.0) and one.method == "mahalanobis-layers":
            found.append(one)
        found += stepping(one.members.values())
    return found


def with_steps(backbone: Backbone, detectors: Iterable[Detector]) -> Backbone:
    """Return a model that also gives the embeddings of moved pictures that detectors ask for.

    The model itself is not changed; without such a detector it is returned as it is.

    Raises:
        UsageError: a detector asks for them, and the model has no layers.
    """
    asking = stepping(detectors)
    if not asking:
        return backbone
    from vlood.backbone.layers import LayeredBackbone, Step
    from vlood.methods.mahalanobis_layers import step_key, torch_score

    if not isinstance(backbone, LayeredBackbone):
        raise UsageError(
            f"{asking[0].method}: needs a layers: model, and this is {backbone.name}; leave "
            "--model out to use the detector's own"
        )
    moved = copy(backbone)
    moved.steps = {
        step_key(one): Step(one.settings.step, torch_score(one, backbone.device)) for one in asking
    }
    return moved
