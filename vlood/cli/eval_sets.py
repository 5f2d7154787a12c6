"""Turn ``--id``, ``--ood`` and ``--shift`` into the sets of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlood.cli.sources import sources_of, with_labels
from vlood.engines.evaluating.sets import ID, EvalSet
from vlood.errors import UsageError
from vlood.images.shifts import parse_shifts

_PLAIN = ("features", "test", "train", "val", "images", "embeddings")
"""Names that say nothing without the folder above."""


def eval_sets(
    known: Sequence[str],
    others: Sequence[str],
    shifts: Sequence[str],
    *,
    root: Path | None,
    id_labels: Path | None = None,
) -> list[EvalSet]:
    """Return the ID set, the other sets and the shifted forms of the ID set, in this order.

    Raises:
        UsageError: a value has another form, an input is wrong, or stdin is named.
    """
    held = _set(set_name(known[0]), ID, known, root, id_labels)
    made = shifted_sets(held, shifts)
    named = [
        _set(name, group, inputs, root) for (group, name), inputs in _named_inputs(others).items()
    ]
    return [held, *named, *made]


def shifted_sets(held: EvalSet, shifts: Sequence[str]) -> list[EvalSet]:
    """Return the ID set with its pictures made worse, a set a shift and severity.

    Raises:
        UsageError: there is no such shift or severity, or the set holds embeddings.
    """
    wanted = [shift for text in shifts for shift in parse_shifts(text)]
    if wanted and held.embeddings is not None:
        raise UsageError("--shift: needs --id images; embeddings hold no pictures to make worse")
    return [
        replace(held, name=str(shift), group="shift", shift=shift)
        for shift in dict.fromkeys(wanted)
    ]


def set_name(path: str) -> str:
    """Name a set after its file or folder."""
    place = Path(path.rstrip("/") or path)
    name = place.stem if place.suffix and not place.is_dir() else place.name
    parent = place.resolve().parent.name
    return f"{parent}/{name}" if name in _PLAIN and parent else name or str(path)


def _set(
    name: str, group: str, inputs: Sequence[str], root: Path | None, labels: Path | None = None
) -> EvalSet:
    if "-" in inputs:
        raise UsageError("eval does not read stdin; name files, folders, lists or embeddings")
    source = sources_of(inputs)
    if labels is not None:
        source = with_labels(source, labels, "--id-labels")
    held = None if source.embeddings is None else tuple(source.embeddings)
    return EvalSet(name, group, tuple(source.inputs), root, held)


def _named_inputs(values: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Read ``[GROUP:][NAME=]IN`` values into inputs by (group, name)."""
    from vlood.evaluation.results import GROUPS

    sets: dict[tuple[str, str], list[str]] = {}
    for value in values:
        text, group = value, "-"
        head, colon, rest = value.partition(":")
        if colon and head in GROUPS and not Path(value).exists():
            group, text = head, rest
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = set_name(text), text
        if not name or not path:
            raise UsageError(f"--ood {value}: expected [GROUP:][NAME=]IN, e.g. near:tin=tin/")
        sets.setdefault((group, name), []).append(path)
    return sets
