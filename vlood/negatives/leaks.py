"""Negatives that collide with class names: they would turn images of the classes away.

NegLabel itself filters nothing, and class names survive among its published negatives; NegRefine
and CSP (whose released code drops a cosine of 0.95 with a class) filter by meaning.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.prompts.classes import ClassName

_ASCII_REST = re.compile(r"[^a-z0-9]+")

REASONS = ("exact", "lemma", "wordnet", "similarity")


class Relations(Protocol):
    """What a thesaurus says of a term; all names lower-case, with spaces."""

    def hypernyms(self, term: str) -> frozenset[str]:
        """Return the names of everything above the term."""
        ...

    def hyponyms(self, term: str) -> frozenset[str]:
        """Return the names of everything below the term."""
        ...

    def lemmas(self, term: str) -> frozenset[str]:
        """Return the term's synonyms, itself among them."""
        ...


@dataclass(frozen=True)
class Leak:
    """A candidate that collides with a class.

    Attributes:
        row: of the candidate.
        term: the candidate.
        reason: ``exact``, ``lemma``, ``hypernym``, ``hyponym`` (the candidate is one of the
            class), or ``similarity``.
        class_name: the class's label.
        detail: the words or the cosine that it was seen by.
    """

    row: int
    term: str
    reason: str
    class_name: str
    detail: str


def find_leaks(
    terms: Sequence[str],
    synonyms: Sequence[Sequence[str]] | None,
    classes: Sequence[ClassName],
    *,
    reasons: Sequence[str] = REASONS,
    largest: NDArray[np.floating] | None = None,
    nearest: NDArray[np.integer] | None = None,
    similarity: float = 0.95,
    relations: Relations | None = None,
) -> list[Leak]:
    """Find the candidates that collide with a class, each with the first reason that applies.

    In this order: ``exact``, the same name but for case, punctuation and spaces; ``lemma``, the
    same base forms (English), or a synonym of the term or of the class is such a name;
    ``wordnet``, the term names a kind of the class (hyponym) or what the class is a kind of
    (hypernym); ``similarity``, a cosine with a class.

    Args:
        terms: N candidates.
        synonyms: for each the other names of what it means, or None.
        classes: the classes; a label and its prompt name both count.
        reasons: which of the four to look for.
        largest: [N] cosines with the nearest class; without them similarity is not looked for.
        nearest: [N] the rows of the nearest class.
        similarity: the cosine from which a candidate collides.
        relations: a thesaurus; without it wordnet is not looked for.

    Raises:
        UsageError: an unknown reason, or lists of different lengths.
    """
    unknown = [reason for reason in reasons if reason not in REASONS]
    if unknown:
        raise UsageError(f"reason {unknown[0]}: is unknown; take some of {', '.join(REASONS)}")
    lists = {"synonyms": synonyms, "largest": largest, "nearest": nearest}
    for name, given in lists.items():
        if given is not None and len(given) != len(terms):
            raise UsageError(
                f"{name}: has {len(given)} entries for {len(terms)} terms; give one for each term"
            )
    checks: list[Callable[[int, str], Leak | None]] = []
    names = _Names.of(classes)
    if "exact" in reasons:
        checks.append(functools.partial(_exact, names))
    if "lemma" in reasons:
        checks.append(functools.partial(_lemma, names, synonyms, _same_senses(classes, relations)))
    if "wordnet" in reasons and relations is not None:
        checks.append(functools.partial(_related, names, _related_names(classes, relations)))
    if "similarity" in reasons and largest is not None and nearest is not None:
        checks.append(functools.partial(_similar, classes, largest, nearest, similarity))
    found = []
    for row, term in enumerate(terms):
        leak = next((leak for check in checks if (leak := check(row, term)) is not None), None)
        if leak is not None:
            found.append(leak)
    return found


def fold(text: str) -> str:
    """Return the text without what does not distinguish names: case, punctuation, spaces.

    Letters, marks and digits of any script stay. Text of nothing else stays as it is, so that two
    emoji are two names.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    if plain.isascii():
        return " ".join(_ASCII_REST.sub(" ", plain).split()) or plain.strip()
    spaced = "".join(each if unicodedata.category(each)[0] in "LMN" else " " for each in plain)
    return " ".join(spaced.split()) or plain.strip()


@dataclass(frozen=True)
class _Names:
    """The classes' folded names and their base forms, each to its class's label."""

    folded: dict[str, str]
    lemmas: dict[str, str]
    fold: Callable[[str], str]
    lemma_of: Callable[[str], str]

    @classmethod
    def of(cls, classes: Sequence[ClassName]) -> _Names:
        # Caches of one call: words recur within it, and nothing is remembered after it.
        word, folding = functools.cache(_lemma_of_word), functools.cache(fold)

        def lemma_of(folded: str) -> str:
            return " ".join(map(word, folded.split()))

        folded: dict[str, str] = {}
        lemmas: dict[str, str] = {}
        for each in classes:
            for name in (folding(each.prompt), folding(each.name)):
                folded.setdefault(name, each.name)
                lemmas.setdefault(lemma_of(name), each.name)
        return cls(folded, lemmas, folding, functools.cache(lemma_of))


def _exact(names: _Names, row: int, term: str) -> Leak | None:
    name = names.folded.get(names.fold(term))
    return (
        None if name is None else Leak(row, term, "exact", name, f"both are {names.fold(term)!r}")
    )


def _lemma(
    names: _Names,
    synonyms: Sequence[Sequence[str]] | None,
    same_senses: dict[str, str],
    row: int,
    term: str,
) -> Leak | None:
    folded = names.fold(term)
    base = names.lemma_of(folded)
    name = names.lemmas.get(base)
    if name is not None:
        return Leak(row, term, "lemma", name, f"both are {base!r}")
    for other in synonyms[row] if synonyms is not None else ():
        name = names.lemmas.get(names.lemma_of(names.fold(other)))
        if name is not None:
            return Leak(row, term, "lemma", name, f"its synonym {other!r}")
    name = same_senses.get(folded) or same_senses.get(base)
    return None if name is None else Leak(row, term, "lemma", name, "a synonym of the class")


def _related(
    names: _Names, related: dict[str, tuple[str, str]], row: int, term: str
) -> Leak | None:
    folded = names.fold(term)
    found = related.get(folded) or related.get(names.lemma_of(folded))
    if found is None:
        return None
    reason, name = found
    of = "a kind of the class" if reason == "hyponym" else "the class is a kind of it"
    return Leak(row, term, reason, name, of)


def _similar(
    classes: Sequence[ClassName],
    largest: NDArray[np.floating],
    nearest: NDArray[np.integer],
    similarity: float,
    row: int,
    term: str,
) -> Leak | None:
    if not largest[row] >= similarity:
        return None
    name = classes[int(nearest[row])].name
    return Leak(row, term, "similarity", name, f"cosine {float(largest[row]):.3f}")


def _same_senses(classes: Sequence[ClassName], relations: Relations | None) -> dict[str, str]:
    if relations is None:
        return {}
    return _first(
        (fold(name), each.name)
        for each in classes
        for name in sorted(relations.lemmas(each.prompt))
    )


def _related_names(
    classes: Sequence[ClassName], relations: Relations
) -> dict[str, tuple[str, str]]:
    """Map every name above or below a class to how it is related; below goes first."""
    related: dict[str, tuple[str, str]] = {}
    for reason, look_up in (("hyponym", relations.hyponyms), ("hypernym", relations.hypernyms)):
        for each in classes:
            for name in sorted(look_up(each.prompt)):
                related.setdefault(fold(name), (reason, each.name))
    return related


def _first(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, class_name in pairs:
        found.setdefault(name, class_name)
    return found


def _lemma_of_word(word: str) -> str:
    import simplemma

    return str(simplemma.lemmatize(word, lang="en")).casefold()
