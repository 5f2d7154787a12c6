"""The bundled model, loaded once for all engines' tests, and what is often made with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlood.engines.mining import Encoder
from vlood.features.cache import FeatureCache
from vlood.training.labelled import LabelledFeatures


@pytest.fixture(scope="session")
def backbone() -> Any:
    from vlood.backbone.load import load_backbone

    return load_backbone("bundled", device="cpu")


@pytest.fixture(scope="session")
def plain(backbone: Any) -> Encoder:
    """The model without a cache."""
    return Encoder(backbone, None)


@pytest.fixture
def cached(backbone: Any, tmp_path: Path) -> Encoder:
    return Encoder(backbone, FeatureCache(tmp_path / "cache"))


def draw_world(base: Path, per_class: int) -> Path:
    """Draw training pictures of the bundled model's world; return their labelled folder."""
    from vlood.images.world import id_images

    for picture in id_images("train", per_class):
        (base / picture.path).parent.mkdir(parents=True, exist_ok=True)
        picture.image.save(base / picture.path)
    return base / "id" / "train"


def read_world(folder: Path, backbone: Any, *, local: bool = False) -> LabelledFeatures:
    """Encode what :func:`draw_world` drew."""
    from vlood.engines.training_images import labelled_images, training_set
    from vlood.features.stream import StreamSettings
    from vlood.images.sources import find_images
    from vlood.prompts.classes import read_classes

    items = find_images([str(folder)])
    batches = labelled_images(items, backbone, StreamSettings(64), local=local)
    return training_set(batches, read_classes("world")).images
