"""Published lists of negative labels as banks, and banks as such lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlood import __version__
from vlood.errors import UsageError
from vlood.negatives.bank import NegativeBank
from vlood.negatives.published import PublishedLabel, parse_cma_npy, parse_neglabel_txt
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import fill

_PARSERS = {"neglabel-txt": parse_neglabel_txt, "cma-npy": parse_cma_npy}


def import_bank(
    format: str, path: Path, classes: Sequence[ClassName], *, dedup: bool = False, seed: int = 0
) -> tuple[NegativeBank, dict[str, Any]]:
    """Read a published list into a bank of words alone; return it with a report of what was found.

    Raises:
        UsageError: the file is no such list.
    """
    labels = list(_PARSERS[format](path))
    found = len(labels)
    distinct: dict[str, PublishedLabel] = {}
    for label in labels:
        distinct.setdefault(label.term, label)
    if dedup:
        labels = list(distinct.values())
    count = len(labels)
    templates = [label.template for label in labels]
    bank = NegativeBank(
        terms=tuple(label.term for label in labels),
        parts=tuple(label.part for label in labels),
        lex_files=("",) * count,
        closeness=np.full(count, np.nan, np.float32),
        templates=tuple((template,) for template in templates),
        sources=(format,) * count,
        features=None,
        permutation=np.random.default_rng(seed).permutation(count),
        classes=tuple(classes),
        # Classes are asked for in the words that nouns are: both sides must be of one wording.
        class_templates=_noun_template([label.part for label in labels], templates),
        made={"imported": format, "file": path.name, "vlood": __version__},
    )
    report = {
        "prompts": found,
        "kept": count,
        "nouns": bank.parts.count("noun"),
        "adjectives": bank.parts.count("adj"),
        "without a known template": bank.parts.count(""),
        "distinct": len(distinct),
    }
    return bank, report


def exported_lines(bank: NegativeBank, *, plain: bool = False) -> list[str]:
    """Return a line a negative, with its template applied, or the words alone.

    Raises:
        UsageError: a negative was averaged over several templates, so no line stands for it.
    """
    if plain:
        return list(bank.terms)
    several = sum(len(templates) > 1 for templates in bank.templates)
    if several:
        raise UsageError(
            f"{several} negatives are averages over several templates, which no list can say; "
            "export the words with --plain"
        )
    return [
        fill(template, term) for term, (template,) in zip(bank.terms, bank.templates, strict=True)
    ]


def _noun_template(parts: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
    nouns = [template for part, template in zip(parts, templates, strict=True) if part == "noun"]
    return tuple(template for template, _ in Counter(nouns).most_common(1))
