"""CLIPN: a second text tower that says "no", trained beside a frozen CLIP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from hashlib import blake2b

import numpy as np
import torch

from vlood.backbone.no_text import PROMPTS, encode_no_texts
from vlood.detector.importing.checkpoint import Checkpoint
from vlood.detector.importing.found import described, lacks, left_out
from vlood.detector.importing.report import Imported, ImportReport
from vlood.detector.importing.target import Target, source_of
from vlood.detector.saved import Learned
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import Detector, make_settings
from vlood.prompts.contexts import prompt_tower
from vlood.prompts.templates import class_features, read_no_templates

FORMAT = "clipn"
_NO = "_no"
_TOKENS = "token_embedding_no.weight"
_IMAGES = "visual."
_ONE_CLASS = (
    "there is one class, of which ATD says nothing (its probability among the classes is 1 for "
    "every image), so the detector scores by CTW"
)


def import_clipn(
    checkpoint: Checkpoint,
    target: Target,
    *,
    templates: tuple[str, ...] = (),
    keep_learned: bool = False,
) -> Imported:
    """Make a CLIPN detector.

    The variant with learned prompts gives both towers the same texts; the one without is asked in
    the library's pairs of a template and its negation.

    Args:
        checkpoint: holds the whole "no" tower, ``*_no``, and perhaps ``prompt_no`` (P, 77, W).
        target: the classes and the model it was trained on.
        templates: of both towers; by default the positive half of the library's pairs.
        keep_learned: also keep the "no" tower, in half precision.

    Raises:
        UsageError: the "no" tower is incomplete or of another model, the file's image tower is not
            the model's, or templates for the variant that has its own.
    """
    no = {name: tensor for name, tensor in checkpoint.tensors.items() if _is_no(name)}
    if not no:
        raise lacks(checkpoint, '"no" tower (names with _no)', FORMAT)
    for name in no:
        if not bool(torch.isfinite(no[name]).all()):
            raise UsageError(
                f"{checkpoint.path}: {name} holds numbers that are not finite; use another "
                "checkpoint of the run"
            )
    learned_prompts = PROMPTS in no
    if templates and not learned_prompts:
        raise UsageError(
            f"--template: {checkpoint.path} has no {PROMPTS}, so it is CLIPN's hand-crafted "
            "variant, whose templates come in pairs; leave --template out"
        )
    classes, backbone = target.classes, target.backbone
    tower = prompt_tower(backbone)
    if _TOKENS in no:
        target.check_token_width(checkpoint, _TOKENS, checkpoint.shape(_TOKENS)[-1])
    _check_images(checkpoint, target)
    yes = _yes_state(checkpoint, no)
    own = tower.module.state_dict()
    shared = {name: own[name] for name in own if name in _plain_names(no)}
    is_own = yes is None or _same(checkpoint.tensors, shared)
    pairs = read_no_templates()
    positives = templates or tuple(positive for positive, _ in pairs)
    negations = positives if learned_prompts else tuple(negation for _, negation in pairs)
    encode_yes = target.encode
    if yes is not None and not is_own:
        encode_yes = partial(encode_no_texts, backbone, yes)
    encode_no = partial(encode_no_texts, backbone, no)
    # The "no" side first: it refuses a tower that does not fit.
    against = class_features(encode_no, classes, negations).features
    tensors = {
        "class_features": class_features(encode_yes, classes, positives).features,
        "no_features": against,
    }
    # ATD says nothing of a single class; CTW does.
    rule = {"rule": "ctw"} if len(classes) == 1 else {}
    settings = make_settings(registry.get(FORMAT), rule)
    detector = Detector(FORMAT, settings, tuple(target.names), tensors, backbone.logit_scale)
    used = [*no, *(name for name in checkpoint.tensors if name in _plain_names(no))]
    missing = [] if learned_prompts else [PROMPTS]
    missing += [] if yes is not None else ['the "yes" text tower']
    missing += [] if _has_images(checkpoint) else ["the image tower"]
    variant = "learned" if learned_prompts else "hand-crafted"
    report = ImportReport(
        found=described(checkpoint, used),
        ignored=left_out(checkpoint, [*used, *_images(checkpoint)]),
        missing=tuple(missing),
        matched=f'the {variant} variant\'s "no" tower ({len(no)} tensors) was asked about '
        f"{len(classes)} classes by {len(positives)} template(s), beside the text tower of "
        f"{backbone.name if is_own else 'the file'}; they score with clipn",
        notes=(
            *_notes(checkpoint, target, yes is not None, is_own, keep_learned),
            *([_ONE_CLASS] if len(classes) == 1 else []),
        ),
    )
    saved = target.saved(
        detector,
        {
            **source_of(checkpoint, FORMAT),
            "variant": variant,
            "no_templates": list(negations),
            "yes_tower": "model" if is_own else "file",
        },
        templates=positives,
        learned=_learned(no, variant) if keep_learned else None,
    )
    return Imported(saved, report)


def _is_no(name: str) -> bool:
    return name.partition(".")[0].endswith(_NO)


def _plain_names(no: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return what the "yes" tower calls each tensor of the "no" tower, and that one's name."""
    plain = {}
    for name in no:
        head, dot, rest = name.partition(".")
        if name != PROMPTS:
            plain[head.removesuffix(_NO) + dot + rest] = name
    return plain


def _yes_state(
    checkpoint: Checkpoint, no: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor] | None:
    """Return the file's "yes" tower under the names of a "no" tower, or None if it is not whole."""
    plain = _plain_names(no)
    if not set(plain) <= set(checkpoint.tensors):
        return None
    return {name: checkpoint.tensors[own] for own, name in plain.items()}


def _images(checkpoint: Checkpoint) -> list[str]:
    return [name for name in checkpoint.tensors if name.startswith(_IMAGES)]


def _has_images(checkpoint: Checkpoint) -> bool:
    return bool(_images(checkpoint))


def _check_images(checkpoint: Checkpoint, target: Target) -> None:
    """Refuse a model whose image features are not those the towers were trained against."""
    own = {
        name: tensor
        for name, tensor in target.backbone.module.state_dict().items()
        if name.startswith(_IMAGES)
    }
    if _has_images(checkpoint) and not _same(checkpoint.tensors, own):
        raise UsageError(
            f"{checkpoint.path}: its image tower is not that of --model {target.backbone.name}, so "
            "its texts would not fit the images; give the model that it was trained on, which is "
            "ViT-B-16:laion2b_s34b_b88k for the files that CLIPN's authors link to"
        )


def _same(stored: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether a file holds a tower of the model, all of it.

    One digest over a tower settles it where both are of one precision; otherwise it may differ by
    what rounding does.
    """
    if any(name not in stored or stored[name].shape != own[name].shape for name in own):
        return False
    if _digest(stored, own) == _digest(own, own):
        return True
    for name, tensor in own.items():
        halves = any(one.dtype in (torch.float16, torch.bfloat16) for one in (tensor, stored[name]))
        ours, theirs = tensor.float().cpu(), stored[name].float()
        # bfloat16 keeps eight bits.
        most = (1e-2 if halves else 1e-5) * float(ours.abs().max())
        if not float((ours - theirs).abs().max()) <= most:
            return False
    return bool(own)


def _digest(tensors: Mapping[str, torch.Tensor], names: Iterable[str]) -> str:
    """Return a digest of some tensors: their names, types and bytes."""
    digest = blake2b(digest_size=16)
    for name in sorted(names):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _learned(no: Mapping[str, torch.Tensor], variant: str) -> Learned:
    arrays = {name: np.array(tensor.to(torch.float16).numpy()) for name, tensor in no.items()}
    return Learned("no-text", arrays, {"format": FORMAT, "variant": variant})


def _notes(
    checkpoint: Checkpoint, target: Target, has_yes: bool, is_own: bool, keep_learned: bool
) -> list[str]:
    notes = []
    if not is_own:
        notes.append(
            f'the file\'s "yes" text tower is not that of --model {target.backbone.name}, and was '
            "used for the classes in its place"
        )
    elif has_yes:
        notes.append(f'the file\'s "yes" text tower is that of --model {target.backbone.name}')
    if not _has_images(checkpoint):
        notes.append(
            f"nothing in the file tells whether --model {target.backbone.name} is the model it was "
            "trained on: its image tower is not in it"
        )
    notes.append(
        'the "no" tower is kept in half precision'
        if keep_learned
        else 'only the compiled features are kept; --keep-learned keeps the "no" tower, too'
    )
    return notes
