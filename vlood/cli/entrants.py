"""The detectors of an evaluation: saved ones, zero-shot ones, and fits by shots and seeds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from vlood.cli.class_options import ClassOptions, fitted_of
from vlood.cli.model_options import ModelOptions, ReadOptions
from vlood.cli.sources import Source, check_width, embedding_width, scored
from vlood.cli.talk import progress, warn
from vlood.cli.training_inputs import training_set_of, views_of
from vlood.detector.saved import check_backbone
from vlood.engines.classifiers import classifier_digest
from vlood.engines.detectors import settings_by_method, training_negatives
from vlood.engines.evaluating.calibrating import calibratable, calibrated
from vlood.engines.evaluating.run import Entrant, entrant_of
from vlood.engines.few_shot import fit_from_images
from vlood.engines.mining import Encoder
from vlood.engines.scoring import is_stream
from vlood.engines.training_checks import check_model, check_settings
from vlood.engines.tuning import TuningRun
from vlood.errors import UsageError
from vlood.methods import registry
from vlood.prompts.name_shift import without_names
from vlood.training.few_shot import check_shots

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.saved import SavedDetector
    from vlood.engines.fitted import Fitted
    from vlood.engines.negatives import NegativesChoice
    from vlood.engines.scoring import ScoredBatch
    from vlood.features.cache import FeatureCache
    from vlood.training.labelled import LabelledFeatures


@dataclass(frozen=True)
class Fits:
    """How methods that learn, or follow a stream, are repeated.

    Attributes:
        train: labelled images to learn from, or None.
        shots: images a class, each a fit of its own; none: all images.
        seeds: each a fit, and a stream's order, of its own; none: the command's seed alone.
        label_noise: shares of the training labels that are made wrong, each a fit of its own.
        name_shift: shares of the classes whose prompt names are replaced by numbers, each a fit of
            its own for methods that read names.
    """

    train: Source | None = None
    shots: Sequence[int] = ()
    seeds: Sequence[int] = ()
    label_noise: Sequence[float] = ()
    name_shift: Sequence[float] = ()


@dataclass(frozen=True)
class Tools:
    """The model and what goes with it."""

    backbone: Backbone | None
    model: ModelOptions
    read: ReadOptions
    cache: FeatureCache | None
    quiet: bool


def numbers_of(text: str | None, option: str, *, least: int) -> list[int]:
    """Read a comma list of whole numbers, each once.

    Raises:
        UsageError: another form, or a number below the least.
    """
    if text is None:
        return []
    numbers = []
    for part in text.split(","):
        try:
            number = int(part)
        except ValueError:
            number = least - 1
        if number < least:
            raise UsageError(
                f"{option} {text}: expected whole numbers from {least} on with commas between, "
                f"such as {option} {least},{least + 1}"
            )
        numbers.append(number)
    return list(dict.fromkeys(numbers))


def shares_of(text: str | None, option: str) -> list[float]:
    """Read a comma list of shares, each once.

    Raises:
        UsageError: another form, or a number out of [0, 1].
    """
    shares: list[float] = []
    for part in [] if text is None else text.split(","):
        try:
            share = float(part)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise UsageError(
                f"{option} {text}: expected shares from 0 to 1 with commas between, such as "
                f"{option} 0,0.2,0.4"
            )
        shares.append(share)
    return list(dict.fromkeys(shares))


def saved_entrants(
    held: Sequence[SavedDetector], folders: Sequence[Path], backbone: Backbone | None
) -> list[Entrant]:
    """Return saved detectors with the thresholds they would be used with.

    Raises:
        UsageError: one was made for another model.
    """
    found = []
    for saved, folder in zip(held, folders, strict=True):
        if backbone is not None:
            check_backbone(saved, backbone.identity(), f"--detector {folder}")
        given: dict[str, object] = {}
        if saved.threshold is not None:
            given = {"threshold": saved.threshold, "threshold_note": "set by hand"}
        elif saved.calibration is not None:
            calibration = saved.calibration
            given = {
                "threshold": calibration.threshold,
                "per_class": calibration.per_class,
                "threshold_note": f"set to keep {calibration.target_tpr:.0%} of the "
                f"{calibration.n:,} images it was calibrated on",
            }
        if is_stream(saved.detector):
            given = {}
        name, beside = folder.resolve().name, classifier_digest(saved.detector, backbone)
        found.append(entrant_of(saved.detector, name, beside=beside, **given))
    return found


def fitted_entrants(wanted: ClassOptions, fits: Fits, seed: int, tools: Tools) -> list[Entrant]:
    """Fit the methods named, once for every share of names that are taken away.

    Raises:
        UsageError: a method does not exist or needs what is not there, or there are no class names
            to take away.
    """
    if not fits.name_shift:
        return _fitted(wanted, fits, seed, tools)
    classes = wanted.side.classes
    if classes is None or wanted.side.class_embeddings:
        raise UsageError("--name-shift: needs class names, and these classes are embeddings")
    # Methods that read no names say the same whatever the names are.
    reading = [name for name in wanted.methods if not registry.get(name).record.names_only]
    if not reading:
        raise UsageError(
            f"--name-shift: {', '.join(wanted.methods)} read no class names; add one that does, "
            "such as mcm"
        )
    found = []
    for number, share in enumerate(fits.name_shift):
        shifted = replace(wanted.side, classes=without_names(classes, share, seed=seed))
        methods = wanted.methods if number == 0 else reading
        some = _fitted(replace(wanted, side=shifted, methods=methods), fits, seed, tools)
        for one in some:
            if one.contestant.method in reading:
                one = _called(one, f", {100 * share:g} % of names gone" if share else "")
            found.append(one)
    return found


def _called(one: Entrant, what: str) -> Entrant:
    """Add to what results call an entrant."""
    before = one.contestant
    after = replace(before, name=before.name + what, shown=before.shown + what)
    return replace(one, contestant=after)


def _fitted(wanted: ClassOptions, fits: Fits, seed: int, tools: Tools) -> list[Entrant]:
    """Fit the methods named, those that learn once for every number of shots and every seed."""
    encoder = None if tools.backbone is None else Encoder(tools.backbone, tools.cache)
    values = settings_by_method([registry.get(name) for name in wanted.methods], wanted.settings)
    plain = [name for name in wanted.methods if not registry.get(name).learns]
    for name in wanted.methods:
        if name not in plain:
            check_settings(name, wanted.side, _own_settings([name], values))
            if tools.backbone is not None:
                check_model(name, tools.backbone)
    fitted: dict[str, Fitted] = {}
    if plain:
        own = _own_settings(plain, values)
        made = fitted_of(replace(wanted, methods=plain, settings=own), encoder, quiet=tools.quiet)
        fitted = dict(zip(plain, made, strict=True))
    learning = [name for name in wanted.methods if name not in fitted]
    learned = {}
    if learning:
        own = _own_settings(learning, values)
        learned = _learned(learning, replace(wanted, settings=own), fits, seed, encoder, tools)
    found: list[Entrant] = []
    for name in wanted.methods:
        if name in learned:
            found += learned[name]
            continue
        detector = fitted[name].detector
        seeds = fits.seeds if is_stream(detector) else ()
        found += [entrant_of(detector, f"{name} seed {one}", shown=name, seed=one) for one in seeds]
        if not seeds:
            found.append(entrant_of(detector, name))
    return found


def _own_settings(names: Sequence[str], values: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the settings of some methods, each by ``method.name``: the others have no part."""
    return {f"{name}.{key}": text for name in names for key, text in values[name].items()}


def _learned(
    names: Sequence[str],
    wanted: ClassOptions,
    fits: Fits,
    seed: int,
    encoder: Encoder | None,
    tools: Tools,
) -> dict[str, list[Entrant]]:
    assert fits.train is not None
    train = fits.train
    changing = next((name for name in names if "pixels" in registry.get(name).record.needs), None)
    if changing is not None:
        raise UsageError(
            f"--method {changing}: tunes the model itself, and the others see the images as it was "
            f"before; run `vlood tune {changing} --train IN... -o DIR`, then use --detector DIR"
        )
    told: set[str] = set()

    def announce(text: str) -> None:
        # Every fit of a learning curve would say it again.
        if text not in told:
            told.add(text)
            warn(text, quiet=tools.quiet)

    def images_of(names: Sequence[str], negatives: NegativesChoice | None) -> LabelledFeatures:
        # Embeddings of regions are not kept: they are made only for those who look at them.
        local = any(registry.get(name).learns_from_whole_regions for name in names)
        return training_set_of(
            train,
            wanted,
            tools.backbone,
            tools.model,
            tools.read,
            tools.cache,
            local=local,
            quiet=tools.quiet,
            negatives=negatives,
        ).images

    negatives = {
        name: training_negatives(name, wanted.side, wanted.negatives, encoder, announce=announce)
        for name in names
    }
    # Most methods learn from images of the classes alone, and share them.
    taking = [name for name in names if registry.get(name).record.negative_images]
    sharing = [name for name in names if name not in taking]
    shared = images_of(sharing, None) if sharing else None
    by_name = settings_by_method([registry.get(name) for name in names], wanted.settings)
    views = views_of(fits.train, tools.backbone, tools.model, tools.read, tools.cache)
    seeds = list(fits.seeds) or [seed]
    shots: list[int | None] = [*fits.shots] or [None]
    found: dict[str, list[Entrant]] = {name: [] for name in names}
    noises = list(fits.label_noise) or [0.0]
    total = len(names) * len(noises) * len(seeds) * len(shots)
    with progress("fitting", total, quiet=tools.quiet) as bar:
        for name in names:
            images = images_of([name], negatives[name]) if name in taking else shared
            assert images is not None
            for noise, count, one in product(noises, shots, seeds):
                fit = fit_from_images(
                    name,
                    wanted.side,
                    images,
                    shots=count,
                    seed=one,
                    settings=_own_settings([name], {name: by_name[name]}),
                    encoder=encoder,
                    negatives=negatives[name],
                    announce=announce,
                    run=TuningRun(views=views),
                    label_noise=noise,
                )
                shown = name
                if noise:
                    shown += f" {100 * noise:g} % label noise"
                called = shown if count is None else f"{shown} {count}-shot"
                called += f" seed {one}" if len(seeds) > 1 else ""
                beside = classifier_digest(fit.detector, tools.backbone)
                entrant = entrant_of(
                    fit.detector, called, beside=beside, shown=shown, shots=count, seed=one
                )
                found[name].append(entrant)
                bar.advance(1)
    return found


def with_thresholds(
    entrants: Sequence[Entrant], source: Source, tpr: float, tools: Tools
) -> list[Entrant]:
    """Set the thresholds of the detectors that score each image by itself.

    Raises:
        UsageError: the images are wrong, or none could be read.
    """
    source.check(tools.read)
    detectors = [one.detector for one in calibratable(entrants)]
    if source.embeddings is not None:
        check_width(source.embeddings, source.inputs, embedding_width(entrants[0].detector))
    total = source.count(tools.read) if sys.stderr.isatty() and not tools.quiet else None
    with progress("calibrating", total, quiet=tools.quiet) as bar:

        def told() -> Iterator[ScoredBatch]:
            batches = scored(
                source, detectors, tools.backbone, tools.model, tools.read, tools.cache
            )
            for batch in batches:
                bar.advance(len(batch.ids))
                yield batch

        return calibrated(entrants, told(), tpr)


def shots_of(text: str | None) -> list[int]:
    """Read --shots.

    Raises:
        UsageError: it is no comma list of whole numbers above 0.
    """
    shots = numbers_of(text, "--shots", least=1)
    for count in shots:
        check_shots(count)
    return shots
