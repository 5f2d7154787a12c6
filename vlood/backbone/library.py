"""The one door to open_clip: ``from vlood.backbone.library import open_clip``.

open_clip imports ``transformers`` for text towers that come from Hugging Face and for CoCa's
captions. Hardly any model has such a tower and vlood writes no captions, but the import takes
seconds of every start. So open_clip is imported as if ``transformers`` were not installed, and its
Hugging Face text tower is put back the moment one is built, by vlood or by anyone else in the
process.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any

__all__ = ["hidden", "open_clip"]

_RELOADING = threading.Lock()


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Make ``import name`` fail for a while, in this thread, unless it is imported already."""
    finder = _Refusing(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Refusing(MetaPathFinder):
    """Refuses one top-level module to the thread that made this finder.

    ``sys.modules`` stays as it is: a None in it would fail the imports of other threads as well.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname == self._name and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is hidden for now", name=fullname)


def _hugging_face_tower(*args: Any, **kwargs: Any) -> Any:
    """Build open_clip's Hugging Face text tower; stands in for its class until the first one."""
    tower = open_clip.hf_model
    with _RELOADING:
        if tower.transformers is None:
            importlib.reload(tower)
        open_clip.model.HFTextEncoder = tower.HFTextEncoder
    return tower.HFTextEncoder(*args, **kwargs)


with hidden("transformers"):
    import open_clip

if open_clip.hf_model.transformers is None:
    open_clip.model.HFTextEncoder = _hugging_face_tower
