"""The pictures of the methods are those that the script draws."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from docs_site import pictures  # noqa: E402


@pytest.mark.parametrize("name", ["mcm", "neglabel", "knn"])
def test_a_picture_is_up_to_date(name: str) -> None:
    stored = np.asarray(Image.open(pictures.FOLDER / f"{name}.png").convert("RGBA"), float)
    made = np.asarray(pictures.picture(name), float)
    # The palette rounds colours, and another processor the last digits.
    assert np.abs(stored - made).mean() < 6


def test_the_files_are_small() -> None:
    sizes = [path.stat().st_size for path in pictures.FOLDER.iterdir()]
    assert sum(sizes) < 300_000
