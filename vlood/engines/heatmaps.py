"""Heat maps of scored images: a picture a file, made of the same pass of the model as the score."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.printable import printable
from vlood.engines.records import Record
from vlood.errors import ImageError, UsageError, VloodError
from vlood.features.atomic import write_atomically
from vlood.images.decode import DecodeSettings, decode
from vlood.images.sources import ImageItem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vlood.backbone.backbone import Backbone
    from vlood.engines.scoring import ScoredBatch
    from vlood.evaluation.heatmap import ColourScale
    from vlood.methods.contract import Detector

logger = logging.getLogger(__name__)

DEFAULT_LIMIT = 200
_LONGEST_STEM = 40


@dataclass
class Heatmaps:
    """Draws heat maps of the first inputs of a run into a folder.

    An input's place in the run decides whether it is drawn and what its picture is called, so a
    resumed run makes the pictures that an unbroken one would have made.

    Attributes:
        folder: where the pictures go.
        limit: inputs that are drawn, the first ones; 0: all.
        detector: whose map is drawn.
        backbone: the model it works with.
        decode: how images are decoded for it.
        place: inputs that were passed so far.
        left_out: whether there were inputs past the limit.
    """

    folder: Path
    limit: int
    detector: Detector
    backbone: Backbone
    decode: DecodeSettings
    place: int = 0
    left_out: bool = False
    _items: deque[ImageItem] = field(default_factory=deque, repr=False)

    def __post_init__(self) -> None:
        """Refuse a model without regions, and a detector that cannot tell them apart."""
        from vlood.methods.regional import regional_ends

        check_model(self.backbone)
        try:
            regional_ends(self.detector)
        except UsageError as error:
            raise UsageError(f"--heatmap: {error}") from None

    def open(self, *, resume: bool) -> None:
        """Make the folder; a resumed run also clears what a killed one left half-written.

        Raises:
            VloodError: the folder cannot be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        if not os.access(self.folder, os.W_OK):
            raise self._unwritable(OSError(errno.EACCES, os.strerror(errno.EACCES)))
        if resume:
            for torn in self.folder.glob(".[0-9]*-*.png.*.partial"):
                with suppress(OSError):
                    torn.unlink()

    def first_inputs(self, batch_size: int, *, before: int) -> int | None:
        """Return how many inputs need local embeddings; None: all.

        They are whole batches of ``batch_size``; ``before`` inputs of the run come no more.
        """
        if self.limit == 0:
            return None
        return max(0, -(-self.limit // batch_size) * batch_size - before)

    def watched(self, items: Iterable[ImageItem], *, after: int) -> Iterator[ImageItem]:
        """Pass on the items to be scored that come ``after`` so many, and remember them.

        Their batches come to :meth:`draw` in the same order.
        """
        self.place = after
        for item in items:
            self._items.append(item)
            yield item

    def draw(self, batch: ScoredBatch, records: Sequence[Record]) -> None:
        """Draw the batch that comes next and put each picture's path in its record.

        A record without a picture gets None: one past the limit, or of a file that is gone since.

        Raises:
            UsageError: a file that is no heat map has the picture's name.
            VloodError: a picture cannot be written.
        """
        from vlood.backbone.local import region_size
        from vlood.evaluation.heatmap import Caption, heatmap, png_of
        from vlood.methods.regional import regional_idness

        items = [self._items.popleft() for _ in batch.ids]
        first, self.place = self.place, self.place + len(items)
        for record in records:
            if "error" not in record:
                record["heatmap"] = None
        rows = [
            row
            for row, position in enumerate(batch.positions.tolist())
            if self.limit == 0 or first + position < self.limit
        ]
        self.left_out = self.left_out or 0 < self.limit < self.place
        if not rows:
            return
        features = batch.features
        assert features.local is not None
        maps = regional_idness(
            self.detector,
            ImageFeatures(features.raw[rows], features.local[rows], features.local_grid),
        )
        region = region_size(self.backbone.module.visual)
        scale = self._scale()
        for row, idness in zip(rows, maps, strict=True):
            position = int(batch.positions[row])
            record = records[position]
            try:
                pixels = self._pixels(items[position])
            except ImageError as error:
                logger.warning("%s: no heat map: %s", printable(record["path"]), error)
                continue
            caption = Caption(
                printable(record["path"]),
                printable(record["label"]),
                record["score"],
                record["method"],
                record["ood"],
            )
            name = picture_name(first + position + 1, record["path"])
            self._write(name, png_of(heatmap(pixels, idness, region, scale, caption)))
            record["heatmap"] = str(self.folder / name)

    def _scale(self) -> ColourScale:
        from vlood.evaluation.heatmap import ColourScale
        from vlood.methods.regional import regional_ends, regional_of

        low, high = regional_ends(self.detector)
        return ColourScale(low, high, regional_of(self.detector).meaning)

    def _pixels(self, item: ImageItem) -> NDArray[np.uint8]:
        """Return what the model saw of an image: resized and cropped by its own preprocessing."""
        preprocessing = self.backbone.preprocessing
        side = preprocessing.draft_side
        return preprocessing.prepare(decode(item.read(), self.decode, draft_side=side))

    def _write(self, name: str, data: bytes) -> None:
        from vlood.evaluation.heatmap import is_ours

        path = self.folder / name
        if os.path.lexists(path) and not is_ours(path):
            raise UsageError(
                f"--heatmap {self.folder}: {name} is there and is no heat map of vlood's; move it, "
                "or name another folder"
            )
        try:
            write_atomically(path, data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> VloodError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return VloodError(
                f"--heatmap {self.folder}: the disk is full; free some space, or draw fewer with "
                "--heatmap-limit; with -o FILE, --resume goes on from what is finished"
            )
        reason = error.strerror or str(error)
        return VloodError(
            f"--heatmap {self.folder}: cannot be written ({reason}); name another folder"
        )


def picture_name(number: int, path: str) -> str:
    """Return the name of an image's picture: its place in the run, from 1, and what is in its name.

    The place makes it unique; letters and digits of any script stay, all else becomes a hyphen.
    """
    stem = re.sub(r"[^\w]+|_+", "-", printable(PurePath(path).stem)).strip("-")
    return f"{number:05d}-{stem[:_LONGEST_STEM].strip('-') or 'image'}.png"


def check_model(backbone: Backbone) -> None:
    """Refuse a model that has no regions, or whose input is no picture that could be shown.

    Raises:
        UsageError: saying why, and what to use.
    """
    from vlood.backbone.local import local_refusal

    refusal = local_refusal(backbone.module.visual, without="leave --heatmap out")
    if refusal is None and not backbone.preprocessing.split:
        refusal = (
            "its preprocessing is not open_clip's, so an image cannot be shown as the model sees "
            "it; use an open_clip model, or leave --heatmap out"
        )
    if refusal is not None:
        raise UsageError(f"--heatmap: --model {backbone.name}: {refusal}")


def check_folder(folder: Path, inputs: Sequence[str]) -> None:
    """Refuse a place that is no folder, or whose pictures would be taken for inputs.

    Raises:
        UsageError: it is a file, or lies in a folder that is scored.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"--heatmap {folder}: is a file; name a folder")
    place = folder.resolve()
    for text in inputs:
        scored = Path(text)
        if text != "-" and scored.is_dir() and place.is_relative_to(scored.resolve()):
            raise UsageError(
                f"--heatmap {folder}: lies in the input folder {text}, and its pictures would be "
                "scored too; name a folder outside"
            )
