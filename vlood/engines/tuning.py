"""How a run of the training loop is kept, watched and measured, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.engines.mining import Encoder
from vlood.engines.regional_views import (
    Announce,
    RecomputedMaps,
    ViewEncoder,
    small_images,
    stored_maps,
    with_view,
)
from vlood.engines.training_pixels import ItemPixels
from vlood.errors import UsageError, VloodError
from vlood.features.cache import FeatureCache
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.sources import ImageItem
from vlood.images.views import View
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.classes import ClassName
from vlood.training.captioned import CaptionedFeatures
from vlood.training.checkpoints import RunFolder
from vlood.training.costs import CostProbe
from vlood.training.labelled import LabelledFeatures
from vlood.training.loop import StepReport
from vlood.training.looping import Looping
from vlood.training.pixels import PixelSource
from vlood.training.regional_maps import RegionalMaps, RegionSource
from vlood.training.tuning import Tuning, unheard, unwatched

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.engines.text_side import TextSide
    from vlood.prompts.templates import ClassFeatures

ViewSource = Callable[[LabelledFeatures, int, int], NDArray[np.float32]]
"""Images, how many views of each and a seed, to their embeddings [N, V, D]."""


@dataclass(frozen=True, eq=False)
class TuningRun:
    """What a caller wants of a run.

    Attributes:
        folder: where its state is kept, or None.
        on_step: told after every step.
        probe: given, the run is measured and not made.
        views: gives augmented views of the images, or None where the images are not at hand.
        regions: makes regional maps of views; None: ``views`` does where it can.
    """

    folder: RunFolder | None = None
    on_step: Callable[[StepReport], None] = unwatched
    probe: CostProbe | None = None
    views: ViewSource | None = None
    regions: RegionSource | None = None

    def with_views(
        self, method: str, settings: Any, images: LabelledFeatures, seed: int
    ) -> LabelledFeatures:
        """Add the views that a method's settings ask for.

        Raises:
            UsageError: they do, and there are embeddings alone.
        """
        count = int(getattr(settings, "views", 0))
        if not count or images.views is not None:
            return images
        if self.views is None:
            without = ", or --set views=0" if _can_do_without_views(settings) else ""
            raise UsageError(
                f"{method}: views={count} needs the images themselves, and these are embeddings; "
                f"give --train images{without}"
            )
        return replace(images, views=self.views(images, count, seed))

    def tuning(
        self,
        method: str,
        settings: Any,
        classes: Sequence[ClassName] | None,
        encoder: Encoder | None,
        images: LabelledFeatures,
        logit_scale: float,
        negatives: NegativeFeatures | None = None,
        announce: Announce = unheard,
        templates: tuple[str, ...] = (),
        class_templates: tuple[str, ...] = (),
        mine: Callable[[Backbone, ClassFeatures], NegativeFeatures] | None = None,
    ) -> Tuning:
        """Return what the method is given.

        Raises:
            UsageError: there is no model, or no class names.
        """
        if encoder is None or classes is None:
            raise UsageError(
                f"--method {method}: learns prompts, and embeddings alone have no model to encode "
                "them; give --classes and --model, without --class-embeddings"
            )
        prompts = tuple(each.prompt for each in classes)
        named = [[each.name, each.prompt] for each in classes]
        about = self._about(
            method, settings, encoder, named, logit_scale, images, templates, negatives
        )
        return Tuning(
            encoder.backbone,
            prompts,
            self.folder,
            about,
            self.on_step,
            self.probe,
            self._regions(announce),
            announce,
            templates,
            encoder.cache,
            self._pixels(images),
            class_templates,
            mine,
        )

    def looping(
        self,
        method: str,
        settings: Any,
        side: TextSide,
        encoder: Encoder | None,
        images: LabelledFeatures,
        negatives: NegativeFeatures | None = None,
    ) -> Looping:
        """Return what a method that trains on embeddings alone is given; it needs no model."""
        named, scale = list(side.names()), side.scale(encoder)
        about = self._about(
            method, settings, encoder, named, scale, images, side.templates, negatives
        )
        return Looping(self.folder, about, self.on_step, self.probe)

    def _about(
        self,
        method: str,
        settings: Any,
        encoder: Encoder | None,
        classes: Sequence[Any],
        logit_scale: float,
        images: LabelledFeatures,
        templates: Sequence[str],
        negatives: NegativeFeatures | None,
    ) -> dict[str, Any]:
        """Return what decides a run's course, JSON-able; nothing where no folder keeps it."""
        if self.folder is None:
            return {}
        about = {
            "method": method,
            "settings": asdict(settings),
            "model": None if encoder is None else encoder.backbone.identity(),
            "device": "cpu" if encoder is None else encoder.backbone.device,
            "classes": classes,
            "logit_scale": logit_scale,
            "images": _digest(images),
            "templates": list(templates),
        }
        if negatives is not None:
            about |= {"negatives": _names_digest(negatives.names)}
        return about

    def _pixels(self, images: LabelledFeatures) -> PixelSource | None:
        """Return what gives the images themselves, or None of embeddings."""
        if not isinstance(self.views, ItemViews) or not images.ids:
            return None
        return ItemPixels(self.views, images.ids)

    def _regions(self, announce: Announce) -> RegionSource | None:
        """Return what makes regional maps: in the run's folder, where there is one."""
        if self.regions is not None or not isinstance(self.views, ItemViews):
            return self.regions
        folder = None if self.folder is None else self.folder.maps_path
        return ItemRegions(self.views, folder, announce)


@dataclass(frozen=True, eq=False)
class ItemViews:
    """Encode augmented views of images, each once: the cache keeps them by content and seed.

    Attributes:
        items: finds the images anew; their paths are the ids of the features.
        backbone: the model.
        settings: how images are read.
        cache: keeps the embeddings, or None.
        advance: told of so many images done.
    """

    items: Callable[[], Iterable[ImageItem]]
    backbone: Backbone
    settings: StreamSettings
    cache: FeatureCache | None = None
    advance: Callable[[int], None] = field(default=lambda count: None)

    def __call__(self, images: LabelledFeatures, count: int, seed: int) -> NDArray[np.float32]:
        """Return the embeddings of views 0 to V - 1 of each image, float32 [N, V, D].

        Raises:
            VloodError: an image that was read before cannot be read any more.
        """
        chosen = self.found(images)
        views = np.empty((len(chosen), count, self.backbone.embed_dim), np.float32)
        for number in range(count):
            view = View(number, seed, self.backbone.preprocessing.size)
            settings = with_view(self.settings, view)
            start = 0
            for batch in encode_images(chosen, self.backbone, settings, cache=self.cache):
                for row, reason in batch.errors.items():
                    raise VloodError(f"{batch.items[row].path}: {reason}; run the command again")
                views[start : start + len(batch.items), number] = batch.features.raw
                start += len(batch.items)
                self.advance(len(batch.items))
        return views

    def found(self, images: LabelledFeatures) -> list[ImageItem]:
        """Return the images that the features are of, in their order.

        Raises:
            VloodError: one is there no more.
        """
        return self.named(images.ids)

    def named(self, paths: Sequence[str]) -> list[ImageItem]:
        """Return the images of these paths, in their order.

        Raises:
            VloodError: one is there no more.
        """
        wanted = set(paths)
        found = {item.path: item for item in self.items() if item.path in wanted}
        lost = next((one for one in paths if one not in found), None)
        if lost is not None:
            raise VloodError(f"{lost}: the image is there no more; run the command again")
        return [found[one] for one in paths]


@dataclass(frozen=True, eq=False)
class ItemRegions:
    """Make regional maps of images' views.

    Attributes:
        views: gives the images, the model and how they are read.
        folder: where a store of maps lies; None: a temporary one.
        announce: told what it takes, and of images that are too small for regions.
    """

    views: ItemViews
    folder: Path | None
    announce: Announce

    def __call__(
        self,
        images: LabelledFeatures,
        chosen: NDArray[np.int64],
        seed: int,
        *,
        recompute: bool,
        kept: int,
    ) -> RegionalMaps:
        """Make the maps of chosen views [N, V], as :class:`RegionSource` says."""
        from vlood.backbone.local import region_grid, region_size

        views = self.views
        visual, size = views.backbone.module.visual, views.backbone.preprocessing.size
        items = views.found(images)
        told = small_images(items, region_size(visual))
        if told is not None:
            self.announce(told)
        rows, columns = region_grid(visual, size)
        encoder = ViewEncoder(items, chosen, seed, views.backbone, views.settings)
        if recompute:
            return RecomputedMaps(encoder, rows * columns, kept)
        return stored_maps(
            encoder, rows * columns, self.folder, advance=views.advance, announce=self.announce
        )


def _can_do_without_views(settings: Any) -> bool:
    try:
        replace(settings, views=0)
    except UsageError:
        return False
    return True


def _names_digest(names: Sequence[str]) -> str:
    return blake2b("\n".join(names).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _digest(images: LabelledFeatures) -> str:
    """Return a digest of embeddings, labels and views, in their order."""
    digest = blake2b(digest_size=16)
    for array in (images.raw, images.labels, images.local, images.views):
        if array is not None:
            digest.update(f"{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
    if isinstance(images, CaptionedFeatures):
        for caption in images.captions:
            digest.update(caption.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
