"""CMA: both towers tuned on images and the prompts of their classes, pulled across the gap.

Kim and Hwang 2025, "Enhanced OoD Detection through Cross-Modal Alignment of Multi-Modal
Representations". What comes out is a NegLabel or MCM detector of a tuned model, which is kept in
its folder as a PEFT adapter or as the changes of whole towers. With lambda 0 it is FLYP (Goyal et
al. 2023, "Finetune like you pretrain").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.errors import UsageError
from vlood.features.texts import encode_texts
from vlood.methods import mcm, neglabel
from vlood.methods.cma_settings import PRESETS, CMASettings
from vlood.methods.contract import Detector, Learned, Method, MethodRecord, Scores, TunedDetector
from vlood.negatives.negative_features import NegativeFeatures
from vlood.negatives.prompting import Prompting, TextRows
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures, class_features, fill
from vlood.training.labelled import LabelledFeatures, check_every_class
from vlood.training.pixels import BlankPixels, PixelSource

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.training.tuning import Tuning

RECORD = MethodRecord(
    name="cma",
    title="CMA",
    paper=("Enhanced OoD Detection through Cross-Modal Alignment of Multi-Modal Representations"),
    year=2025,
    venue="CVPR",
    url="https://arxiv.org/abs/2503.18817",
    summary="NegLabel (or MCM) on towers tuned on images and prompts, by adapters or whole",
    score_note="mean over groups of sigmoid(LSE(s cos) - LSE(s cos-)), T = 1 on logits; --set "
    "score=mcm: max softmax(cos), T = 1 on cosines",
    needs=("classes", "images", "text-tower", "pixels"),
    trains=True,
    licence="none stated",
    template="the nice {}",
)


def check_training(settings: CMASettings, classes: int) -> None:
    """Refuse one class: its images have no other text to be told from.

    Raises:
        UsageError: there is one.
    """
    if classes < 2:
        raise UsageError(
            "cma: one class alone has no other prompt to be told from; give two classes or more, "
            "or use --method neglabel, which needs no training"
        )


def fit(
    classes: ClassFeatures,
    settings: CMASettings,
    logit_scale: float,
    *,
    images: LabelledFeatures,
    tuning: Tuning,
    negatives: NegativeFeatures | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> TunedDetector:
    """Tune the towers and compile them to a NegLabel or MCM detector.

    Args:
        classes: K names; their features are not looked at.
        settings: its settings.
        logit_scale: not looked at: training and scoring take the model's.
        images: of every class; their pixels come by ``tuning``.
        tuning: the model, the prompts' names, the images and the run.
        negatives: as the model as it was has them; the tuned one encodes them anew.
        seed: of an adapter's start, the order of images and everything drawn.
        device: where the model is.

    Raises:
        UsageError: one class, embeddings without images, a tuned model, or targets that learn
            nothing.
        VloodError: the loss is not finite, or memory ran out.
    """
    from vlood.backbone.tuned_folder import describe_base
    from vlood.backbone.tuned_weights import merged_digest, tuned_backbone
    from vlood.methods.cma_run import tune_towers

    check_training(settings, len(classes))
    check_every_class(images.labels, classes.names)
    pixels = _pixels(tuning)
    base = tuning.backbone
    templates = (settings.template,) if settings.template else tuning.class_templates
    texts = [fill(template, name) for name in tuning.prompts for template in templates]
    made = tune_towers(
        images.labels, texts, pixels, tuning, settings, classes=len(classes), seed=seed
    )
    if tuning.probe is not None:
        # Measured alone: what is returned means nothing.
        return _measured(classes, settings, logit_scale)
    weights = made.weights
    tuned = tuned_backbone(base, weights, base.name)
    named = _class_names(classes.names, tuning.prompts)
    compiled, found = compile_detector(
        tuned,
        named,
        tuning.class_templates,
        settings,
        negatives,
        encode=lambda some: encode_texts(some, tuned, tuning.cache),
        mine=tuning.mine,
    )
    about: dict[str, Any] = {
        "format": "cma",
        "tune": settings.tune,
        "base": describe_base(base, merged_digest(tuned)),
        "adapter": None if weights.config is None else dict(weights.config),
        "trained": made.trained,
        "epochs": made.run.epochs,
        "steps": made.run.steps,
        "multi_positive": made.multi_positive,
        "training_templates": list(templates),
        "negatives_mined_by": settings.mined_by if settings.neglabel else None,
        "held_out": made.run.held_out,
        "settings": asdict(settings),
    }
    arrays = {f"adapter.{name}": array for name, array in weights.adapter.items()}
    arrays |= {f"delta.{name}": array for name, array in weights.deltas.items()}
    learned = Learned("weights", arrays, about)
    return TunedDetector(**vars(compiled), learned=learned, backbone=tuned, negatives=found)


def compile_detector(
    tuned: Backbone,
    classes: Sequence[ClassName],
    templates: Sequence[str],
    settings: CMASettings,
    negatives: NegativeFeatures | None,
    *,
    encode: Callable[[list[str]], NDArray[np.float32]],
    mine: Callable[[Backbone, ClassFeatures], NegativeFeatures] | None = None,
) -> tuple[Detector, NegativeFeatures | None]:
    """Build the detector that scores with a tuned model.

    Args:
        tuned: the model.
        classes: K classes.
        templates: of the classes.
        settings: with the score, and who mines.
        negatives: as another model has them; their words are encoded anew.
        encode: texts to raw features of the tuned model.
        mine: finds negatives with the tuned model.

    Returns:
        The detector and its negatives.
    """
    ids = class_features(encode, classes, templates)
    if not settings.neglabel or negatives is None:
        return mcm.fit(ids, mcm.MCMSettings(), tuned.logit_scale), None
    if settings.mined_by == "tuned" and mine is not None:
        found = mine(tuned, ids)
    else:
        found = encoded_anew(negatives, encode)
    own = neglabel.NegLabelSettings(groups=settings.groups)
    return neglabel.fit(ids, own, tuned.logit_scale, negatives=found), found


def encoded_anew(
    negatives: NegativeFeatures, encode: Callable[[list[str]], NDArray[np.float32]]
) -> NegativeFeatures:
    """Return negatives with the embeddings of another model: same words, templates and groups."""
    usual = Prompting()
    templates = [
        tuple(row.template.splitlines()) or usual.of_part(row.part_of_speech)
        for row in negatives.rows_of(negatives.names)
    ]
    rows = TextRows(negatives.names, templates, encode)[slice(None)]
    again = NegativeFeatures.of(negatives.names, rows, negatives.permutation)
    return replace(again, rows=negatives.rows)


def _pixels(tuning: Tuning) -> PixelSource:
    if tuning.pixels is not None:
        return tuning.pixels
    if tuning.probe is None:
        raise UsageError(
            "cma: tunes the model on the images themselves, and these are embeddings; give --train "
            "images"
        )
    preprocessing = tuning.backbone.preprocessing
    return BlankPixels(preprocessing.size, preprocessing.split)


def _class_names(names: Sequence[str], prompts: Sequence[str]) -> list[ClassName]:
    return [ClassName(name, prompt) for name, prompt in zip(names, prompts, strict=True)]


def _measured(classes: ClassFeatures, settings: CMASettings, logit_scale: float) -> TunedDetector:
    """Return a detector that means nothing."""
    features = classes.features
    detector = mcm.fit(ClassFeatures(classes.names, features), mcm.MCMSettings(), logit_scale)
    return TunedDetector(**vars(detector), learned=Learned("weights", {}, {}))


def score(detector: Detector, images: ImageFeatures) -> Scores:
    """Score N images with what it compiles to."""
    if "negative_features" in detector.tensors:
        return neglabel.score(detector, images)
    return mcm.score(detector, images)


METHOD = Method(
    RECORD,
    CMASettings,
    fit,
    score,
    presets=PRESETS,
    check_training=check_training,
)
