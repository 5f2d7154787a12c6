"""Run an evaluation: every image of every set encoded once for all detectors, resumably."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.evaluating.collecting import Collected, Judged, PartialScores, collect
from vlood.engines.evaluating.comparing import Contestant, Evaluation
from vlood.engines.evaluating.score_files import (
    column_names,
    partial_file,
    read_set,
    set_file,
    write_set,
)
from vlood.engines.evaluating.sets import EvalSet, SetImages
from vlood.engines.evaluating.shared_images import Overlaps, take_out_overlaps
from vlood.engines.evaluating.state import Fingerprint, ReportState, open_state
from vlood.engines.explaining import NearestNegatives
from vlood.engines.scoring import ScoredBatch, is_stream, score_embeddings, score_images
from vlood.engines.streaming import arrays_digest, mixed_stream
from vlood.errors import UsageError, VloodError
from vlood.features.cache import FeatureCache
from vlood.features.stream import StreamSettings
from vlood.images.item import ImageItem
from vlood.methods import registry
from vlood.methods.contract import Detector

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

Watch = Callable[[EvalSet], AbstractContextManager[Callable[[int], None]]]
"""Shows how far a set is."""


@dataclass(frozen=True, eq=False)
class Entrant:
    """A detector that takes part, and what results call it."""

    contestant: Contestant
    detector: Detector


@dataclass(frozen=True, eq=False)
class Request:
    """What to evaluate, and how.

    Attributes:
        sets: the ID set first.
        entrants: the detectors.
        class_index: class numbers by label.
        settings: how images are read.
        backbone: the model, or None where all sets are embeddings.
        cache: where embeddings are remembered, or None.
        folder: of the report, which also makes the run resumable; or None.
        mode: what becomes of a report that is there (`state.MODES`).
        overlap: what becomes of OOD images that are ID images too (`shared_images.POLICIES`).
        seed: of the order of streams.
        calibration: what set the thresholds, JSON-able; None where nothing was set for this run.
    """

    sets: Sequence[EvalSet]
    entrants: Sequence[Entrant]
    class_index: Mapping[str, int]
    settings: StreamSettings
    backbone: Backbone | None = None
    cache: FeatureCache | None = None
    folder: Path | None = None
    mode: str = "new"
    overlap: str = "refuse"
    seed: int = 0
    calibration: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run has found.

    Attributes:
        evaluation: the scores of all detectors, those of earlier runs of the report included.
        state: of the report.
        encoded: images the model ran on.
        notes: what a reader of the results must know.
    """

    evaluation: Evaluation
    state: ReportState
    encoded: int
    notes: list[str] = field(default_factory=list)


def entrant_of(detector: Detector, name: str, *, beside: str = "", **given: object) -> Entrant:
    """Return a detector as results know it; what else is given goes to `Contestant`.

    ``beside`` identifies what scores beside the model and is no part of the detector's arrays.
    """
    settings = json.dumps(dataclasses.asdict(detector.settings), sort_keys=True)
    arrays = {**registry.identity_arrays(detector), "logit_scale": np.array(detector.logit_scale)}
    text = f"{detector.method} {settings} {arrays_digest(arrays)}{beside}"
    digest = blake2b(text.encode(), digest_size=16).hexdigest()
    fields = {"shown": name, **given}
    return Entrant(Contestant(name=name, method=detector.method, digest=digest, **fields), detector)  # type: ignore[arg-type]


def run(request: Request, *, watch: Watch = lambda one: nullcontext(lambda count: None)) -> Outcome:
    """Score every set and return what was found.

    With a folder, finished batches and sets are kept in it, and `mode` resume encodes nothing that
    was finished. Test-time detectors see every OOD set mixed with the ID set as one shuffled
    stream, starting afresh each time; a set they have not finished is read again from the cache.

    Raises:
        UsageError: sets or detectors that cannot be compared, or a folder that is not as the mode
            needs it.
        VloodError: the folder cannot be written.
    """
    known, others = request.sets[0], request.sets[1:]
    contestants = [one.contestant for one in request.entrants]
    state = ReportState(_fingerprint(request), contestants, complete=False)
    if request.folder is not None:
        state = open_state(request.folder, state.fingerprint, contestants, request.mode)
        state.save(request.folder)
    work = _Work(request, state.contestants, watch)
    overlaps = Overlaps(known, others, request.overlap)
    work.set_of(known, others)
    for one in others:
        work.set_of(one, [one])
        work.streams(one.name)
        overlaps.add(work.images[known.name], work.images[one.name])
    overlaps.decide()
    images, judged, notes = take_out_overlaps(overlaps, work.images, work.judged, known.name)
    notes += _left_out(images.values())
    evaluation = Evaluation(
        images[known.name],
        {one.name: images[one.name] for one in others},
        state.contestants,
        judged,
        request.class_index,
        request.entrants[0].detector.class_names,
    )
    return Outcome(evaluation, state, work.encoded, notes)


class _Work:
    """The sets so far: read from the report where they are finished, else scored."""

    def __init__(self, request: Request, contestants: Sequence[Contestant], watch: Watch) -> None:
        self.request = request
        self.contestants = contestants
        self.watch = watch
        self.known = request.sets[0].name
        self.images: dict[str, SetImages] = {}
        self.judged: dict[tuple[str, str], Judged] = {}
        self.features: dict[str, NDArray[np.float32]] = {}
        self.encoded = 0
        self._columns: dict[str, dict[str, Judged]] = {}
        self._own = [one for one in request.entrants if not is_stream(one.detector)]
        self._streams = [one for one in request.entrants if is_stream(one.detector)]
        self._nearest = _nearest_of(request.entrants)

    def set_of(self, one: EvalSet, mixed: Sequence[EvalSet]) -> None:
        """Finish a set: all that detectors say that score each image by itself.

        ``mixed`` are the OOD sets whose streams need the embeddings of this one.
        """
        images, columns = self._finished(one)
        own = [each.contestant.name for each in self._own]
        streaming = any(self._streams_left(other.name) for other in mixed)
        if images is None or streaming or not set(own) <= set(columns):
            found = self._collected(one, keep_features=streaming)
            if images is not None:
                _check_same(images, found.images)
            if images is None or found.images.nearest is not None:
                images = found.images
            columns |= dict(zip(own, found.judged, strict=True))
            self.encoded += found.encoded
            if found.features is not None:
                self.features[one.name] = found.features
        if not len(images):
            raise UsageError(
                f"none of the {len(images.unreadable):,} images of {one.name} could be read; "
                "check them, or leave the set out"
            )
        self._keep(images, columns)

    def streams(self, other: str) -> None:
        """Let each test-time detector go through the ID set and one OOD set as one stream."""
        known = self.known
        left = self._streams_left(other)
        for one in left:
            name, beside = one.contestant.name, f"{one.contestant.name}@{other}"
            seed = one.contestant.seed
            first, second = mixed_stream(
                one.detector,
                ImageFeatures(self.features[known]),
                ImageFeatures(self.features[other]),
                batch_size=self.request.settings.batch_size,
                seed=self.request.seed if seed is None else seed,
            )
            self._columns[known][beside] = Judged(first.score, first.label)
            self._columns[other][name] = Judged(second.score, second.label)
        if left:
            self._keep(self.images[other], self._columns[other])
            self._keep(self.images[known], self._columns[known])
        self.features.pop(other, None)

    def _streams_left(self, other: str) -> list[Entrant]:
        """Return the test-time detectors that have not been through an OOD set yet."""
        return [
            one
            for one in self._streams
            if one.contestant.name not in self._names(other)
            or f"{one.contestant.name}@{other}" not in self._names(self.known)
        ]

    def _names(self, name: str) -> set[str]:
        """Return the columns of a set, held or on disk."""
        folder = self.request.folder
        if name in self._columns:
            return set(self._columns[name])
        return set() if folder is None else column_names(set_file(folder, name))

    def _finished(self, one: EvalSet) -> tuple[SetImages | None, dict[str, Judged]]:
        folder = self.request.folder
        if folder is None or not set_file(folder, one.name).exists():
            return None, {}
        images, columns = read_set(set_file(folder, one.name))
        return dataclasses.replace(images, name=one.name, group=one.group), columns

    def _collected(self, one: EvalSet, *, keep_features: bool) -> Collected:
        folder = self.request.folder
        partial = None if folder is None else PartialScores(partial_file(folder, one.name))
        if partial is not None:
            partial.path.parent.mkdir(parents=True, exist_ok=True)
        detectors = [each.detector for each in self._own]
        with self.watch(one) as advance, _explained(folder):
            return collect(
                one,
                lambda items: _scored(one, items, detectors, self.request),
                len(detectors),
                partial=partial,
                nearest=self._nearest,
                keep_features=keep_features,
                advance=advance,
            )

    def _keep(self, images: SetImages, columns: dict[str, Judged]) -> None:
        self.images[images.name] = images
        self._columns[images.name] = columns
        # Both names may hold an @ themselves, so the pairs that can be are spelt out.
        beside = {
            f"{one.name}@{other.name}": (one.name, f"{images.name}@{other.name}")
            for one in self.contestants
            for other in self.request.sets[1:]
        }
        for name, judged in columns.items():
            self.judged[beside.get(name, (name, images.name))] = judged
        folder = self.request.folder
        if folder is None:
            return
        with _explained(folder):
            path = set_file(folder, images.name)
            if not path.exists() or column_names(path) != set(columns):
                write_set(path, images, columns)
            PartialScores(partial_file(folder, images.name)).remove()


def _scored(
    one: EvalSet,
    items: Iterator[ImageItem] | None,
    detectors: Sequence[Detector],
    request: Request,
) -> Iterable[ScoredBatch]:
    if items is None:
        for embeddings in one.embeddings or ():
            yield from score_embeddings(embeddings, detectors)
        return
    assert request.backbone is not None
    settings = request.settings
    if one.shift is not None:
        decode = dataclasses.replace(settings.decode, shift=one.shift)
        settings = dataclasses.replace(settings, decode=decode)
    yield from score_images(items, request.backbone, detectors, settings, cache=request.cache)


def _fingerprint(request: Request) -> Fingerprint:
    identity = None if request.backbone is None else request.backbone.identity()
    reading = {
        "decoding": request.settings.decode.describe(),
        "batch_size": request.settings.batch_size,
        "seed": request.seed,
        "calibration": request.calibration,
    }
    contestants = [one.contestant for one in request.entrants]
    return Fingerprint.of(request.sets, contestants, identity, reading)


def _nearest_of(entrants: Sequence[Entrant]) -> NearestNegatives | None:
    """Return the negatives of the first detector that has some."""
    found = (NearestNegatives.of_detector(one.detector) for one in entrants)
    return next((one for one in found if one is not None), None)


def _check_same(before: SetImages, now: SetImages) -> None:
    if list(before.digests) != list(now.digests):
        raise UsageError(
            f"the images of {now.name} are not those the report was made with; name another "
            "folder to evaluate them anew"
        )


def _left_out(sets: Iterable[SetImages]) -> list[str]:
    counts = {one.name: len(one.unreadable) for one in sets if one.unreadable}
    return [
        f"{count:,} {'image' if count == 1 else 'images'} of {name} could not be read and "
        f"{'was' if count == 1 else 'were'} left out."
        for name, count in counts.items()
    ]


class _explained:  # noqa: N801  reads as a block's heading
    """Turn a failing write into one sentence."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and self.folder is not None:
            reason = error.strerror or str(error)
            raise VloodError(
                f"-o {self.folder}: cannot be written ({reason}); what is finished is kept, and "
                "--resume goes on from it"
            ) from error
