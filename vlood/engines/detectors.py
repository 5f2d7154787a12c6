"""Make detectors from class names or embeddings, negatives and, where a method learns, images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vlood.engines.fitted import Fitted
from vlood.engines.method_needs import check_widths, data_of, noise_features, refuse_unmet
from vlood.engines.mining import Encoder
from vlood.engines.negatives import Announce, NegativesChoice, find_negatives
from vlood.engines.text_side import TextSide, class_side
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.methods.contract import (
    DATA,
    Detector,
    Method,
    MethodRecord,
    TunedDetector,
    make_settings,
)
from vlood.negatives.negative_features import NegativeFeatures
from vlood.negatives.prompting import Prompting
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import DEFAULT_TEMPLATE, ClassFeatures
from vlood.training.labelled import LabelledFeatures

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.engines.tuning import TuningRun

_ALLOWED = ("classes", "local", "negatives", "noise")


def fit_all(
    methods: Sequence[str],
    side: TextSide,
    negatives: NegativesChoice,
    encoder: Encoder | None,
    settings: Mapping[str, str],
    *,
    announce: Announce,
    images: LabelledFeatures | None = None,
    seed: int = 0,
    run: TuningRun | None = None,
) -> list[Fitted]:
    """Fit methods, each with the class template it scores best with.

    The template is the user's; else, with negatives, that of their bank; else the method's paper's;
    else "a photo of a {}.". Class features and negatives are made once for all that share them.

    Args:
        methods: their names.
        side: the classes.
        negatives: what the user said of negatives.
        encoder: the model, or None where everything is arrays.
        settings: values by ``name``, for every method that has it, or by ``method.name``.
        announce: told of what is done without being asked for.
        images: what methods that learn from images are trained on, all of them; ``fit_from_images``
            of :mod:`vlood.engines.few_shot` draws some first.
        seed: of everything random in training.
        run: how a run of the training loop is kept, watched or measured.

    Raises:
        UsageError: a method does not exist or needs what is not there, or a value is wrong.
    """
    chosen = [registry.get(name) for name in methods]
    values = settings_by_method(chosen, settings)
    of_bank = negatives.class_templates()
    features: dict[tuple[str, ...], ClassFeatures] = {}
    sides: dict[tuple[tuple[str, ...], bool], NegativeFeatures] = {}
    fitted = []
    for method in chosen:
        record = method.record
        own = make_settings(method, values[method.name])
        # Beside methods that need negatives there are those that can have a NegLabel term.
        with_negatives = "negatives" in record.needs or getattr(own, "neglabel", 0) > 0
        templates = _templates_of(record, side, of_bank if with_negatives else ())
        if record.names_only:
            templates, classes = (), _named(side.names())
        else:
            if templates not in features:
                features[templates] = class_side(side, templates, encoder)
            classes = features[templates]
        given: dict[str, Any] = {}
        met = [*_ALLOWED]
        if with_negatives:
            key = (templates, record.whole_corpus)
            if key not in sides:
                sides[key] = _negatives(
                    side, templates, classes, negatives, encoder, record.whole_corpus, announce
                )
            given["negatives"] = sides[key]
        if "noise" in record.needs:
            given["noise"] = noise_features(method.name, encoder)
        if "layers" in record.needs:
            given["layers"] = getattr(
                None if encoder is None else encoder.backbone, "layer_widths", ()
            )
        if method.learns and images is not None:
            check_widths(classes, images)
            device = "cpu" if encoder is None else encoder.backbone.device
            data = DATA[str(method.data)]
            met.append(str(method.data))
            given |= {data: data_of(method, images), "seed": seed, "device": device}
            if "text-tower" in record.needs:
                # Brings torch in, which what is made from arrays alone does without.
                from vlood.engines.tuning import TuningRun

                how = run or TuningRun()
                if "view-regions" in record.needs and encoder is not None:
                    # Before views are encoded for a tower that cannot be used.
                    from vlood.methods.local_prompt_fit import count_regions

                    count_regions(encoder.backbone)
                given[data] = how.with_views(method.name, own, images, seed)
                given["tuning"] = how.tuning(
                    method.name,
                    own,
                    side.classes,
                    encoder,
                    given[data],
                    side.scale(encoder),
                    given.get("negatives"),
                    announce,
                    side.templates,
                    templates,
                    _miner(side, templates, negatives, encoder, announce),
                )
            elif record.loops:
                from vlood.engines.tuning import TuningRun

                given["looping"] = (run or TuningRun()).looping(
                    method.name, own, side, encoder, images, given.get("negatives")
                )
        trains = ("text-tower", "view-regions", "pixels") if "tuning" in given else ()
        refuse_unmet(method, (*met, *given, *trains))
        detector = method.fit(classes, own, side.scale(encoder), **given)
        learned = None
        tuned_model, found = None, given.get("negatives")
        if isinstance(detector, TunedDetector):
            learned, tuned_model = detector.learned, detector.backbone
            found = detector.negatives or found
            detector = detector.compiled()
        # Learned contexts stand where the templates' words would, but for those of regions alone; a
        # learned tower has templates of its own, and classes keep theirs beside learned negatives.
        beside = learned is None or learned.kind == "negative-labels"
        replaced = learned is not None and not beside and "local_ctx" not in learned.arrays
        replaced = replaced and not tuned_model
        said = () if side.class_embeddings or replaced else templates
        if learned is not None and "templates" in learned.about:
            said = tuple(learned.about["templates"])
        fitted.append(Fitted(detector, said, found, learned=learned, backbone=tuned_model))
    return fitted


def training_negatives(
    method: str,
    side: TextSide,
    negatives: NegativesChoice,
    encoder: Encoder | None,
    *,
    announce: Announce,
) -> NegativesChoice:
    """Find the negatives before training, where a method learns from images of them.

    Args:
        method: its name.
        side: the classes.
        negatives: what the user said of negatives.
        encoder: the model, or None where everything is arrays.
        announce: told of what is done without being asked for.

    Returns:
        The choice with those that were found; as it was, where the method learns from images of
        the classes alone.

    Raises:
        UsageError: they are missing, damaged, or of another model or other classes.
    """
    record = registry.get(method).record
    if not record.negative_images:
        return negatives
    templates = _templates_of(record, side, negatives.class_templates())
    classes = class_side(side, templates, encoder)
    found = _negatives(side, templates, classes, negatives, encoder, record.whole_corpus, announce)
    return replace(negatives, found=found)


def _templates_of(
    record: MethodRecord, side: TextSide, of_bank: tuple[str, ...]
) -> tuple[str, ...]:
    return side.templates or of_bank or (record.template or DEFAULT_TEMPLATE,)


def _negatives(
    side: TextSide,
    templates: tuple[str, ...],
    classes: ClassFeatures,
    negatives: NegativesChoice,
    encoder: Encoder | None,
    whole_corpus: bool,
    announce: Announce,
) -> NegativeFeatures:
    return find_negatives(
        negatives,
        side.classes or tuple(map(ClassName.of, classes.names)),
        classes,
        encoder,
        Prompting(templates, side.templates or Prompting().nouns),
        whole_corpus=whole_corpus,
        announce=announce,
    )


def _miner(
    side: TextSide,
    templates: tuple[str, ...],
    negatives: NegativesChoice,
    encoder: Encoder | None,
    announce: Announce,
) -> Callable[[Backbone, ClassFeatures], NegativeFeatures]:
    """Return what finds the negatives anew with a tuned model."""

    def mine(backbone: Backbone, classes: ClassFeatures) -> NegativeFeatures:
        cache = None if encoder is None else encoder.cache
        tuned = Encoder(backbone, cache)
        return _negatives(side, templates, classes, negatives, tuned, False, announce)

    return mine


def negatives_beside(
    detector: Detector,
    side: TextSide,
    negatives: NegativesChoice,
    encoder: Encoder | None,
    *,
    announce: Announce,
) -> NegativeFeatures:
    """Return the negatives the user named, for a detector that does not score with any."""
    names = detector.class_names
    if "class_features" in detector.tensors:
        classes = ClassFeatures.of(names, detector.tensors["class_features"])
    else:
        # One of images alone: its classes have no text features yet.
        own = side if side.classes else replace(side, classes=tuple(map(ClassName.of, names)))
        classes = class_side(own, side.templates or Prompting().classes, encoder)
    return find_negatives(
        negatives,
        side.classes or tuple(map(ClassName.of, names)),
        classes,
        encoder,
        Prompting(side.templates or Prompting().classes, side.templates or Prompting().nouns),
        announce=announce,
    )


def settings_by_method(
    methods: Sequence[Method], settings: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Hand each ``name=value`` to the methods that have it, and ``method.name=value`` to that one.

    Raises:
        UsageError: no chosen method has a setting of that name.
    """
    values: dict[str, dict[str, str]] = {method.name: {} for method in methods}
    for key, value in settings.items():
        owner, dot, name = key.partition(".")
        if dot and owner in values:
            values[owner][name] = value
            continue
        holders = [method.name for method in methods if key in method.setting_names()]
        # With no holder the first method refuses it, and says what its settings are.
        for holder in holders or [methods[0].name]:
            values[holder][key] = value
    return values


def fit_zero_shot(
    methods: Sequence[str],
    classes: ClassFeatures,
    logit_scale: float,
    settings: Mapping[str, str] | None = None,
    *,
    negatives: NegativeFeatures | None = None,
) -> list[Detector]:
    """Fit each named method to class features, and to negatives where it needs them.

    Raises:
        UsageError: a method does not exist, needs more than it is given, or lacks a setting.
    """
    chosen = [registry.get(name) for name in methods]
    values = settings_by_method(chosen, settings or {})
    detectors = []
    for method in chosen:
        needs_negatives = "negatives" in method.record.needs
        if needs_negatives and negatives is None:
            raise UsageError(f"--method {method.name}: needs negatives, not only class names")
        refuse_unmet(method, allowed=("classes", "local", "negatives"))
        given = {"negatives": negatives} if needs_negatives else {}
        own = make_settings(method, values[method.name])
        detectors.append(method.fit(classes, own, logit_scale, **given))
    return detectors


def _named(names: tuple[str, ...]) -> ClassFeatures:
    """Return classes without text features, for methods that look at their names alone."""
    return ClassFeatures(names, np.zeros((len(names), 0), np.float32))
