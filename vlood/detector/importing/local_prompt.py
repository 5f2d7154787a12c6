"""Local-Prompt: contexts of local prompts, ``local_ctx`` with names and ``neg_ctx`` without."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.detector.importing.checkpoint import Checkpoint
from vlood.detector.importing.coop import order_note, read_contexts
from vlood.detector.importing.found import check_dimensions, described, find, left_out
from vlood.detector.importing.report import Imported, ImportReport
from vlood.detector.importing.target import Target, source_of
from vlood.detector.saved import Learned
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector, make_settings
from vlood.prompts.contexts import encode_prompts
from vlood.prompts.templates import DEFAULT_TEMPLATE, class_features

FORMAT = "local-prompt"


def import_local_prompt(
    checkpoint: Checkpoint, target: Target, *, templates: tuple[str, ...] = ()
) -> Imported:
    """Make a Local-Prompt detector.

    Args:
        checkpoint: holds ``local_ctx`` (K, L, W), a block a class, and ``neg_ctx`` (M, L, W), whose
            prompts have no names.
        target: the classes and the model it was trained on.
        templates: of the global prompts; by default "a photo of a {}.".

    Raises:
        UsageError: a tensor is missing or does not fit the classes or the model.
    """
    local, negative = find(checkpoint, "local_ctx", FORMAT), find(checkpoint, "neg_ctx", FORMAT)
    check_dimensions(checkpoint, local, (3,), "(K, L, W), a block a class")
    check_dimensions(checkpoint, negative, (3,), "(M, L, W), a block a negative prompt")
    target.check_count(checkpoint, local, checkpoint.shape(local)[0])
    with_names = read_contexts(checkpoint, local)
    nameless = read_contexts(checkpoint, negative, names=False)
    backbone = target.backbone
    if backbone.local_refusal is not None:
        raise UsageError(f"--model {backbone.name}: {backbone.local_refusal}")
    for name, contexts in ((local, with_names), (negative, nameless)):
        target.check_token_width(checkpoint, name, contexts.width)
    templates = templates or (DEFAULT_TEMPLATE,)
    tensors: dict[str, NDArray[np.float32]] = {
        "class_features": class_features(target.encode, target.classes, templates).features,
        "local_features": unit(encode_prompts(backbone, with_names, target.prompts)),
        "local_negative_features": unit(encode_prompts(backbone, nameless, None)),
    }
    method = registry.get(FORMAT)
    detector = Detector(
        FORMAT, make_settings(method, {}), tuple(target.names), tensors, backbone.logit_scale
    )
    learned = Learned(
        "contexts",
        {"local_ctx": with_names.vectors, "neg_ctx": nameless.vectors},
        {"format": FORMAT, "position": "end", "names": True, "nameless": ["neg_ctx"]},
    )
    used = [local, negative]
    report = ImportReport(
        found=described(checkpoint, used),
        ignored=left_out(checkpoint, used),
        missing=(),
        matched=f"{len(with_names.vectors)} local prompts with class names and "
        f"{len(nameless.vectors)} without were encoded by {backbone.name}; they score with "
        f"{FORMAT}",
        notes=order_note(with_names),
    )
    saved = target.saved(
        detector, source_of(checkpoint, FORMAT), templates=templates, learned=learned
    )
    return Imported(saved, report)
