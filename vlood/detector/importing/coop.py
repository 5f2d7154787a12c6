"""CoOp and LoCoOp: learned context vectors before the class names (``ctx``)."""

from __future__ import annotations

from vlood.detector.importing.checkpoint import Checkpoint
from vlood.detector.importing.found import check_dimensions, described, find, left_out
from vlood.detector.importing.report import Imported, ImportReport
from vlood.detector.importing.target import Target, source_of
from vlood.detector.saved import Learned
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import make_settings
from vlood.prompts.contexts import Contexts, encode_prompts
from vlood.prompts.templates import ClassFeatures

_METHODS = {"coop": "mcm", "locoop": "gl-mcm"}
_PLACES = {"end": "at the end", "middle": "in the middle", "front": "in front"}
_BUFFERS = ("token_prefix", "token_suffix")


def import_contexts(
    checkpoint: Checkpoint, target: Target, *, format: str = "coop", position: str = "end"
) -> Imported:
    """Make a detector of learned contexts; the prompts are encoded anew from the class names.

    Args:
        checkpoint: holds ``ctx``, (L, W) shared by all classes or (K, L, W), those of each; the
            buffers beside it belong to the training's class names and are left out.
        target: the classes and the model it was trained on.
        format: ``coop`` scores with MCM, ``locoop`` with GL-MCM, lambda 1.
        position: where the name stands, as it was trained: ``end``, ``middle`` or ``front``.

    Raises:
        UsageError: there is no such tensor, or it does not fit the classes or the model.
    """
    name = find(checkpoint, "ctx", format)
    contexts = read_contexts(checkpoint, name, position=position)
    if not contexts.shared:
        target.check_count(checkpoint, name, len(contexts.vectors))
    names = target.prompts
    method = registry.get(_METHODS[format])
    backbone = target.backbone
    target.check_token_width(checkpoint, name, contexts.width)
    if "local" in method.record.needs and backbone.local_refusal is not None:
        raise UsageError(f"--model {backbone.name}: {backbone.local_refusal}")
    features = ClassFeatures.of(target.names, encode_prompts(backbone, contexts, names))
    values = {"lambda_local": 1.0} if format == "locoop" else {}
    detector = method.fit(features, make_settings(method, values), backbone.logit_scale)
    about = {"format": format, "position": position, "names": True}
    report = ImportReport(
        found=described(checkpoint, [name]),
        ignored=left_out(checkpoint, [name]),
        missing=(),
        matched=_matched(contexts, target, method.name),
        notes=_notes(checkpoint, contexts, target),
    )
    learned = Learned("contexts", {"ctx": contexts.vectors}, about)
    return Imported(target.saved(detector, source_of(checkpoint, format), learned=learned), report)


def read_contexts(
    checkpoint: Checkpoint, name: str, *, position: str = "end", names: bool = True
) -> Contexts:
    """Read context vectors.

    Raises:
        UsageError: they have another shape, or numbers that are not finite.
    """
    check_dimensions(checkpoint, name, (2, 3), "(L, W), or (n, L, W) with a block a name")
    return Contexts(checkpoint.array(name), position, names)


def _matched(contexts: Contexts, target: Target, method: str) -> str:
    kind = "shared by all" if contexts.shared else "one block a class"
    return (
        f"{contexts.length} context vectors, {kind}, were encoded with the names of "
        f"{len(target.classes)} classes ({_PLACES[contexts.position]}) by {target.backbone.name}; "
        f"they score with {method}"
    )


def order_note(contexts: Contexts) -> tuple[str, ...]:
    """Return what cannot be checked of class-specific contexts."""
    if contexts.shared:
        return ()
    return (
        "each block belongs to the class of its row: --classes must be in the order of the training"
        ", which the file does not tell",
    )


def _notes(checkpoint: Checkpoint, contexts: Contexts, target: Target) -> tuple[str, ...]:
    notes = order_note(contexts)
    trained = {
        checkpoint.shape(name)[0]
        for name in checkpoint.tensors
        if name.rpartition(".")[2] in _BUFFERS and checkpoint.shape(name)
    }
    if contexts.shared and trained and trained != {len(target.classes)}:
        notes += (
            f"the contexts were trained with {min(trained)} class names and are applied to "
            f"{len(target.classes)} here",
        )
    return notes
