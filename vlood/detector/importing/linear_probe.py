"""Linear probes on CLIP's image embeddings, such as COOkeD's: ``fc.weight`` and ``fc.bias``."""

from __future__ import annotations

from dataclasses import dataclass

from vlood.backbone.spec import ModelForm, ModelSpec
from vlood.detector.importing.checkpoint import Checkpoint
from vlood.detector.importing.found import check_dimensions, described, lacks, left_out
from vlood.detector.importing.report import Imported, ImportReport
from vlood.detector.importing.target import Target, source_of
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector, make_settings

FORMAT = "cooked-probe"
_METHOD = "linear-probe"

_B32, _B16 = "ViT-B-32-quickgelu:openai", "ViT-B-16-quickgelu:openai"
_L14, _H14 = "ViT-L-14-quickgelu:openai", "ViT-H-14:laion2b_s32b_b79k"


@dataclass(frozen=True)
class KnownProbe:
    """One of the files that COOkeD's authors published; its shape does not tell the model."""

    data: str
    model: str
    timestamp: str
    sha256: str


# Time in the file's name, and the first twelve digits of its SHA-256.
KNOWN = tuple(
    KnownProbe(data, model, timestamp, sha256)
    for data, rows in {
        "imagenet": (
            (_B32, "20250223-164520", "5feccc24e504"),
            (_B16, "20250223-164912", "f72a5626f965"),
            (_L14, "20250223-172735", "10fb2ee4897e"),
            (_H14, "20250224-110743", "a6c5f78da571"),
        ),
        "imagenet200": (
            (_B32, "20250220-193837", "c777de233856"),
            (_B16, "20250222-171621", "b9b091b19303"),
            (_L14, "20250220-165004", "f473d236c44b"),
            (_H14, "20250221-081433", "9f0e24bf5ad2"),
        ),
        "cifar100": (
            (_B32, "20250220-145402", "12df24721653"),
            (_B16, "20250222-211559", "07e21dafdeec"),
            (_L14, "20250220-150924", "1266d303df12"),
            (_H14, "20250221-112741", "cad7859b10fa"),
        ),
        "cifar100n_noisyfine": (
            (_B32, "20250303-113751", "423198812e4f"),
            (_B16, "20250303-114642", "8e93c503b2c1"),
            (_L14, "20250303-120007", "5eec544fce9e"),
            (_H14, "20250303-120750", "d1d5b8d6c58b"),
        ),
        "ooddb_dtd_0": (
            (_B32, "20250228-123248", "eb4ec97d6459"),
            (_B16, "20250228-123119", "97895ce6b6d8"),
            (_L14, "20250228-123416", "387b3319010a"),
            (_H14, "20250228-133806", "9928aa4a16a5"),
        ),
        "ooddb_patternnet_0": (
            (_B32, "20250228-122411", "98a9bd5cc405"),
            (_B16, "20250228-120037", "aa705e94fdfb"),
            (_L14, "20250228-122741", "546a4754b101"),
            (_H14, "20250228-133431", "742bcb59f338"),
        ),
    }.items()
    for model, timestamp, sha256 in rows
)


def import_probe(checkpoint: Checkpoint, target: Target) -> Imported:
    """Make a linear-probe detector.

    Args:
        checkpoint: holds ``fc.weight`` (C, D) and ``fc.bias`` (C,); or, under other names, one
            matrix and one vector that fit each other.
        target: the classes and the model whose raw embeddings it was trained on.

    Raises:
        UsageError: there is no such pair, it does not fit the classes or the model, or the file is
            one of the authors' and was made with another model.
    """
    weight, bias = _pair(checkpoint)
    count, width = checkpoint.shape(weight)
    target.check_count(checkpoint, weight, count)
    known = recognise(checkpoint)
    if known is not None and target.model is not None:
        _check_named(checkpoint, known, target.model)
    target.check_feature_width(checkpoint, weight, width)
    backbone = target.backbone
    if known is not None and backbone.architecture != known.model.partition(":")[0]:
        raise _of_another(checkpoint, known, backbone.name)
    detector = Detector(
        _METHOD,
        make_settings(registry.get(_METHOD), {"solver": "imported"}),
        tuple(target.names),
        {"weight": checkpoint.array(weight), "bias": checkpoint.array(bias)},
        backbone.logit_scale,
    )
    used = [weight, bias]
    if known is None:
        note = (
            "nothing in the file tells the model it was trained with, and ViT-B-32 and ViT-B-16 "
            f"have the same shape: make sure that it was {backbone.name}"
        )
    else:
        note = f"this is the authors' probe of {known.data}, trained with {known.model}"
    report = ImportReport(
        found=described(checkpoint, used),
        ignored=left_out(checkpoint, used),
        missing=(),
        matched=f"a linear classifier of {count} classes on the raw embeddings of {backbone.name}; "
        f"it scores with {_METHOD}",
        notes=(note, "--classes must be in the order of its rows, which the file does not tell"),
    )
    return Imported(target.saved(detector, source_of(checkpoint, FORMAT)), report)


def recognise(checkpoint: Checkpoint) -> KnownProbe | None:
    """Return which of the authors' files this is, by its digest or the time in its name."""
    digest, name = checkpoint.sha256[:12], checkpoint.path.name
    by_digest = next((each for each in KNOWN if each.sha256 == digest), None)
    return by_digest or next((each for each in KNOWN if each.timestamp in name), None)


def _pair(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return the names of weight and bias."""
    weight, bias = "fc.weight", "fc.bias"
    if weight not in checkpoint.tensors:
        matrices = [name for name in checkpoint.tensors if len(checkpoint.shape(name)) == 2]
        if len(matrices) != 1:
            raise lacks(checkpoint, "fc.weight (C, D)", FORMAT)
        weight = matrices[0]
    check_dimensions(checkpoint, weight, (2,), "(C, D), a row a class")
    if bias not in checkpoint.tensors:
        count = checkpoint.shape(weight)[:1]
        vectors = [name for name in checkpoint.tensors if checkpoint.shape(name) == count]
        if len(vectors) != 1:
            raise UsageError(
                f"{checkpoint.path}: has {weight} {checkpoint.shape(weight)} but no bias beside it "
                f"(a vector of {count[0]} numbers, such as fc.bias); save both, the bias as zeros "
                "where the classifier has none"
            )
        bias = vectors[0]
    elif checkpoint.shape(bias) != checkpoint.shape(weight)[:1]:
        raise UsageError(
            f"{checkpoint.path}: {bias} has shape {checkpoint.shape(bias)} and {weight} "
            f"{checkpoint.shape(weight)}; expected one bias a class"
        )
    return weight, bias


def _check_named(checkpoint: Checkpoint, known: KnownProbe, model: str) -> None:
    """Refuse another model by its name, before it is loaded."""
    spec = ModelSpec.parse(model)
    architecture, _, tag = known.model.partition(":")
    if spec.form not in (ModelForm.TAG, ModelForm.FILE):
        return
    if spec.architecture != architecture or (spec.form is ModelForm.TAG and spec.source != tag):
        raise _of_another(checkpoint, known, model)


def _of_another(checkpoint: Checkpoint, known: KnownProbe, model: str) -> UsageError:
    return UsageError(
        f"{checkpoint.path}: is the authors' probe of {known.data} on {known.model}, and --model "
        f"is {model}; use --model {known.model}"
    )
