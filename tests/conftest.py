"""Fixtures every room's tests share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of test data, or skip: ../shared beside the checkout, or VLOOD_SHARED."""
    folder = Path(os.environ.get("VLOOD_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the test data folder {folder} is absent; set VLOOD_SHARED to use another")
    return folder


@pytest.fixture(scope="session")
def contributing() -> Callable[[str], str]:
    """Return what gives the only block of CONTRIBUTING.md in a language."""
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()

    def block(language: str) -> str:
        (found,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        return str(found)

    return block
