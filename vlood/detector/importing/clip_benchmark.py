"""Zero-shot classifiers as CLIP benchmark saves them: one tensor, a column a class."""

from __future__ import annotations

from vlood.detector.importing.checkpoint import BARE, Checkpoint
from vlood.detector.importing.found import check_dimensions, described, lacks, left_out
from vlood.detector.importing.report import Imported, ImportReport
from vlood.detector.importing.target import Target, source_of
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import make_settings
from vlood.prompts.templates import ClassFeatures

FORMAT = "clip-benchmark"


def import_classifier(checkpoint: Checkpoint, target: Target) -> Imported:
    """Make an MCM detector of a classifier.

    Args:
        checkpoint: holds one tensor (D, K).
        target: the classes and the model whose text tower made it.

    Raises:
        UsageError: it holds something else, or does not fit the classes or the model.
    """
    if BARE not in checkpoint.tensors:
        raise lacks(checkpoint, "bare tensor (D, K)", FORMAT)
    check_dimensions(checkpoint, BARE, (2,), "(D, K), a column a class")
    width, count = checkpoint.shape(BARE)
    if count != len(target.classes) == width:
        raise UsageError(
            f"{checkpoint.path}: has a row a class, {checkpoint.shape(BARE)}, and CLIP benchmark's "
            "files have a column; import it as embeddings, with names beside a .npy"
        )
    target.check_count(checkpoint, "the classifier", count)
    target.check_feature_width(checkpoint, "a column", width)
    backbone = target.backbone
    method = registry.get("mcm")
    features = ClassFeatures.of(target.names, checkpoint.array(BARE).T)
    detector = method.fit(features, make_settings(method, {}), backbone.logit_scale)
    report = ImportReport(
        found=described(checkpoint, [BARE]),
        ignored=left_out(checkpoint, [BARE]),
        missing=(),
        matched=f"a zero-shot classifier of {count} classes by the text tower of {backbone.name}; "
        f"it scores with {method.name}",
        notes=(
            "nothing in the file tells its model, its templates or the order of its classes: make "
            "sure that --model and --classes are those it was made with",
        ),
    )
    return Imported(target.saved(detector, source_of(checkpoint, FORMAT)), report)
