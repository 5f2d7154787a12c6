"""How a run of the training loop is kept, watched and measured, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.engines.mining import Encoder
from vlood.errors import UsageError, VloodError
from vlood.features.cache import FeatureCache
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.sources import ImageItem
from vlood.images.views import View
from vlood.prompts.classes import ClassName
from vlood.training.captioned import CaptionedFeatures
from vlood.training.checkpoints import RunFolder
from vlood.training.costs import CostProbe
from vlood.training.labelled import LabelledFeatures
from vlood.training.loop import StepReport
from vlood.training.tuning import Tuning, unwatched

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

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
    """

    folder: RunFolder | None = None
    on_step: Callable[[StepReport], None] = unwatched
    probe: CostProbe | None = None
    views: ViewSource | None = None

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
            raise UsageError(
                f"{method}: views={count} needs the images themselves, and these are embeddings; "
                "give --train images, or --set views=0"
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
        templates: tuple[str, ...] = (),
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
        about: Mapping[str, Any] = {}
        if self.folder is not None:
            about = {
                "method": method,
                "settings": asdict(settings),
                "model": encoder.backbone.identity(),
                "device": encoder.backbone.device,
                "classes": [[each.name, each.prompt] for each in classes],
                "logit_scale": logit_scale,
                "images": _digest(images),
                "templates": list(templates),
            }
        return Tuning(
            encoder.backbone,
            prompts,
            self.folder,
            about,
            self.on_step,
            self.probe,
            templates,
            encoder.cache,
        )


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
        wanted = set(images.ids)
        found = {item.path: item for item in self.items() if item.path in wanted}
        lost = next((one for one in images.ids if one not in found), None)
        if lost is not None:
            raise VloodError(f"{lost}: the image is there no more; run the command again")
        chosen = [found[one] for one in images.ids]
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


def with_view(settings: StreamSettings, view: View) -> StreamSettings:
    """Read images as before, but show a view of each."""
    return replace(settings, decode=replace(settings.decode, view=view))


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
