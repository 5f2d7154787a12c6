"""The one door to open_clip: ``from vlood.backbone.library import open_clip``.

Importing open_clip takes seconds of every start, nearly all of them for what hardly any model
needs. Three things are put off until somebody, vlood or anyone else in the process, needs them:

- ``transformers``, for text towers from Hugging Face and for CoCa's captions (vlood writes none);
- ``timm``, for timm's image towers;
- ``torch._dynamo``, torch's compiler: timm and one function of torchvision import it.

open_clip is imported as if the first two were not installed, and each is put in its place the
moment a tower of its kind is built. An open_clip, timm, torchvision or compiler that is imported
already is left alone.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["hidden", "open_clip", "without_compiler"]

_RELOADING = threading.Lock()
_COMPILER = "torch._dynamo.utils"
_ROI_ALIGN = "torchvision.ops.roi_align"


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Make ``import name`` fail for a while, in this thread, unless it is imported already."""
    with _finder(_Refusing(name)):
        yield


@contextmanager
def without_compiler() -> Iterator[None]:
    """Keep torchvision from importing torch's compiler, if this thread imports it meanwhile.

    torchvision wants one function of the compiler, ``is_compile_supported``, in
    ``torchvision.ops.roi_align``. While that module's body runs, a stand-in for the compiler's
    module gives it a function that imports the compiler when it is called.
    """
    with _finder(_SparingTheCompiler()):
        yield


@contextmanager
def _finder(finder: MetaPathFinder) -> Iterator[None]:
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


class _SparingTheCompiler(MetaPathFinder):
    """Finds what the other finders find; torchvision's RoI align gets its body run specially."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != _ROI_ALIGN or threading.get_ident() != self._thread:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _BesideAStandIn(spec.loader)
                return spec
        return None


class _BesideAStandIn(Loader):
    """Loads a module as its own loader does, with the stand-in for the compiler in place."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader  # as if nobody had come between
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        if _COMPILER in sys.modules:
            self._loader.exec_module(module)
            return
        stand_in = _StandIn(_COMPILER)
        sys.modules[_COMPILER] = stand_in
        try:
            self._loader.exec_module(module)
        finally:
            stand_in.leave()


class _StandIn(ModuleType):
    """Has the one function that torchvision takes; whoever asks for more gets the real module."""

    @staticmethod
    def is_compile_supported(device_type: Any) -> Any:
        """Return what the function of that name in torch's compiler says."""
        from torch._dynamo.utils import is_compile_supported

        return is_compile_supported(device_type)

    def leave(self) -> None:
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(_COMPILER), name)


def _hugging_face_tower(*args: Any, **kwargs: Any) -> Any:
    """Build open_clip's Hugging Face text tower; stands in for its class until the first one."""
    tower = open_clip.hf_model
    with _RELOADING:
        if tower.transformers is None:
            importlib.reload(tower)
        open_clip.model.HFTextEncoder = tower.HFTextEncoder
    return tower.HFTextEncoder(*args, **kwargs)


def _import_timm_for_the_first_tower(tower: Any) -> None:
    """Have the first ``TimmModel`` import timm; the class stays the class it is."""
    build = tower.TimmModel.__init__

    @functools.wraps(build)
    def first(self: Any, *args: Any, **kwargs: Any) -> None:
        with _RELOADING:
            if tower.timm is None:
                _fill_in(tower)
            tower.TimmModel.__init__ = build
        build(self, *args, **kwargs)

    tower.TimmModel.__init__ = first


def _fill_in(module: ModuleType) -> None:
    """Give a module the names that its failed imports left out, from a second run of its body."""
    spec = module.__spec__
    if spec is None or spec.loader is None:
        return
    second = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(second)
    for name, value in vars(second).items():
        if vars(module).get(name) is None:
            setattr(module, name, value)


with ExitStack() as _put_off:
    _put_off.enter_context(hidden("transformers"))
    _put_off.enter_context(hidden("timm"))
    _put_off.enter_context(without_compiler())
    import open_clip

if open_clip.hf_model.transformers is None:
    open_clip.model.HFTextEncoder = _hugging_face_tower
if open_clip.timm_model.timm is None:
    _import_timm_for_the_first_tower(open_clip.timm_model)
