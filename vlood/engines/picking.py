"""Try the methods that fit a user's data, within a time, on images encoded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.detectors import fit_all
from vlood.engines.few_shot import fit_from_images
from vlood.engines.mining import Encoder
from vlood.engines.negatives import NegativesChoice
from vlood.engines.picking_sets import Clock, Pool
from vlood.engines.scoring import needs_local
from vlood.engines.text_side import TextSide
from vlood.errors import VloodError
from vlood.evaluation.choosing import LEFT_OUT, NOTHING, OOD_SETS, Question, Trial, folds_of
from vlood.methods import registry
from vlood.training.labelled import LabelledFeatures

if TYPE_CHECKING:
    from vlood.engines.fitted import Fitted
    from vlood.methods.contract import Method

LEAST_A_CLASS = 2
_SCORED_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Tried:
    """A method that was tried.

    Attributes:
        trial: what it is chosen by.
        accuracy: share of held-out ID images given their own class, or None without labels.
        fit_seconds: of fitting it once.
        score_seconds: of scoring one image that is encoded.
        fits: how often it was fitted.
        label: held-out ID images' classes by it, int64.
    """

    trial: Trial
    accuracy: float | None
    fit_seconds: float
    score_seconds: float
    fits: int
    label: NDArray[np.int64]


@dataclass(frozen=True)
class Tries:
    """What came of trying.

    Attributes:
        kind: what methods were measured on (`choosing.KINDS`).
        tried: by method.
        skipped: reasons by method, those that failed among them.
    """

    kind: str
    tried: Mapping[str, Tried]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class Bench:
    """What methods are fitted and measured with.

    Attributes:
        side: the classes.
        fit: ID images to learn from; perhaps none.
        held: ID images to measure on.
        others: OOD sets by name; none: classes are left out instead.
        encoder: the model, or None where all is arrays.
        negatives: what the user said of negatives.
        seed: of everything random.
    """

    side: TextSide
    fit: Pool
    held: Pool
    others: Mapping[str, Pool]
    encoder: Encoder | None
    negatives: NegativesChoice
    seed: int = 0

    @property
    def kind(self) -> str:
        """Return what can be measured with it."""
        if self.others:
            return OOD_SETS
        counts = class_counts(self.held.labels, len(self.side.names()))
        if len(counts) >= 3 and counts.min() >= 2:
            return LEFT_OUT
        return NOTHING


def class_counts(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return how many images each of K classes has, int64 [K]."""
    return np.bincount(labels[labels >= 0], minlength=classes).astype(np.int64)


def level_of(method: Method) -> int:
    """Return how much a method asks for, as `choosing.Trial.level` has it."""
    needs = method.record.needs
    if "text-tower" in needs:
        return 3
    if method.learns:
        return 2
    return 1 if "negatives" in needs else 0


def unfit(method: Method, bench: Bench) -> str | None:
    """Say in a clause why a method cannot be tried on what is there, or None where it can."""
    record, names = method.record, bench.side.names()
    if record.stream:
        return f"an image's score depends on other images ({record.stream}); try it with vlood eval"
    if "local" in record.needs or "view-regions" in record.needs:
        return "looks at regions of images, which are not kept; try it with vlood eval"
    if method.data == "captioned-images":
        return "learns from captions"
    if record.trains and not method.learns:
        return "is trained elsewhere and imported"
    if "text-tower" in record.needs and (bench.encoder is None or bench.side.classes is None):
        return "trains prompts, for which embeddings have no model"
    if "noise" in record.needs and bench.encoder is None:
        return "shows the model pictures of noise, and embeddings have no model"
    if "negatives" in record.needs and bench.encoder is None and not bench.negatives.named:
        return "needs negatives: give --negatives"
    if method.learns:
        counts = class_counts(bench.fit.labels, len(names))
        if not counts.sum():
            return "learns from labelled images, and none of the ID images has a class's label"
        if counts.min() < LEAST_A_CLASS:
            few = names[int(counts.argmin())]
            return (
                f"learns from images: {few} has {int(counts.min())} to learn from, and "
                f"{LEAST_A_CLASS} are the least"
            )
    return None


def try_all(
    methods: Sequence[str],
    bench: Bench,
    clock: Clock,
    *,
    settings: Mapping[str, str] | None = None,
    told: Callable[[str], None] = lambda name: None,
) -> Tries:
    """Fit and measure methods, the least demanding first, while there is time.

    A method that has begun is finished. One that fails is left out with its reason, and the others
    go on.

    With OOD sets, each is fitted once, on ``fit``, and scores ``held`` and the sets. Without, the
    classes are split into up to five groups and each group is left out once: fitted without its
    names and images, a method has to tell the held-out images of the classes that stay from all
    images of those that left. That is near-OOD detection of the user's own kind, and says nothing
    of things that are like none of the classes. Negatives stay those of all classes, so that a
    left-out class is never a negative of itself: a disadvantage for methods that have some.

    Args:
        methods: names.
        bench: what to fit and measure with.
        clock: the time there is.
        settings: of methods, as typed.
        told: told of each method before it is tried.
    """
    chosen = sorted(map(registry.get, methods), key=level_of)
    skipped: dict[str, str] = {}
    tried: dict[str, Tried] = {}
    fitter = _Fitter(bench, settings or {})
    for method in chosen:
        reason = unfit(method, bench)
        if reason is None and clock.left() <= 0:
            reason = f"the budget of {clock.budget:g} s was spent before its turn"
        if reason is None:
            told(method.name)
            reason = fitter.too_long(method, clock.left())
        if reason is None:
            try:
                tried[method.name] = fitter.tried(method)
            except VloodError as error:
                reason = f"failed: {error}"
            except Exception as error:  # a method may fail in any way; the others go on
                reason = f"failed: {type(error).__name__}: {error}"
        if reason is not None:
            skipped[method.name] = reason
    return Tries(bench.kind, tried, skipped)


class _Fitter:
    """Fits methods and measures them."""

    def __init__(self, bench: Bench, settings: Mapping[str, str]) -> None:
        self.bench = bench
        self.settings = settings
        self.folds = folds_of(len(bench.side.names()), bench.seed)
        self._negatives: NegativesChoice | None = None

    def too_long(self, method: Method, left: float) -> str | None:
        """Measure a method that trains prompts, and say where it would take too long."""
        if level_of(method) < 3:
            return None
        from vlood.engines.tuning import TuningRun
        from vlood.training.costs import CostProbe

        probe = CostProbe()
        try:
            self._fit(method, self.bench.side, self.bench.fit, TuningRun(probe=probe))
        except Exception:  # what is wrong with it, trying it will say
            return None
        if probe.cost is None:
            return None
        fits = 1 + (len(self.folds) if self.bench.kind == LEFT_OUT else 0)
        seconds = fits * probe.cost.steps * probe.cost.step_seconds
        if seconds <= left:
            return None
        return f"training would take about {seconds:.0f} s, and {left:.0f} s of the budget are left"

    def tried(self, method: Method) -> Tried:
        """Fit a method and measure it."""
        bench = self.bench
        begun = time.perf_counter()
        fitted = self._fit(method, bench.side, bench.fit)
        fit_seconds = time.perf_counter() - begun
        if needs_local([fitted.detector]):
            raise VloodError(f"{method.name}: with these settings it looks at regions of images")
        begun = time.perf_counter()
        known, label = _scores(fitted, bench.held)
        score_seconds = (time.perf_counter() - begun) / max(1, len(bench.held))
        if len(known) > 1 and np.ptp(known) == 0:
            raise VloodError("it gives every image the same score")
        questions: list[Question] = []
        if bench.kind == OOD_SETS:
            questions = [(known, _scores(fitted, one)[0]) for one in bench.others.values()]
        elif bench.kind == LEFT_OUT:
            questions = [self._left_out(method, fold) for fold in self.folds]
        true = bench.held.labels
        named = true >= 0
        size = sum(np.asarray(one).nbytes for one in fitted.detector.tensors.values())
        return Tried(
            Trial(method.name, level_of(method), size, tuple(questions)),
            float((label[named] == true[named]).mean()) if named.any() else None,
            fit_seconds,
            score_seconds,
            1 + (len(self.folds) if bench.kind == LEFT_OUT else 0),
            label,
        )

    def _left_out(self, method: Method, fold: NDArray[np.int64]) -> Question:
        """Fit without some classes, and score those that stay and those that left."""
        bench = self.bench
        names = bench.side.names()
        stay = np.setdiff1d(np.arange(len(names)), fold)
        number = np.full(len(names) + 1, -1, np.int64)  # the last one is for labels of -1
        number[stay] = np.arange(len(stay))

        def kept(pool: Pool) -> Pool:
            chosen = pool.rows(np.flatnonzero(np.isin(pool.labels, stay)))
            return replace(chosen, labels=number[chosen.labels])

        classes = bench.side.classes
        assert classes is not None
        side = replace(bench.side, classes=tuple(classes[row] for row in stay.tolist()))
        fitted = self._fit(method, side, kept(bench.fit))
        left = [
            pool.rows(np.flatnonzero(np.isin(pool.labels, fold)))
            for pool in (bench.fit, bench.held)
        ]
        others = [_scores(fitted, pool)[0] for pool in left if len(pool)]
        return _scores(fitted, kept(bench.held))[0], np.concatenate(others)

    def _fit(
        self, method: Method, side: TextSide, images: Pool, run: object | None = None
    ) -> Fitted:
        bench = self.bench
        # A value without a method's name before it is for those that have such a setting.
        settings = {
            key: value
            for key, value in self.settings.items()
            if key.startswith(f"{method.name}.") or key in method.setting_names()
        }
        negatives = bench.negatives
        if "negatives" in method.record.needs:
            negatives = self._found_negatives()
        if not method.learns:
            return fit_all(
                [method.name], side, negatives, bench.encoder, settings, announce=_unsaid
            )[0]
        return fit_from_images(
            method.name,
            side,
            LabelledFeatures(images.features, images.labels, images.ids),
            seed=bench.seed,
            settings=settings,
            encoder=bench.encoder,
            negatives=negatives,
            announce=_unsaid,
            run=run,  # type: ignore[arg-type]
        )

    def _found_negatives(self) -> NegativesChoice:
        """Return the negatives of all classes, found once."""
        if self._negatives is None:
            bench = self.bench
            found = fit_all(
                ["neglabel"], bench.side, bench.negatives, bench.encoder, {}, announce=_unsaid
            )[0]
            self._negatives = replace(bench.negatives, found=found.negatives)
        return self._negatives


def _unsaid(text: str) -> None:
    """Say nothing: a method is tried several times, and would say it each time."""


def _scores(fitted: Fitted, pool: Pool) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    scores, labels = [], []
    for rows in _pieces(len(pool)):
        found = registry.score(fitted.detector, ImageFeatures(pool.features[rows]))
        scores.append(found.score)
        labels.append(found.label)
    score = np.concatenate(scores)
    if not np.isfinite(score).all():
        raise VloodError("its scores are not finite")
    return score, np.concatenate(labels)


def _pieces(count: int) -> Iterator[slice]:
    for start in range(0, max(1, count), _SCORED_ROWS):
        yield slice(start, start + _SCORED_ROWS)
