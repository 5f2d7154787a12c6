"""Named ways to mine: vlood's own, and those of published code for comparing with its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vlood.errors import UsageError
from vlood.negatives.corpus import Corpus
from vlood.negatives.mining import MiningSettings
from vlood.negatives.prompting import Prompting
from vlood.prompts.templates import fill, read_templates


@dataclass(frozen=True)
class Preset:
    """A way to mine.

    Attributes:
        summary: what it is, in one line.
        settings: of the choice.
        prompting: the templates.
        raw: whether the corpus is taken as it is written.
        exclude_lex: lexicographer files that are left out.
        superclasses: phrases with a slot that each adjective is put into, one drawn at random.
    """

    summary: str
    settings: MiningSettings = field(default_factory=MiningSettings)
    prompting: Prompting = field(default_factory=Prompting)
    raw: bool = False
    exclude_lex: tuple[str, ...] = ()
    superclasses: tuple[str, ...] = ()


PRESETS = ("vlood", "neglabel", "openood-vlm", "csp")
_UNFILTERED = MiningSettings(keep=0.15, leaks=(), near_duplicate=None)


def read_preset(name: str) -> Preset:
    """Return a preset by its name.

    Raises:
        UsageError: there is none of that name.
    """
    match name:
        case "vlood":
            return Preset("clean words, leak filter, no near duplicates, size by the classes")
        case "neglabel":
            return Preset(
                "NegLabel's code: raw words, 15 % of nouns and of adjectives, no filter",
                settings=_UNFILTERED,
                raw=True,
                exclude_lex=("noun.animal", "noun.food"),
            )
        case "openood-vlm":
            return Preset(
                "OpenOOD-VLM's code: the index rule, 10,000 words, adjectives first",
                settings=replace(
                    _UNFILTERED,
                    keep=None,
                    size=10_000,
                    rule="index",
                    order="adjectives-first",
                    leaks=("exact",),
                ),
                prompting=Prompting(("The nice {}.",), ("The nice {}.",), ("This is a {} photo.",)),
                raw=True,
                exclude_lex=("noun.animal", "noun.food"),
            )
        case "csp":
            return Preset(
                "CSP's code: adjectives before superclasses, averaged templates, 15 % of each",
                settings=replace(_UNFILTERED, leaks=("similarity",)),
                prompting=Prompting(
                    read_templates("csp-noun"), read_templates("csp-noun"), read_templates("csp")
                ),
                raw=True,
                exclude_lex=(
                    *("noun.animal", "noun.food", "noun.person", "noun.quantity", "noun.group"),
                    "adj.pert",
                ),
                superclasses=read_templates("csp-superclass"),
            )
    raise UsageError(f"--preset {name}: expected one of {', '.join(PRESETS)}")


def conjugate(corpus: Corpus, superclasses: Sequence[str], seed: int) -> Corpus:
    """Put each adjective before a superclass drawn at random: "round" becomes "round object".

    These are the conjugated semantic pool of Chen et al. 2024 (section 3.3); their draw follows the
    order of their files, this one is seeded.
    """
    if not superclasses:
        return corpus
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(superclasses), size=len(corpus))
    terms = tuple(
        fill(superclasses[number], term) if part == "adj" else term
        for term, part, number in zip(corpus.terms, corpus.parts, drawn.tolist(), strict=True)
    )
    return replace(corpus, terms=terms)
