"""A saved detector in Python: load, score, read the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.detector.folder import load_detector
from vlood.detector.saved import SavedDetector, check_backbone
from vlood.engines.classifiers import add_classifier
from vlood.engines.explaining import NearestNegatives
from vlood.engines.records import Record
from vlood.engines.scoring import (
    Decision,
    ScoredBatch,
    Scorer,
    needs_local,
    records_of,
    score_embeddings,
    score_images,
)
from vlood.engines.stepping import with_steps
from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.embeddings import Embeddings, check_features
from vlood.features.stream import StreamSettings, encode_pictures
from vlood.images.modes import to_rgb
from vlood.images.sources import find_images

if TYPE_CHECKING:
    from PIL import Image

    from vlood.backbone.backbone import Backbone


@dataclass(frozen=True)
class ScoredImages:
    """What a detector says of N images that could be read.

    Attributes:
        ids: their paths, or row numbers.
        score: float64 [N], higher = more in-distribution.
        ood: bool [N], or None where the detector has no threshold.
        label: the nearest class of each.
        confidence: float64 [N], the probability of that class among the detector's.
        p_value: float64 [N], or None where the detector is not calibrated.
        errors: why others could not be read, by path.
        records: the same as the command line writes them, errors included, in input order.
    """

    ids: list[str]
    score: NDArray[np.float64]
    ood: NDArray[np.bool_] | None
    label: list[str]
    confidence: NDArray[np.float64]
    p_value: NDArray[np.float64] | None
    errors: dict[str, str]
    records: list[Record] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)


class LoadedDetector:
    """A saved detector that is ready to score; its model is loaded when images first come.

    Attributes:
        saved: everything its folder holds.
        cache: where embeddings of images are remembered, or None.
    """

    def __init__(
        self,
        saved: SavedDetector,
        *,
        model: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        cache: FeatureCache | None = None,
    ) -> None:
        self.saved = saved
        self._model = model
        self._device = device
        self._precision = precision
        self.cache = cache

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes it knows."""
        return self.saved.detector.class_names

    @property
    def threshold(self) -> float | None:
        """Return the score below which an image is OOD, or None where it is not calibrated."""
        if self.saved.threshold is not None or self.saved.calibration is None:
            return self.saved.threshold
        return self.saved.calibration.threshold

    @cached_property
    def backbone(self) -> Backbone:
        """Load the model.

        Raises:
            UsageError: the detector was made without one, or for another.
        """
        from vlood.backbone.load import load_backbone

        name = self._model or self.saved.model_name
        if name is None:
            raise UsageError(
                "this detector was made from embeddings alone: score embeddings, or name the model "
                'they are from, as in vlood.load(folder, model="...")'
            )
        backbone = load_backbone(name, device=self._device, precision=self._precision)
        check_backbone(self.saved, backbone.identity(), "the detector")
        add_classifier(backbone, self.saved, "the detector")
        return backbone

    def score(
        self,
        inputs: Any,
        *,
        threshold: float | None = None,
        alpha: float | None = None,
        explain: bool = False,
        batch_size: int = 32,
        workers: int = 2,
    ) -> ScoredImages:
        """Score images or embeddings.

        Args:
            inputs: paths, folders, globs or lists as on the command line; PIL images; or embeddings
                [N, D] of the detector's model.
            threshold: decide by this instead of the detector's own.
            alpha: decide by p-value: OOD is at most this.
            explain: add the likeliest classes, the nearest negatives and a sentence to the records.
            batch_size: images a batch.
            workers: decoding threads.

        Raises:
            UsageError: inputs of another kind or width, or ``alpha`` without calibration.
        """
        if alpha is not None and self.saved.calibration is None:
            raise UsageError("alpha: the detector is not calibrated; use `vlood calibrate` first")
        detector = self.saved.detector
        nearest = NearestNegatives.of_detector(detector) if explain else None
        if threshold is None:
            threshold = self.saved.threshold
        decision = Decision(threshold, explain, nearest, self.saved.calibration, alpha)
        settings = StreamSettings(batch_size, workers)
        records = [
            record
            for batch in _batches(self, inputs, settings)
            for record in records_of(batch, detector, decision)
        ]
        return _gathered(records)


def load(
    folder: str | Path,
    *,
    model: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    cache: FeatureCache | None = None,
) -> LoadedDetector:
    """Load a saved detector; its model is loaded when images first come.

    Args:
        folder: made by ``vlood tune``, ``import`` or ``apply``.
        model: what ``--model`` takes, where the detector's own name for it does not work here.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        cache: where embeddings of images are remembered, or None.

    Raises:
        UsageError: it is no detector, is damaged, or needs a newer vlood.
    """
    saved = load_detector(Path(folder))
    return LoadedDetector(saved, model=model, device=device, precision=precision, cache=cache)


def _batches(
    loaded: LoadedDetector, inputs: Any, settings: StreamSettings
) -> Iterator[ScoredBatch]:
    """Score inputs of any kind, in batches."""
    from PIL import Image

    scorer = Scorer([loaded.saved.detector])
    if isinstance(inputs, np.ndarray):
        features = check_features(Path("the embeddings"), inputs)
        _check_width(features, loaded.saved.width)
        rows = Embeddings(features, [str(row) for row in range(len(features))])
        yield from score_embeddings(rows, scorer)
        return
    if isinstance(inputs, str | Path | Image.Image):
        inputs = [inputs]
    given = list(inputs)
    if given and all(isinstance(one, Image.Image) for one in given):
        yield from _of_pictures(loaded, given, scorer, settings)
        return
    if not all(isinstance(one, str | Path) for one in given):
        kinds = sorted({type(one).__name__ for one in given})
        raise UsageError(
            f"score takes paths, PIL images or an array of embeddings, one kind at a time, not "
            f"{', '.join(kinds)}"
        )
    items = find_images([str(one) for one in given])
    yield from score_images(items, loaded.backbone, scorer, settings, cache=loaded.cache)


def _of_pictures(
    loaded: LoadedDetector, pictures: list[Image.Image], scorer: Scorer, settings: StreamSettings
) -> Iterator[ScoredBatch]:
    backbone = with_steps(loaded.backbone, scorer.detectors)
    local = needs_local(scorer.detectors)
    for start in range(0, len(pictures), settings.batch_size):
        some = pictures[start : start + settings.batch_size]
        upright = [to_rgb(one, settings.decode.background) for one in some]
        features = encode_pictures(upright, backbone, local=local)
        ids = [str(start + row) for row in range(len(some))]
        yield ScoredBatch(
            ids=ids,
            labels=[None] * len(some),
            positions=np.arange(len(some)),
            features=features,
            scores=scorer.score(features, ids),
            errors={},
        )


def _check_width(features: NDArray[np.float32], width: int) -> None:
    if features.shape[1] != width:
        raise UsageError(
            f"the embeddings are {features.shape[1]} wide and the detector's {width}; both must "
            "come from one model"
        )


def _gathered(records: list[Record]) -> ScoredImages:
    good = [record for record in records if "error" not in record]
    decided = bool(good) and good[0]["ood"] is not None
    calibrated = bool(good) and good[0]["p_value"] is not None
    return ScoredImages(
        ids=[record["path"] for record in good],
        score=np.array([record["score"] for record in good], np.float64),
        ood=np.array([record["ood"] for record in good], bool) if decided else None,
        label=[record["label"] for record in good],
        confidence=np.array([record["confidence"] for record in good], np.float64),
        p_value=np.array([record["p_value"] for record in good]) if calibrated else None,
        errors={record["path"]: record["error"] for record in records if "error" in record},
        records=records,
    )
