"""What the user may type after ``--model``, and what it names."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from vlood.errors import UsageError

DEFAULT_MODEL = "ViT-B-16-quickgelu:openai"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_QUICK = "-quickgelu"


class ModelForm(Enum):
    """The ways to name a model."""

    TAG = "ARCH:TAG"
    FILE = "ARCH:FILE"
    HUB = "hf-hub:ORG/NAME"
    FOLDER = "local-dir:FOLDER"
    BUNDLED = "bundled"
    TUNED = "tuned:DETECTOR"


@dataclass(frozen=True)
class ModelSpec:
    """A model as the user named it.

    ``architecture`` is empty for the forms that carry their own configuration; ``source`` is the
    tag, file, hub repository or folder, and empty for the bundled model. A tuned model's is the
    folder of its detector, and behind an ``@`` its base where that has another name here.
    """

    text: str
    form: ModelForm
    architecture: str = ""
    source: str = ""

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read one of the forms of ``ModelForm``.

        Raises:
            UsageError: the form, the architecture or the tag is unknown, or architecture and tag
                were trained with different activations (the sentence names the right one).
        """
        text = text.strip()
        if text == ModelForm.BUNDLED.value:
            return cls(text, ModelForm.BUNDLED)
        head, colon, source = text.partition(":")
        if not colon or not source:
            raise UsageError(
                f"--model {text!r} is incomplete: expected {_forms()}{_tags_of(head)}; "
                "`vlood models` lists what there is"
            )
        if head == "local-dir":
            return cls(text, ModelForm.FOLDER, source=source)
        if head == "tuned":
            return cls(text, ModelForm.TUNED, source=source)
        if head == "hf-hub":
            if source.count("/") != 1 or source.startswith("/") or source.endswith("/"):
                raise UsageError(f"--model {text!r}: expected hf-hub:ORG/NAME")
            return cls(text, ModelForm.HUB, source=source)
        _require_architecture(head)
        if _looks_like_a_file(source):
            return cls(text, ModelForm.FILE, head, source)
        _require_tag(head, source)
        return cls(text, ModelForm.TAG, head, source)


def _forms() -> str:
    return ", ".join(form.value for form in ModelForm)


def _looks_like_a_file(source: str) -> bool:
    return source.endswith(WEIGHT_SUFFIXES) or "/" in source or Path(source).is_file()


def _tags_of(architecture: str) -> str:
    tags = _tags(architecture)
    return f" (tags of {architecture}: {', '.join(tags)})" if tags else ""


def _tags(architecture: str) -> list[str]:
    """Return the tags whose weights were trained with the architecture's own activation."""
    from vlood.backbone.library import open_clip

    return [
        tag
        for tag in open_clip.list_pretrained_tags_by_model(architecture)
        if _right_activation(architecture, tag) == architecture
    ]


def _require_architecture(architecture: str) -> None:
    from vlood.backbone.library import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        raise UsageError(
            f"--model: open_clip has no architecture {architecture!r}"
            f"{_did_you_mean(architecture, known)}; `vlood models` lists them"
        )


def _require_tag(architecture: str, tag: str) -> None:
    from vlood.backbone.library import open_clip

    twin = _twin(architecture)
    if open_clip.is_pretrained_cfg(architecture, tag):
        right = _right_activation(architecture, tag)
        if right != architecture:
            raise UsageError(
                f"--model {architecture}:{tag}: these weights were trained with another activation "
                f"(QuickGELU or GELU) than {architecture} has; use {right}:{tag}"
            )
        return
    if open_clip.is_pretrained_cfg(twin, tag) and _right_activation(twin, tag) == twin:
        raise UsageError(
            f"--model {architecture}:{tag}: these weights were trained with another activation "
            f"(QuickGELU or GELU) than {architecture} has; use {twin}:{tag}"
        )
    tags = _tags(architecture)
    raise UsageError(
        f"--model {architecture}:{tag}: no such file, and {architecture} has no tag {tag!r}"
        f"{_did_you_mean(tag, tags)}; it has: {', '.join(tags) or 'none'}"
    )


def _right_activation(architecture: str, tag: str) -> str:
    """Return the architecture's name with the activation that the tag was trained with.

    open_clip ships each architecture in both variants and only warns on a mismatch, which costs
    several points of accuracy in silence. Where it ships just one, its configuration is the truth.
    """
    from vlood.backbone.library import open_clip

    model_config = open_clip.get_model_config(architecture) or {}
    tag_config = open_clip.get_pretrained_cfg(architecture, tag)
    same = bool(model_config.get("quick_gelu", False)) == bool(tag_config.get("quick_gelu", False))
    twin = _twin(architecture)
    return architecture if same or twin not in open_clip.list_models() else twin


def _twin(architecture: str) -> str:
    """Return the name of the same architecture with the other activation."""
    if architecture.endswith(_QUICK):
        return architecture.removesuffix(_QUICK)
    return architecture + _QUICK


def _did_you_mean(text: str, known: list[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    close = [name for name in by_lower if name.startswith(text.lower())][:3]
    close = close or difflib.get_close_matches(text.lower(), by_lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(by_lower[name] for name in close)}?" if close else ""
