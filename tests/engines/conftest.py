"""The bundled model, loaded once for all engines' tests, and what is often made with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlood.engines.mining import Encoder
from vlood.features.cache import FeatureCache


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
