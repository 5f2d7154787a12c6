"""Regional maps of augmented views: kept in a memory-mapped store, or made anew when asked for."""

from __future__ import annotations

import io
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.errors import VloodError
from vlood.features.map_store import MapStore, map_bytes, size_text
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.sources import ImageItem
from vlood.images.views import View
from vlood.training.regional_maps import RegionalMaps
from vlood.training.workers import workers

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone

Announce = Callable[[str], None]
# In batches, between two moments at which a stopped run can go on.
_COMMIT_BATCHES = 8
_SHOWN = 3
# Of a temporary store, which a learning curve makes many of, less is not worth a line.
_TOLD_BYTES = 100 << 20


def with_view(settings: StreamSettings, view: View) -> StreamSettings:
    """Read images as before, but show a view of each."""
    return replace(settings, decode=replace(settings.decode, view=view))


@dataclass(frozen=True, eq=False)
class ViewEncoder:
    """The regions of chosen views of images.

    Attributes:
        items: the images, in order.
        chosen: int64 [N, V], numbers of their views.
        seed: of the views.
        backbone: the model.
        settings: how images are read.
    """

    items: Sequence[ImageItem]
    chosen: NDArray[np.int64]
    seed: int
    backbone: Backbone
    settings: StreamSettings

    def batches(
        self, rows: NDArray[np.int64], *, after: int = 0
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Yield images (places in ``rows``), places of views, and unit maps float32 [n, R, D].

        View by view, in batches that are the same whenever the same rows are asked for.

        Args:
            rows: int64 [n] of the images.
            after: batches that are left out at the beginning.

        Raises:
            VloodError: an image that was read before cannot be read any more.
        """
        chosen, size, passed = self.chosen[rows], self.settings.batch_size, 0
        for number in np.unique(chosen).tolist():
            image, place = np.nonzero(chosen == number)
            skipped = min(after - passed, -(-len(image) // size)) if after > passed else 0
            passed += skipped
            image, place = image[skipped * size :], place[skipped * size :]
            view = View(number, self.seed, self.backbone.preprocessing.size)
            items = [self.items[row] for row in rows[image].tolist()]
            start = 0
            settings = with_view(self.settings, view)
            for batch in encode_images(items, self.backbone, settings, local=True):
                for row, reason in batch.errors.items():
                    raise VloodError(f"{batch.items[row].path}: {reason}; run the command again")
                assert batch.features.local is not None
                stop = start + len(batch.items)
                yield image[start:stop], place[start:stop], unit(batch.features.local)
                start = stop


def stored_maps(
    encoder: ViewEncoder,
    regions: int,
    folder: Path | None,
    *,
    advance: Callable[[int], None],
    announce: Announce,
) -> RegionalMaps:
    """Make all maps once and keep them in a file; a store that was left unfinished is gone on with.

    Args:
        encoder: gives them.
        regions: R.
        folder: of the store; None: a temporary one, for as long as the maps are used.
        advance: told of so many maps done.
        announce: told what the store takes, before it is begun.

    Raises:
        UsageError: the disk is too small.
        VloodError: it cannot be written.
    """
    count, views = encoder.chosen.shape
    shape = (count, views, regions, encoder.backbone.embed_dim)
    needed = map_bytes(shape)
    if folder is not None or needed >= _TOLD_BYTES:
        announce(
            f"regional maps of {count:,} images x {views} views take {size_text(needed)} in "
            f"{folder or 'the temporary folder'} while training; --set recompute=true does without"
        )
    held = None
    if folder is None:
        held = tempfile.TemporaryDirectory(prefix="vlood-maps-", ignore_cleanup_errors=True)
        folder = Path(held.name)
    instead = "use --set recompute=true, which makes them anew in every epoch"
    joined = workers()
    if joined.is_main or held is not None:
        _fill(MapStore(folder, shape, _key(encoder), instead=instead), encoder, advance)
    joined.wait()
    return _Stored(MapStore(folder, shape, _key(encoder), instead=instead), held)


def _fill(store: MapStore, encoder: ViewEncoder, advance: Callable[[int], None]) -> None:
    rows = np.arange(len(encoder.items))
    done = store.done
    for image, place, maps in encoder.batches(rows, after=done):
        store.write(image, place, maps)
        done += 1
        advance(len(image))
        if done % _COMMIT_BATCHES == 0:
            store.commit(done)
    store.commit(done)


def _key(encoder: ViewEncoder) -> dict[str, Any]:
    """Say what the maps are of: the model, how images are read, which and which views of them."""
    chosen = blake2b(np.ascontiguousarray(encoder.chosen).data, digest_size=16)
    for item in encoder.items:
        chosen.update(item.path.encode("utf-8", "surrogateescape") + b"\0")
    return {
        **encoder.backbone.identity(),
        "decoding": encoder.settings.decode.describe(),
        "batch": encoder.settings.batch_size,
        "seed": encoder.seed,
        "views": chosen.hexdigest(),
    }


@dataclass(frozen=True, eq=False)
class _Stored:
    """Maps in a store; ``held`` keeps its temporary folder."""

    store: MapStore
    held: Any = None

    def of(self, rows: NDArray[np.int64], views: Sequence[int]) -> NDArray[np.float32]:
        return self.store.read(rows, views)


class RecomputedMaps:
    """Maps made when they are asked for, those of the last batches held in memory.

    All views of a batch are made together, for its steps come one after another.

    Args:
        encoder: gives them.
        regions: R.
        kept: of how many batches, or parts of one, they are held.
    """

    def __init__(self, encoder: ViewEncoder, regions: int, kept: int) -> None:
        self._encoder, self._regions, self._kept = encoder, regions, max(1, kept)
        self._held: OrderedDict[bytes, NDArray[np.float16]] = OrderedDict()

    def of(self, rows: NDArray[np.int64], views: Sequence[int]) -> NDArray[np.float32]:
        """Return unit features float32 [n, len(views), R, D]; half precision, as in a store."""
        key = rows.tobytes()
        if key not in self._held:
            while len(self._held) >= self._kept:
                self._held.popitem(last=False)
            self._held[key] = self._made(rows)
        return self._held[key][:, list(views)].astype(np.float32)

    def _made(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        encoder = self._encoder
        shape = (len(rows), encoder.chosen.shape[1], self._regions, encoder.backbone.embed_dim)
        maps = np.empty(shape, np.float16)
        for image, place, some in encoder.batches(rows):
            maps[image, place] = some
        return maps


def small_images(items: Sequence[ImageItem], region: tuple[int, int]) -> str | None:
    """Say which images are smaller than a region of the model, in a sentence; None: none are.

    What such an image's regions show is made up by resizing. Only headers are read.
    """
    from PIL import Image

    found = []
    for item in items:
        try:
            with Image.open(io.BytesIO(item.read())) as image:
                columns, rows = image.size
        except (OSError, VloodError, Image.DecompressionBombError):
            continue
        if rows < region[0] or columns < region[1]:
            found.append(f"{item.path} is {columns} x {rows}")
    if not found:
        return None
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"{len(found)} training images are smaller than a region of the model, {region[1]} x "
        f"{region[0]} pixels ({', '.join(found[:_SHOWN])}{more}): their regions show nothing of "
        "their own; use larger images"
    )
