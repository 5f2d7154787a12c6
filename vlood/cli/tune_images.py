"""Tune a method on labelled images, or measure what that would cost."""

from __future__ import annotations

from collections.abc import Mapping

from vlood.cli.class_options import ClassOptions
from vlood.cli.model_options import ModelOptions, ReadOptions
from vlood.cli.sources import Source
from vlood.cli.synthetic_inputs import joined
from vlood.cli.talk import warn
from vlood.cli.training_inputs import cost_of, training_set_of, views_of
from vlood.cli.tuning_run import print_cost, watched
from vlood.engines.detectors import training_negatives
from vlood.engines.few_shot import fit_from_images
from vlood.engines.fitted import Fitted
from vlood.engines.mining import Encoder
from vlood.engines.tuning import TuningRun
from vlood.methods import registry
from vlood.training.checkpoints import RunFolder
from vlood.training.labelled import LabelledFeatures
from vlood.training.workers import workers


def tune_on_images(
    method: str,
    wanted: ClassOptions,
    source: Source,
    synthetic: Source | None,
    encoder: Encoder | None,
    run: ModelOptions,
    read: ReadOptions,
    folder: RunFolder,
    *,
    shots: int | None,
    label_noise: float,
    dry: bool,
    seed: int,
    quiet: bool,
) -> tuple[Fitted, str | None, Mapping[str, str]] | None:
    """Tune a method; return it, its log and why images could not be read, by their id.

    None where it is measured alone (``dry``), or in a process that is not the main one.
    """

    def announce(text: str) -> None:
        warn(text, quiet=quiet)

    chosen = registry.get(wanted.methods[0])
    backbone = None if encoder is None else encoder.backbone
    store = None if encoder is None else encoder.cache
    draw = None if shots is None else (shots, seed)
    negatives = training_negatives(
        chosen.name, wanted.side, wanted.negatives, encoder, announce=announce
    )

    def fit(images: LabelledFeatures, how: TuningRun) -> Fitted:
        return fit_from_images(
            method,
            wanted.side,
            images,
            shots=shots,
            seed=seed,
            settings=wanted.settings,
            encoder=encoder,
            negatives=negatives,
            announce=announce,
            run=how,
            label_noise=label_noise,
        )

    if dry:
        print_cost(
            cost_of(
                fit,
                chosen,
                source,
                wanted,
                backbone,
                run,
                read,
                store,
                draw,
                seed,
                quiet,
                negatives=negatives,
                synthetic=synthetic,
            )
        )
        return None
    found = training_set_of(
        source,
        wanted,
        backbone,
        run,
        read,
        store,
        local=chosen.learns_from_whole_regions,
        quiet=quiet,
        draw=draw,
        negatives=negatives,
    )
    if synthetic is not None and negatives.found is not None:
        count = len(wanted.side.names())
        found = joined(
            found, synthetic, count, negatives.found, backbone, run, read, store, quiet=quiet
        )
    fitted, log = watched(
        lambda how: fit(found.images, how),
        folder,
        views_of(source, backbone, run, read, store),
        quiet=quiet,
    )
    if not workers().is_main:
        return None
    for text in [] if fitted.learned is None else fitted.learned.about.get("notes", []):
        warn(text, quiet=quiet)
    return fitted, log, found.unreadable
