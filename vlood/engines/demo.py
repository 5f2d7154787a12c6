"""The pictures of the demo: the pictogram world, drawn on disk in the folders that it speaks of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlood.images import world

_SHIFT = ("blur", 3)


@dataclass(frozen=True)
class DemoSize:
    """How many pictures the demo draws.

    Attributes:
        train: of each class, to learn from.
        calibration: of each class, to set thresholds on.
        test: of each class, to measure on.
        near: of each pictogram that is no class.
        far: of each kind of letter, texture and noise.
    """

    train: int
    calibration: int
    test: int
    near: int
    far: int

    @property
    def pictures(self) -> int:
        """Return how many there are in all."""
        each = self.train + self.calibration + self.test
        return (
            each * len(world.ID_CLASSES)
            + self.near * len(world.near_pictograms())
            + self.far * len(world.far_names())
        )


FULL = DemoSize(train=16, calibration=20, test=25, near=2, far=16)
QUICK = DemoSize(train=8, calibration=10, test=10, near=1, far=6)


@dataclass(frozen=True)
class WorldFolders:
    """Where the sets of the world lie."""

    known: Path
    test: Path
    near: Path
    far: Path
    shifted: Path


def demo_pictures(size: DemoSize, seed: int) -> Iterator[world.WorldImage]:
    """Yield every picture of the demo."""
    yield from world.id_images("train", size.train, seed)
    yield from world.id_images("calibration", size.calibration, seed)
    yield from world.id_images("test", size.test, seed)
    yield from world.near_images(size.near, seed)
    yield from world.far_images(size.far, seed)


def world_pictures(seed: int) -> Iterator[world.WorldImage]:
    """Yield every picture of ``vlood bench world``."""
    yield from world.id_images("train", 20, seed)
    yield from world.id_images("test", 25, seed)
    yield from world.near_images(2, seed)
    yield from world.far_images(16, seed)
    yield from world.shifted_images(*_SHIFT, per_class=25, seed=seed)


def write_world(folder: Path, pictures: Iterable[world.WorldImage]) -> WorldFolders:
    """Write pictures below ``folder`` as PNG files in class folders."""
    for picture in pictures:
        path = folder / picture.path
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(path, compress_level=1)
    shift, severity = _SHIFT
    return WorldFolders(
        known=folder / "id" / "train",
        test=folder / "id" / "test",
        near=folder / "near",
        far=folder / "far",
        shifted=folder / "shifted" / f"{shift}-{severity}",
    )
