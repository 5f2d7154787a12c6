"""The package's own namespace: light to import, and complete."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vlood


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(vlood._HOMES) == vlood.__all__
    for name in vlood.__all__:
        assert getattr(vlood, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = vlood.nonsense


def test_importing_vlood_imports_nothing_heavy() -> None:
    code = (
        "import sys, vlood; print([m for m in ('torch', 'open_clip', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
