"""LAPT: contexts before class names (``ctx``) and before negative labels (``ood_ctx``)."""

from __future__ import annotations

from dataclasses import replace

from vlood.detector.importing.checkpoint import Checkpoint
from vlood.detector.importing.coop import order_note, read_contexts
from vlood.detector.importing.found import described, find, left_out
from vlood.detector.importing.report import Imported, ImportReport
from vlood.detector.importing.target import Target, source_of
from vlood.detector.saved import Learned
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import make_settings
from vlood.negatives.bank import NegativeBank, check_classes
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.contexts import encode_prompts
from vlood.prompts.templates import ClassFeatures

FORMAT = "lapt"


def import_lapt(checkpoint: Checkpoint, target: Target, negatives: NegativeBank) -> Imported:
    """Make a NegLabel detector whose prompts are learned, on both sides.

    Args:
        checkpoint: holds ``prompt_learner.ctx`` and ``prompt_learner.ood_ctx``, (L, W) each or
            (n, L, W); the whole network that is stored with them is left out.
        target: the classes and the model it was trained on.
        negatives: a bank, whose words get the second contexts and whose groups stay.

    Raises:
        UsageError: a tensor is missing, or does not fit the classes, the negatives or the model.
    """
    name, negative_name = find(checkpoint, "ctx", FORMAT), find(checkpoint, "ood_ctx", FORMAT)
    contexts = read_contexts(checkpoint, name)
    negative_contexts = read_contexts(checkpoint, negative_name)
    if not contexts.shared:
        target.check_count(checkpoint, name, len(contexts.vectors))
    if not negative_contexts.shared and len(negative_contexts.vectors) != len(negatives):
        raise UsageError(
            f"{checkpoint.path}: {negative_name} is for {len(negative_contexts.vectors)} negative "
            f"labels and --negatives has {len(negatives)}; give those that it was trained with, in "
            "their order"
        )
    check_classes(negatives, target.classes, "--negatives")
    backbone = target.backbone
    target.check_token_width(checkpoint, name, contexts.width)
    target.check_token_width(checkpoint, negative_name, negative_contexts.width)
    classes = ClassFeatures.of(target.names, encode_prompts(backbone, contexts, target.prompts))
    rows = encode_prompts(backbone, negative_contexts, negatives.terms)
    side = NegativeFeatures.of(negatives.terms, rows, negatives.permutation)
    # The bank's templates are not what these rows were encoded with.
    side = replace(side, rows=tuple(replace(row, template="") for row in negatives.rows()))
    method = registry.get("neglabel")
    detector = method.fit(classes, make_settings(method, {}), backbone.logit_scale, negatives=side)
    used = [name, negative_name]
    report = ImportReport(
        found=described(checkpoint, used),
        ignored=left_out(checkpoint, used),
        missing=(),
        matched=f"{contexts.length} context vectors with {len(target.classes)} class names and "
        f"{negative_contexts.length} with {len(negatives)} negative labels were encoded by "
        f"{backbone.name}; they score with neglabel",
        notes=order_note(contexts),
    )
    saved = target.saved(
        detector,
        source_of(checkpoint, FORMAT),
        negatives=side.rows_of(detector.negative_names),
        learned=Learned(
            "contexts",
            {"ctx": contexts.vectors, "negative_ctx": negative_contexts.vectors},
            {"format": FORMAT, "position": "end", "names": True},
        ),
    )
    return Imported(saved, report)
