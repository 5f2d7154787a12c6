"""What a run would cost, before anything long is begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.engines.fitted import Fitted
from vlood.engines.regional_views import with_view
from vlood.engines.tuning import TuningRun
from vlood.errors import ImageError
from vlood.features.cache import FeatureCache
from vlood.features.file_digests import FileDigests, KnownImages
from vlood.features.map_store import map_bytes
from vlood.features.stream import StreamSettings, image_space
from vlood.images.loader import image_digest
from vlood.images.sources import ImageItem
from vlood.images.views import View
from vlood.methods.contract import Method
from vlood.training.costs import CostProbe
from vlood.training.labelled import LabelledFeatures
from vlood.training.regional_maps import ArrayMaps, RegionSource

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

# Beyond so many files their bytes are not read to learn whether the cache holds them.
_READ_AT_MOST = 10_000
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class RunCost:
    """The cost of tuning; times and memory are measured on two steps and one batch of pictures.

    Attributes:
        method: its name.
        device: where it would run.
        classes: how many there are.
        images: training images that would be used.
        views: augmented views of each.
        region_views: views of each whose regional maps are needed, encoded again for them.
        to_encode: pictures that the model would have to see, views among them.
        cached: those whose embeddings are in the cache; none where those of regions are needed
            too, which it never holds.
        encode_seconds: for ``to_encode``, decoding not counted.
        trainable: numbers that are trained, or None where the loop does not run.
        steps: of the loop, or None.
        step_seconds: of one, or None.
        train_seconds: of all, or None.
        peak_memory_bytes: most memory used, or None where that is not known.
        cache_bytes: of the embeddings that would be added to the cache.
        store_bytes: of the regional maps, kept while training.
        state_bytes: of the run's state.
    """

    method: str
    device: str
    classes: int
    images: int
    views: int
    region_views: int
    to_encode: int
    cached: int
    encode_seconds: float
    trainable: int | None
    steps: int | None
    step_seconds: float | None
    train_seconds: float | None
    peak_memory_bytes: int | None
    cache_bytes: int
    store_bytes: int
    state_bytes: int


@dataclass(frozen=True)
class RegionNeeds:
    """What regional maps a method trains on.

    Attributes:
        views: views of each image.
        recompute: whether they are made anew in every epoch.
        epochs: of the run.
    """

    views: int
    recompute: bool
    epochs: int

    @classmethod
    def of(cls, method: Method, settings: Any) -> RegionNeeds | None:
        """Return those of a method with these settings, or None where it needs none."""
        if "view-regions" not in method.record.needs:
            return None
        return cls(settings.positive_views + 1, settings.recompute, settings.epochs)


def run_cost(
    method: str,
    fit: Callable[[LabelledFeatures, TuningRun], Fitted],
    labels: NDArray[np.int64],
    items: Sequence[ImageItem] | None,
    backbone: Backbone | None,
    settings: StreamSettings,
    cache: FeatureCache | None,
    *,
    views: int,
    seed: int,
    loops: bool,
    local: bool = False,
    regions: RegionNeeds | None = None,
) -> RunCost:
    """Measure a run with noise in place of the images' embeddings.

    Args:
        method: its name.
        fit: fits the method to images.
        labels: int64 [N], those of the images that would be used.
        items: the images, or None where there are embeddings.
        backbone: the model, or None where there is nothing to encode.
        settings: how images are read.
        cache: where embeddings are kept, or None.
        views: augmented views of each image.
        seed: of the views.
        loops: whether the method is trained by the loop.
        local: whether it learns from the embeddings of whole images' regions too.
        regions: the regional maps of views it needs, or None.
    """
    cached, to_encode, encode_seconds, width = 0, 0, 0.0, 0
    cacheable, grid = 0, 0
    keep = cache is not None and not local
    if backbone is not None:
        width = backbone.embed_dim
        if items is not None:
            looks = [settings, *_views(settings, backbone, views, seed)]
            cached = _cached(items, backbone, looks, cache) if cache is not None and keep else 0
            cacheable = to_encode = len(items) * len(looks) - cached
            if regions is not None:
                grid = _count_regions(backbone)
                again = regions.epochs if regions.recompute else 1
                to_encode += len(items) * regions.views * again
            encode_seconds = to_encode * _seconds_each(
                backbone, settings.batch_size, to_encode, local
            )
    whole = _count_regions(backbone) if local and backbone is not None else 0
    probe = CostProbe()
    if loops:
        noise = np.random.default_rng(0).normal(size=(len(labels), width))
        rows = noise.astype(np.float32)
        # Every region a copy that takes no memory: theirs may be gigabytes.
        regional = np.broadcast_to(rows[:, None], (len(rows), whole, width)) if whole else None
        fit(
            LabelledFeatures(rows, labels, local=regional),
            TuningRun(
                probe=probe,
                views=lambda images, count, seed: _repeated(rows, count),
                regions=_noise_maps(grid, width),
            ),
        )
    cost = probe.cost
    peak = None if cost is None else cost.peak_memory_bytes
    if peak is not None and backbone is not None and backbone.device == "cpu":
        peak += len(labels) * whole * width * _FLOAT_BYTES
    return RunCost(
        method=method,
        device="cpu" if backbone is None else backbone.device,
        classes=len(np.unique(labels)),
        images=len(labels),
        views=views,
        region_views=0 if regions is None else regions.views,
        to_encode=to_encode,
        cached=cached,
        encode_seconds=encode_seconds,
        trainable=None if cost is None else cost.trainable,
        steps=None if cost is None else cost.steps,
        step_seconds=None if cost is None else cost.step_seconds,
        train_seconds=None if cost is None else cost.steps * cost.step_seconds,
        peak_memory_bytes=peak,
        cache_bytes=cacheable * width * _FLOAT_BYTES if keep else 0,
        store_bytes=0
        if regions is None or regions.recompute
        else map_bytes((len(labels), regions.views, grid, width)),
        state_bytes=0 if cost is None else cost.state_bytes,
    )


def _repeated(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    return np.repeat(rows[:, None], count, axis=1)


def _count_regions(backbone: Backbone) -> int:
    from vlood.methods.local_prompt_fit import count_regions

    return count_regions(backbone)


def _noise_maps(regions: int, width: int) -> RegionSource:
    """Return a source of maps of noise, the same of every image."""

    def made(
        images: LabelledFeatures,
        chosen: NDArray[np.int64],
        seed: int,
        *,
        recompute: bool,
        kept: int,
    ) -> ArrayMaps:
        shape = (1, chosen.shape[1], regions, width)
        return ArrayMaps(unit(np.random.default_rng(0).normal(size=shape).astype(np.float32)))

    return made


def _views(
    settings: StreamSettings, backbone: Backbone, count: int, seed: int
) -> Iterator[StreamSettings]:
    for number in range(count):
        yield with_view(settings, View(number, seed, backbone.preprocessing.size))


def _cached(
    items: Iterable[ImageItem],
    backbone: Backbone,
    looks: Sequence[StreamSettings],
    cache: FeatureCache,
) -> int:
    """Count the pictures, images and their views, whose embeddings are in the cache."""
    spaces = [image_space(cache, backbone, look) for look in looks]
    known = KnownImages(spaces[0], FileDigests(cache.folder))
    count = read = 0
    for item in items:
        digest = known.digest_of(item)
        if digest is None and read < _READ_AT_MOST and any(map(len, spaces)):
            read += 1
            try:
                digest = image_digest(item.read())
            except ImageError:
                continue
        if digest is not None:
            count += sum(digest in space for space in spaces)
    return count


def _blank(backbone: Backbone, count: int) -> NDArray[Any]:
    height, width = backbone.preprocessing.size
    if backbone.preprocessing.split:
        return np.zeros((count, height, width, 3), np.uint8)
    return np.zeros((count, 3, height, width), np.float32)


def _seconds_each(backbone: Backbone, batch_size: int, count: int, local: bool) -> float:
    """Return what a picture takes in the model, from one batch after a first, uncounted one."""
    if count == 0:
        return 0.0
    size = min(batch_size, count)
    blank = _blank(backbone, size)
    backbone.encode_pixels(blank, local=local)
    begun = time.perf_counter()
    backbone.encode_pixels(blank, local=local)
    return (time.perf_counter() - begun) / size
