"""Fixtures every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of test data, or skip: ../shared beside the checkout, or VLOOD_SHARED."""
    folder = Path(os.environ.get("VLOOD_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the test data folder {folder} is absent; set VLOOD_SHARED to use another")
    return folder
