"""Templates, and the class features they give: one unit vector a class."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.features.unit_rows import named_unit_rows
from vlood.prompts.classes import ClassName
from vlood.prompts.library_files import library_file, library_names, read_lines

SLOT = "{}"
DEFAULT_TEMPLATE = "a photo of a {}."
# The 80 templates of the CLIP paper's ImageNet runs come with open_clip: read, never copied.
OPENAI_80 = "openai-80"
_TEXTS_AT_ONCE = 16_384

EncodeTexts = Callable[[list[str]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class ClassFeatures:
    """The text side of a zero-shot detector.

    Attributes:
        names: K class names.
        features: float32 [K, D], every row of length 1.
    """

    names: tuple[str, ...]
    features: NDArray[np.float32]

    @classmethod
    def of(cls, names: Sequence[str], features: NDArray[np.floating]) -> ClassFeatures:
        """Normalise raw features [K, D] and pair them with their names.

        Raises:
            UsageError: not 2-D, another number of rows than names, or a row that is not finite or
                is all zeros.
        """
        return cls(tuple(names), named_unit_rows("class", names, features))

    def __len__(self) -> int:
        return len(self.names)


def read_templates(text: str) -> tuple[str, ...]:
    """Read a template option: a literal with ``{}``, a library name, or a file, one a line.

    Raises:
        UsageError: nothing of that name, an empty file, or a line without ``{}``.
    """
    if SLOT in text:
        return (text.strip(),)
    if text == OPENAI_80:
        return _openai_80()
    library = library_file("templates", text)
    if library is None and not Path(text).exists():
        known = template_names()
        close = difflib.get_close_matches(text.lower(), known, n=1)
        hint = f"did you mean {close[0]}? It takes" if close else "give"
        raise UsageError(
            f"--template {text}: has no {SLOT} for the class name and is no file or library name; "
            f"{hint} a text such as '{DEFAULT_TEMPLATE}', a .txt file, or one of {', '.join(known)}"
        )
    path = library or Path(text)
    templates = []
    for number, line in read_lines(path, "--template"):
        _check_slot(line, path, number)
        templates.append(line.strip())
    if not templates:
        raise UsageError(f"--template {path}: holds no template; write one a line, with {SLOT}")
    return tuple(templates)


def template_names() -> tuple[str, ...]:
    """Return the library's template sets, sorted."""
    return tuple(sorted({*library_names("templates"), OPENAI_80}))


def read_no_templates(text: str = "basic") -> tuple[tuple[str, str], ...]:
    """Read paired templates, ``positive<TAB>no`` a line, from the library's ``no/`` or a file.

    Raises:
        UsageError: nothing of that name, no pair, or a line that is not a pair with two ``{}``.
    """
    path = library_file("no", text) or Path(text)
    pairs = []
    for number, line in read_lines(path, "--no-templates"):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2:
            raise UsageError(
                f"--no-templates {path}, line {number}: expected a template, a tab and its negation"
            )
        for part in parts:
            _check_slot(part, path, number, "--no-templates")
        pairs.append((parts[0], parts[1]))
    if not pairs:
        raise UsageError(f"--no-templates {path}: holds no pair; write 'positive<TAB>no' a line")
    return tuple(pairs)


def fill(template: str, prompt: str) -> str:
    """Put a class's prompt name into a template; other braces stay as they are."""
    return template.replace(SLOT, prompt)


def class_features(
    encode_texts: EncodeTexts, classes: Sequence[ClassName], templates: Sequence[str]
) -> ClassFeatures:
    """Encode every class in every template and average.

    The feature of a class is the unit vector of the mean over templates of unit text features
    (Radford et al. 2021, section 3.1.4). Texts go to the encoder in large pieces, so that 10,000
    classes in 80 templates need little memory.

    Args:
        encode_texts: n texts to raw features float32 [n, D].
        classes: K classes.
        templates: at least one, each with ``{}``.

    Raises:
        UsageError: no class, or no template.
    """
    if not classes or not templates:
        raise UsageError("class features need at least one class and one template; give both")
    at_once = max(1, _TEXTS_AT_ONCE // len(templates))
    means = []
    for start in range(0, len(classes), at_once):
        piece = classes[start : start + at_once]
        texts = [fill(template, each.prompt) for each in piece for template in templates]
        features = np.asarray(encode_texts(texts), dtype=np.float64)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        means.append(features.reshape(len(piece), len(templates), -1).mean(axis=1))
    return ClassFeatures.of([each.name for each in classes], np.concatenate(means))


def _check_slot(template: str, path: Path, number: int, option: str = "--template") -> None:
    if SLOT not in template:
        raise UsageError(
            f"{option} {path}, line {number}: {template!r} has no {SLOT}; "
            "write it where the class name goes"
        )


def _openai_80() -> tuple[str, ...]:
    from vlood.backbone.library import open_clip

    return tuple(template(SLOT) for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
