"""A detector's prompts for people: its classes and negatives, and what learned vectors are near."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from vlood.prompts.contexts import Contexts, nearest_words
from vlood.prompts.templates import fill

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.detector.saved import SavedDetector

WORDS = 5
_CONTEXTS = {"ctx": "contexts", "negative_ctx": "negative contexts"}


def readable_lines(
    saved: SavedDetector, backbone: Callable[[], Backbone], *, plain: bool = False
) -> list[str]:
    """Return what a detector asks for, a line each under headings that begin with ``#``.

    Args:
        saved: the detector.
        backbone: loads its model; called only where there are learned vectors.
        plain: words alone, without templates, headings and learned vectors.

    Raises:
        UsageError: learned vectors of another model.
    """
    negatives = saved.detector.negative_names
    if plain:
        return [_line(word) for word in (*saved.detector.class_names, *negatives)]
    lines = ["# classes"]
    if len(saved.templates) > 1:
        lines += [f"# averaged over {len(saved.templates)} templates:"]
        lines += [f"#   {_line(template)}" for template in saved.templates]
    template = saved.templates[0] if len(saved.templates) == 1 else "{}"
    lines += [_line(fill(template, each.prompt)) for each in saved.classes]
    if negatives:
        lines += ["", "# negatives"]
        known = {row.term: row.template for row in saved.negatives}
        lines += [_line(_negative(known.get(name, ""), name)) for name in negatives]
    if saved.learned is None or saved.learned.kind != "contexts":
        return lines
    position = str(saved.learned.about.get("position", "end"))
    for name, title in _CONTEXTS.items():
        vectors = saved.learned.arrays.get(name)
        if vectors is not None:
            contexts = Contexts(np.asarray(vectors, np.float32), position)
            lines += ["", f"# {title}: the nearest words of the vocabulary, and how far they are"]
            lines += _vectors(contexts, backbone())
    return lines


def _vectors(contexts: Contexts, backbone: Backbone) -> list[str]:
    lines = []
    for number, words in enumerate(nearest_words(backbone, contexts, WORDS)):
        block, place = divmod(number, contexts.length)
        where = f"V{place + 1}" if contexts.shared else f"prompt {block + 1}, V{place + 1}"
        near = ", ".join(f"{_line(word)} ({distance:.2f})" for word, distance in words)
        lines.append(f"{where}: {near}")
    return lines


def _negative(templates: str, term: str) -> str:
    # A bank keeps several templates in one cell, a line each: no line stands for their average.
    one = templates and len(templates.splitlines()) == 1
    return fill(templates, term) if one else term


def _line(text: str) -> str:
    return " ".join(text.split())
