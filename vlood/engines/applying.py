"""Apply what a detector learned, or how it was set, to other class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vlood.detector.adapter_files import is_tuned_model
from vlood.detector.saved import Learned, SavedDetector, check_backbone
from vlood.engines.detectors import fit_all
from vlood.engines.fitted import Fitted
from vlood.engines.global_prompts import METHOD as LOCAL_PROMPT
from vlood.engines.global_prompts import with_neglabel
from vlood.engines.mining import Encoder
from vlood.engines.negatives import Announce, NegativesChoice, find_negatives
from vlood.engines.text_side import TextSide
from vlood.errors import UsageError
from vlood.features.texts import encode_texts
from vlood.methods import registry
from vlood.methods.contract import Detector
from vlood.negatives.negative_features import NegativeFeatures
from vlood.negatives.prompting import Prompting
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures, class_features

CONTEXT = "ctx"
NEGATIVE_CONTEXT = "negative_ctx"


def apply_detector(
    saved: SavedDetector,
    classes: Sequence[ClassName],
    negatives: NegativesChoice,
    encoder: Encoder,
    *,
    threshold: float | None,
    where: str,
    announce: Announce,
) -> SavedDetector:
    """Make the detector of other classes: shared contexts and settings stay, the rest is encoded.

    The calibration goes: its scores were those of other classes.

    Raises:
        UsageError: the detector is of another model, or what it learned belongs to its own classes.
    """
    check_applicable(saved, where)
    check_backbone(saved, encoder.backbone.identity(), where)
    if saved.detector.method == LOCAL_PROMPT:
        made_too = with_neglabel(saved, classes, negatives, encoder, where, announce=announce)
        return replace(made_too, threshold=threshold)
    if saved.learned is None or is_tuned_model(saved.learned):
        made, fitted = _refitted(saved, classes, negatives, encoder, announce, where)
    elif saved.learned.kind == "contexts":
        made, fitted = _with_contexts(saved, classes, negatives, encoder, announce, where)
    elif saved.learned.kind == "no-text":
        made, fitted = _with_no_tower(saved, classes, encoder, where), None
    else:
        raise UsageError(
            f"{where}: what it learned ({saved.learned.kind}) cannot be applied to other classes; "
            "tune it for them"
        )
    rows = () if fitted is None else fitted.rows_of(made.negative_names)
    return replace(
        saved,
        detector=made,
        classes=tuple(classes),
        backbone=encoder.backbone.identity(),
        model_name=encoder.backbone.name,
        negatives=rows,
        calibration=None,
        threshold=threshold,
        figures=(),
        provenance={**saved.provenance, "applied_from": where},
    )


def check_applicable(saved: SavedDetector, where: str) -> None:
    """Refuse a detector whose tensors were trained for its own classes, before a model is loaded.

    Raises:
        UsageError: it is one.
    """
    method = registry.get(saved.detector.method)
    if saved.members:
        raise UsageError(
            f"{where}: is an ensemble; apply its members ({where}/members) to the other classes, "
            "and combine those with `vlood tune ensemble`"
        )
    if saved.learned is None and method.record.trains:
        raise UsageError(
            f"{where}: its {method.record.title.lower()} was trained on images of its own classes "
            "and says nothing of others; "
            + (
                f"train it for them: `vlood tune {method.name} --train IN...`"
                if method.learns
                else "import one that was trained for them"
            )
        )


def _refitted(
    saved: SavedDetector,
    classes: Sequence[ClassName],
    negatives: NegativesChoice,
    encoder: Encoder,
    announce: Announce,
    where: str,
) -> tuple[Detector, NegativeFeatures | None]:
    """Fit a method that learned nothing, or on tuned towers, as it was set to the new names."""
    old = saved.detector
    if not saved.templates:
        raise UsageError(
            f"{where}: its class features came from embeddings, which no other names can be put "
            "into; tune it with --classes"
        )
    side = TextSide(tuple(classes), saved.templates, logit_scale=old.logit_scale)
    settings = {name: str(value) for name, value in vars(old.settings).items()}
    fitted: Fitted = fit_all([old.method], side, negatives, encoder, settings, announce=announce)[0]
    return fitted.detector, fitted.negatives


def _with_contexts(
    saved: SavedDetector,
    classes: Sequence[ClassName],
    negatives: NegativesChoice,
    encoder: Encoder,
    announce: Announce,
    where: str,
) -> tuple[Detector, NegativeFeatures | None]:
    """Put the new names behind shared contexts."""
    assert saved.learned is not None
    method = registry.get(saved.detector.method)
    features = _prompted(saved.learned, CONTEXT, [each.prompt for each in classes], encoder, where)
    ids = ClassFeatures.of([each.name for each in classes], features)
    given: dict[str, NegativeFeatures] = {}
    if "negatives" in method.record.needs:
        found = find_negatives(negatives, classes, ids, encoder, Prompting(), announce=announce)
        if NEGATIVE_CONTEXT in saved.learned.arrays:
            rows = _prompted(saved.learned, NEGATIVE_CONTEXT, found.names, encoder, where)
            again = NegativeFeatures.of(found.names, rows, found.permutation)
            found = replace(again, rows=found.rows)
        given["negatives"] = found
    detector = method.fit(ids, saved.detector.settings, saved.detector.logit_scale, **given)
    return detector, given.get("negatives")


def _with_no_tower(
    saved: SavedDetector, classes: Sequence[ClassName], encoder: Encoder, where: str
) -> Detector:
    """Ask CLIPN's two towers about the new names, in the detector's templates."""
    from vlood.methods import clipn
    from vlood.methods.clipn_training import compiled_no_features

    assert saved.learned is not None
    old = saved.detector
    clipn.check_rule(old.settings, len(classes))
    if not saved.templates:
        raise UsageError(f"{where}: it does not say in which templates; import or tune it again")
    if saved.provenance.get("yes_tower") == "file":
        raise UsageError(
            f'{where}: its "yes" text features came from the text tower of its checkpoint, which '
            "is not kept; import the checkpoint again with these classes"
        )
    about = saved.learned.about
    if "no_templates" not in about and "no_templates" in saved.provenance:
        about = {**about, "no_templates": saved.provenance["no_templates"]}
    learned = replace(saved.learned, about=about)
    texts = [each.name for each in classes]
    yes = class_features(
        lambda some: encode_texts(some, encoder.backbone, encoder.cache), classes, saved.templates
    )
    tensors = {
        "class_features": yes.features,
        "no_features": compiled_no_features(learned, encoder.backbone, classes, saved.templates),
    }
    return replace(old, class_names=tuple(texts), tensors=tensors)


def _prompted(
    learned: Learned, name: str, words: Sequence[str], encoder: Encoder, where: str
) -> NDArray[np.float32]:
    from vlood.prompts.contexts import Contexts, encode_prompts

    if name not in learned.arrays:
        raise UsageError(f"{where}: its learned contexts have no {name}; import or tune it again")
    position = str(learned.about.get("position", "end"))
    contexts = Contexts(np.asarray(learned.arrays[name], np.float32), position)
    if not contexts.shared:
        raise UsageError(
            f"{where}: its contexts are class-specific ({len(contexts.vectors)} blocks, one a "
            "class), so they mean nothing for other names; tune it for them, or use shared contexts"
        )
    return encode_prompts(encoder.backbone, contexts, list(words))
