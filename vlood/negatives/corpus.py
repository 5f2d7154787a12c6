"""A corpus: the words negatives are mined from, cleaned, each once, in a fixed order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.negatives.cleaning import clean_term, is_usable

_EXAMPLES = 5


class Entry(NamedTuple):
    """A term as its source has it, before cleaning."""

    term: str
    part: str = ""
    lex_file: str = ""
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class CleaningReport:
    """What became of the terms a source holds.

    Attributes:
        read: terms the source holds, without those of excluded lexicographer files.
        changed: terms that cleaning rewrote, with a few as (before, after).
        unusable: terms of which cleaning left nothing, with a few of them.
        duplicates: terms that occurred before, with a few of them.
        excluded: terms left out with their lexicographer file.
    """

    read: int
    changed: int = 0
    unusable: int = 0
    duplicates: int = 0
    excluded: int = 0
    changed_examples: tuple[tuple[str, str], ...] = ()
    unusable_examples: tuple[str, ...] = ()
    duplicate_examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Distinct terms in the order they were read.

    Attributes:
        name: the corpus as the user typed it.
        terms: N terms.
        parts: part of speech a term: "noun", "adj", or "" where it is not known.
        lex_files: WordNet lexicographer file a term, such as "noun.artifact", or "".
        synonyms: the other names of a term's synsets, or ().
        sources: the corpus a term is from.
        report: what reading changed and left out.
    """

    name: str
    terms: tuple[str, ...]
    parts: tuple[str, ...]
    lex_files: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...]
    report: CleaningReport

    @classmethod
    def of_names(
        cls, names: Sequence[str], sources: Sequence[str]
    ) -> tuple[Corpus, NDArray[np.int64]]:
        """Make a corpus of N names as they are, each with the file it is from.

        Returns:
            The corpus of the M distinct names, and int64 [M]: where each first stands in ``names``.
        """
        first: dict[str, int] = {}
        for at, name in enumerate(names):
            first.setdefault(name, at)
        found = {name: Entry(name) for name in first}
        report = CleaningReport(read=len(names), duplicates=len(names) - len(found))
        corpus = _corpus(
            ", ".join(dict.fromkeys(sources)),
            found,
            {name: sources[at] for name, at in first.items()},
            report,
        )
        return corpus, np.fromiter(first.values(), np.int64, len(first))

    def __len__(self) -> int:
        return len(self.terms)

    def sha256(self) -> str:
        """Return a hexadecimal digest of the terms and parts, in order."""
        digest = hashlib.sha256()
        for term, part in zip(self.terms, self.parts, strict=True):
            digest.update(f"{term}\0{part}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def only(self, chosen: Sequence[int] | NDArray[np.bool_] | NDArray[np.integer]) -> Corpus:
        """Return the terms that a mask [N] or indices [M] choose, in that order.

        Raises:
            ValueError: a mask of another length.
            IndexError: an index that is out of range.
        """
        picks = np.asarray(chosen)
        if picks.dtype == np.bool_:
            if picks.shape != (len(self),):
                raise ValueError(f"a mask of shape {picks.shape} for {len(self)} terms")
            picks = np.flatnonzero(picks)
        order = [int(pick) for pick in picks]
        return Corpus(
            name=self.name,
            terms=tuple(self.terms[at] for at in order),
            parts=tuple(self.parts[at] for at in order),
            lex_files=tuple(self.lex_files[at] for at in order),
            synonyms=tuple(self.synonyms[at] for at in order),
            sources=tuple(self.sources[at] for at in order),
            report=self.report,
        )


def build_corpus(
    name: str, entries: Iterable[Entry], *, raw: bool = False, exclude_lex: Sequence[str] = ()
) -> Corpus:
    """Clean entries, leave out lexicographer files, and keep the first of each term.

    A term that occurs again adds its synonyms to the first. ``raw`` keeps each term as it is but
    for line breaks; blank ones are skipped.

    Raises:
        UsageError: nothing is left.
    """
    every = list(entries)
    left_out = frozenset(exclude_lex)
    kept = [entry for entry in every if entry.lex_file not in left_out] if left_out else every
    found: dict[str, Entry] = {}
    changed: list[tuple[str, str]] = []
    unusable: list[str] = []
    duplicates: list[str] = []
    for entry in kept:
        term = " ".join(entry.term.splitlines()) if raw else clean_term(entry.term)
        if not term.strip() or not (raw or is_usable(term)):
            unusable.append(entry.term)
            continue
        if term != entry.term:
            changed.append((entry.term, term))
        synonyms = entry.synonyms if raw else tuple(map(clean_term, entry.synonyms))
        first = found.get(term)
        if first is not None:
            duplicates.append(term)
            found[term] = first._replace(synonyms=_others(term, first.synonyms + synonyms))
        else:
            found[term] = entry._replace(term=term, synonyms=_others(term, synonyms))
    if not found:
        without = f" without {', '.join(sorted(left_out))}" if left_out else ""
        raise UsageError(
            f"corpus {name}: holds no usable term{without}; give a list with at least one word"
        )
    report = CleaningReport(
        read=len(kept),
        changed=len(changed),
        unusable=len(unusable),
        duplicates=len(duplicates),
        excluded=len(every) - len(kept),
        changed_examples=tuple(changed[:_EXAMPLES]),
        unusable_examples=tuple(unusable[:_EXAMPLES]),
        duplicate_examples=tuple(dict.fromkeys(duplicates))[:_EXAMPLES],
    )
    return _corpus(name, found, dict.fromkeys(found, name), report)


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Put corpora one behind the other; the first of a term wins, later ones add synonyms.

    The report adds up those of the corpora and counts the terms that several of them hold as
    duplicates.

    Raises:
        UsageError: there is no corpus to join.
    """
    if not corpora:
        raise UsageError("no corpus was given; name at least one, such as imagenet21k")
    if len(corpora) == 1:
        return corpora[0]
    found: dict[str, Entry] = {}
    sources: dict[str, str] = {}
    shared: dict[str, None] = {}
    again = 0
    for corpus in corpora:
        rows = zip(
            corpus.terms,
            corpus.parts,
            corpus.lex_files,
            corpus.synonyms,
            corpus.sources,
            strict=True,
        )
        for term, part, lex_file, synonyms, source in rows:
            first = found.get(term)
            if first is None:
                found[term] = Entry(term, part, lex_file, synonyms)
                sources[term] = source
            else:
                again += 1
                shared[term] = None
                found[term] = first._replace(synonyms=_others(term, first.synonyms + synonyms))
    reports = [corpus.report for corpus in corpora]
    report = CleaningReport(
        read=sum(each.read for each in reports),
        changed=sum(each.changed for each in reports),
        unusable=sum(each.unusable for each in reports),
        duplicates=sum(each.duplicates for each in reports) + again,
        excluded=sum(each.excluded for each in reports),
        changed_examples=tuple(x for each in reports for x in each.changed_examples)[:_EXAMPLES],
        unusable_examples=tuple(x for each in reports for x in each.unusable_examples)[:_EXAMPLES],
        duplicate_examples=(
            *shared,
            *(x for each in reports for x in each.duplicate_examples),
        )[:_EXAMPLES],
    )
    return _corpus(", ".join(corpus.name for corpus in corpora), found, sources, report)


def _corpus(
    name: str, found: dict[str, Entry], sources: dict[str, str], report: CleaningReport
) -> Corpus:
    return Corpus(
        name=name,
        terms=tuple(found),
        parts=tuple(entry.part for entry in found.values()),
        lex_files=tuple(entry.lex_file for entry in found.values()),
        synonyms=tuple(entry.synonyms for entry in found.values()),
        sources=tuple(sources[term] for term in found),
        report=report,
    )


def _others(term: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name and name != term)
