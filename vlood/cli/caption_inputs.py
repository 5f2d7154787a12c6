"""Tune a method on images with captions, or measure what that would cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from vlood.cli.class_options import ClassOptions
from vlood.cli.model_options import ModelOptions, ReadOptions, stream_settings
from vlood.cli.talk import progress, warn
from vlood.cli.tuning_run import print_cost, watched
from vlood.engines.captioned_images import Account, CaptionSet, caption_set, usable
from vlood.engines.detectors import settings_by_method
from vlood.engines.few_shot import fit_from_images
from vlood.engines.fitted import Fitted
from vlood.engines.method_needs import refuse_captions
from vlood.engines.mining import Encoder
from vlood.engines.printable import printable
from vlood.engines.tuning import TuningRun
from vlood.engines.tuning_costs import RunCost, run_cost
from vlood.images.captions import find_captions
from vlood.methods import clipn, registry
from vlood.methods.contract import make_settings
from vlood.training.captioned import CaptionedFeatures
from vlood.training.checkpoints import RunFolder
from vlood.training.labelled import LabelledFeatures
from vlood.training.workers import workers


def tune_on_captions(
    method: str,
    wanted: ClassOptions,
    inputs: Sequence[str],
    encoder: Encoder,
    run: ModelOptions,
    read: ReadOptions,
    folder: RunFolder,
    *,
    dry: bool,
    seed: int,
    quiet: bool,
) -> tuple[Fitted, str | None, Mapping[str, int]] | None:
    """Tune a method; return it, its log and how many samples were left out for what reason.

    None where it is measured alone (``dry``), or in a process that is not the main one.
    """

    def fit(images: LabelledFeatures, how: TuningRun) -> Fitted:
        return fit_from_images(
            method,
            wanted.side,
            images,
            seed=seed,
            settings=wanted.settings,
            encoder=encoder,
            negatives=wanted.negatives,
            announce=lambda text: warn(text, quiet=quiet),
            run=how,
        )

    check_before(method, wanted)
    if dry:
        classes = len(wanted.side.names())
        print_cost(caption_cost(method, fit, inputs, encoder, run, read, classes, seed))
        return None
    found = caption_set_of(inputs, encoder, run, read, quiet=quiet)
    fitted, log = watched(lambda how: fit(found.images, how), folder, None, quiet=quiet)
    if not workers().is_main:
        return None
    return fitted, log, found.left_out


def check_before(method: str, wanted: ClassOptions) -> None:
    """Refuse what training would refuse, before any image is read.

    Raises:
        UsageError: the method does not learn from captions, a setting is wrong, or there is one
            class and the rule needs several.
    """
    chosen = registry.get(method)
    refuse_captions(chosen)
    settings = make_settings(chosen, settings_by_method([chosen], wanted.settings)[method])
    if chosen is registry.get(clipn.RECORD.name):
        clipn.check_rule(settings, len(wanted.side.names()))


def caption_set_of(
    inputs: Sequence[str],
    encoder: Encoder,
    run: ModelOptions,
    read: ReadOptions,
    *,
    quiet: bool,
) -> CaptionSet:
    """Encode the images, and say what is left out and why."""
    with progress("captioned images", None, quiet=quiet) as bar:
        found = caption_set(
            find_captions(inputs, root=read.root),
            encoder.backbone,
            stream_settings(run, read),
            cache=encoder.cache,
            advance=bar.advance,
        )
    for sentence in found.sentences():
        warn(printable(sentence), quiet=quiet)
    return found


def caption_cost(
    method: str,
    fit: Callable[[LabelledFeatures, TuningRun], Fitted],
    inputs: Sequence[str],
    encoder: Encoder,
    run: ModelOptions,
    read: ReadOptions,
    classes: int,
    seed: int,
) -> RunCost:
    """Measure what training would cost; captions are read, and no image is decoded."""
    held = list(usable(find_captions(inputs, root=read.root), Account()))
    captions = [one.caption for one in held]
    labels = CaptionedFeatures.of(np.zeros((len(held), 0), np.float32), captions).labels

    def fit_captions(images: LabelledFeatures, how: TuningRun) -> Fitted:
        return fit(CaptionedFeatures.of(images.raw, captions), how)

    cost = run_cost(
        method,
        fit_captions,
        labels,
        [one.item for one in held],
        encoder.backbone,
        stream_settings(run, read),
        encoder.cache,
        views=0,
        seed=seed,
        loops=True,
    )
    return replace(cost, classes=classes)
