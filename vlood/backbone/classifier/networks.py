"""Networks of timm and torchvision with weights from a local file, read weights-only."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlood.backbone.classifier.input import InputChoice
from vlood.backbone.load import quiet_libraries
from vlood.backbone.weights import difference
from vlood.errors import UsageError, VloodError

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Library:
    """Where architectures come from: ``timm`` or ``torchvision``."""

    name: str

    def architectures(self) -> list[str]:
        """Return the names of all architectures that classify images."""
        if self.name == "timm":
            import timm

            return [str(name) for name in timm.list_models()]
        from torchvision import models

        return [str(name) for name in models.list_models(models)]

    def check(self, architecture: str, where: str) -> None:
        """Refuse an unknown architecture, and say which are like it.

        Raises:
            UsageError: the library has none of the name.
        """
        known = self.architectures()
        if architecture in known:
            return
        close = difflib.get_close_matches(architecture.lower(), known, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(f"{where}: {self.name} has no architecture {architecture!r}{hint}")

    def build(self, architecture: str, classes: int, *, size: int | None = None) -> Any:
        """Build a network with random weights and so many outputs, in single precision.

        ``size`` is the side of its input, for those that are made for one.
        """
        with quiet_libraries():
            if self.name == "timm":
                import timm

                given = {} if size is None else {"img_size": size}
                return timm.create_model(
                    architecture, pretrained=False, num_classes=classes, **given
                )
            from torchvision import models

            given = {} if size is None else {"image_size": size}
            return models.get_model(architecture, weights=None, num_classes=classes, **given)

    def stated(self, architecture: str, tag: str, path: Path | None, where: str) -> InputChoice:
        """Return what the library states of published weights, or nothing.

        Published weights are known by their tag; torchvision's also by the digest that is part of
        their file's published name.

        Raises:
            UsageError: the tag is unknown.
        """
        if self.name == "timm":
            return _timm_states(architecture, tag, where)
        return _torchvision_states(architecture, tag, path, where)


def fixed_size(library: Library, architecture: str) -> InputChoice:
    """Return the input's size where the architecture itself fixes it, as that of a ViT."""
    if library.name == "timm":
        import timm

        found = timm.models.get_pretrained_cfg(architecture)
        if found is not None and found.fixed_input_size:
            return InputChoice(size=(int(found.input_size[1]), int(found.input_size[2])))
    elif architecture.startswith("vit_"):
        return InputChoice(size=(224, 224))
    return InputChoice()


def own_size(library: Library, architecture: str, size: tuple[int, int] | None) -> int | None:
    """Return the side to build an architecture with, or None where it needs none or has its own."""
    fixed = fixed_size(library, architecture).size
    return None if size is None or fixed in (None, size) else size[0]


def filled(
    library: Library,
    architecture: str,
    tensors: Tensors,
    path: Path,
    where: str,
    size: tuple[int, int] | None = None,
) -> tuple[Any, int]:
    """Build an architecture with the weights of a file; return it and how many outputs it has.

    ``size`` is that of its input, for architectures that are made for one size.

    Files of COOkeD's training code, ``backbone.*`` with a linear ``fc.*``, are understood too.

    Raises:
        UsageError: the weights are of another architecture.
    """
    heads = head_names(library, architecture)
    weights = unwrapped(tensors, heads)
    classes = next((len(weights[name]) for name in heads if name in weights), 0)
    if not classes:
        raise UsageError(
            f"{where}: {path} does not hold weights of {architecture}: the head {heads[0]} is "
            "missing; name the architecture that the file was saved from"
        )
    network = library.build(architecture, classes, size=own_size(library, architecture, size))
    expected = network.state_dict()
    fits = set(weights) == set(expected) and all(
        weights[name].shape == expected[name].shape for name in expected
    )
    if not fits:
        raise UsageError(
            f"{where}: {path} does not hold weights of {architecture}: "
            f"{difference(weights, expected)}; name the architecture that the file was saved from"
        )
    network.load_state_dict(weights)
    return network.float(), classes


def head_names(library: Library, architecture: str) -> list[str]:
    """Return the weights and biases that have a row a class, weights first.

    Raises:
        VloodError: the library cannot build it with a number of classes.
    """
    try:
        with torch.device("meta"):
            few, more = (library.build(architecture, count).state_dict() for count in (3, 5))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise VloodError(
            f"{library.name}: {architecture} cannot be built with a number of classes ({reason}); "
            "use another architecture, or export it as ONNX"
        ) from error
    found = [name for name in few if few[name].shape != more[name].shape]
    if not found:
        raise VloodError(f"{library.name}: {architecture} has no head; use another architecture")
    return sorted(found, key=lambda name: (-few[name].ndim, name))


def unwrapped(tensors: Tensors, heads: list[str]) -> dict[str, torch.Tensor]:
    """Take weights out of the wrappers that training code puts around a network."""
    weights = dict(tensors)
    for prefix in ("module.", "model.", "_orig_mod."):
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): one for name, one in weights.items()}
    if not any(name.startswith("backbone.") for name in weights):
        return weights
    head = next(name for name in heads if name.endswith("weight")).removesuffix("weight")
    renamed = {}
    for name, one in weights.items():
        if name.startswith("backbone."):
            renamed[name.removeprefix("backbone.")] = one
        elif name in ("fc.weight", "fc.bias"):
            renamed[head + name.removeprefix("fc.")] = one
        else:
            renamed[name] = one
    return renamed


def _timm_states(architecture: str, tag: str, where: str) -> InputChoice:
    if not tag:
        return InputChoice()
    import timm

    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag not in known:
        close = difflib.get_close_matches(tag, known, n=3, cutoff=0.3) or known[:3]
        hint = f"; it has {', '.join(close)}" if close else ""
        raise UsageError(f"{where}: timm's {architecture} has no weights called {tag!r}{hint}")
    found = timm.models.get_pretrained_cfg(f"{architecture}.{tag}")
    side = int(found.input_size[1])
    whole = found.crop_mode == "squash" or found.input_size[1] != found.input_size[2]
    return InputChoice(
        size=(side, int(found.input_size[2])),
        resize=0 if whole else int(side / found.crop_pct),
        interpolation=found.interpolation if found.interpolation == "bilinear" else "bicubic",
        mean=tuple(found.mean),
        std=tuple(found.std),
    )


def _torchvision_states(architecture: str, tag: str, path: Path | None, where: str) -> InputChoice:
    from torchvision import models

    published = list(models.get_model_weights(architecture))
    names = [one.name for one in published]
    if tag and tag not in names:
        raise UsageError(
            f"{where}: torchvision's {architecture} has no weights called {tag!r}; it has "
            f"{', '.join(names) or 'none'}"
        )
    digest = None if tag or path is None else _sha256(path)
    for one in published:
        mark = re.search(r"-([0-9a-f]{8,})\.pth$", one.url)
        by_content = digest is not None and mark is not None and digest.startswith(mark[1])
        if one.name == tag or by_content:
            shown = one.transforms()
            side = int(shown.crop_size[0])
            return InputChoice(
                size=(side, side),
                resize=int(shown.resize_size[0]),
                interpolation=str(shown.interpolation.value),
                mean=tuple(shown.mean),
                std=tuple(shown.std),
            )
    return InputChoice()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
