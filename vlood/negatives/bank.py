"""A bank of negative labels: the words, where they are from, how close they are, and their rows.

In memory only; :mod:`vlood.negatives.bank_folder` keeps it on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlood.errors import UsageError
from vlood.negatives.negative_features import NegativeFeatures, NegativeRow
from vlood.prompts.classes import ClassName

# What of a model's identity decides whether embeddings may be mixed; a precision or a library
# version changes them in the last digits only.
_SAME_MODEL = ("architecture", "config", "weights")
_SHOWN = 3
# A word with several templates says them all, a line each.
_JOINT = "\n"


@dataclass(frozen=True)
class Dropped:
    """A candidate that mining left out, and why.

    Attributes:
        term: the candidate.
        reason: ``exact``, ``lemma``, ``hypernym``, ``hyponym``, ``similarity`` (to a class) or
            ``near-duplicate`` (of another negative).
        other: the class, or the negative, that it collides with.
        detail: a figure or a word more.
    """

    term: str
    reason: str
    other: str
    detail: str = ""


@dataclass(frozen=True, eq=False)
class NegativeBank:
    """M negative labels in the order of mining, and for which classes and model they were mined.

    Attributes:
        terms: M words.
        parts: their parts of speech, ``noun``, ``adj`` or "".
        lex_files: their WordNet lexicographer files, or "".
        closeness: float32 [M], the quantile of the cosines with the classes; NaN where unknown.
        templates: for each term the templates that its embedding is the mean of.
        sources: the corpora they are from.
        features: float32 [M, D] of unit rows, or None for words that no model has encoded yet.
        permutation: int64 [M], the order of the groups.
        classes: the ID classes; none for a bank that fits any (an imported list).
        class_templates: the templates the classes were encoded with.
        class_features: float32 [K, D] of unit rows, or None.
        model: the backbone's identity, or None where embeddings were given without a model.
        model_name: what ``--model`` takes.
        made: how: settings, corpora with their digests, counts, versions; JSON-able.
        dropped: what mining left out.
    """

    terms: tuple[str, ...]
    parts: tuple[str, ...]
    lex_files: tuple[str, ...]
    closeness: NDArray[np.float32]
    templates: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...]
    features: NDArray[np.float32] | None
    permutation: NDArray[np.int64]
    classes: tuple[ClassName, ...] = ()
    class_templates: tuple[str, ...] = ()
    class_features: NDArray[np.float32] | None = None
    model: Mapping[str, str] | None = None
    model_name: str | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[Dropped, ...] = ()

    def __len__(self) -> int:
        return len(self.terms)

    def negative_features(self, features: NDArray[np.floating] | None = None) -> NegativeFeatures:
        """Return the side a detector is fitted with.

        Args:
            features: raw rows [M, D] to use for a bank of words alone.

        Raises:
            UsageError: the bank holds words alone and no rows are given.
        """
        rows = self.features if features is None else features
        if rows is None:
            raise UsageError(
                "these negatives are words that no model has encoded; give a model with --model"
            )
        plain = NegativeFeatures.of(self.terms, rows, self.permutation)
        return replace(plain, rows=self.rows())

    def rows(self) -> tuple[NegativeRow, ...]:
        """Return what is known of each negative."""
        return tuple(
            NegativeRow(
                term,
                part,
                lex_file,
                None if math.isnan(close) else close,
                _JOINT.join(said),
                source,
            )
            for term, part, lex_file, close, said, source in zip(
                self.terms,
                self.parts,
                self.lex_files,
                self.closeness.tolist(),
                self.templates,
                self.sources,
                strict=True,
            )
        )

    def only(self, rows: Sequence[int] | NDArray[np.integer], *, seed: int = 0) -> NegativeBank:
        """Return a bank of some of the rows, in the order given, with groups drawn anew."""
        chosen = np.asarray(rows, np.int64)
        picked = chosen.tolist()
        return replace(
            self,
            terms=tuple(self.terms[row] for row in picked),
            parts=tuple(self.parts[row] for row in picked),
            lex_files=tuple(self.lex_files[row] for row in picked),
            closeness=self.closeness[chosen],
            templates=tuple(self.templates[row] for row in picked),
            sources=tuple(self.sources[row] for row in picked),
            features=None if self.features is None else self.features[chosen],
            permutation=np.random.default_rng(seed).permutation(len(chosen)),
        )


def check_model(bank: NegativeBank, model: Mapping[str, str], where: str) -> None:
    """Refuse a bank whose embeddings are of another model.

    Raises:
        UsageError: naming both models and what to do.
    """
    if bank.model is None:
        return
    differing = [name for name in _SAME_MODEL if bank.model.get(name) != model.get(name)]
    if differing:
        raise UsageError(
            f"{where}: was made with another model ({bank.model_name}; {', '.join(differing)} "
            "differ); mine negatives again with this --model, or use the bank's"
        )


def check_classes(bank: NegativeBank, classes: Sequence[ClassName], where: str) -> None:
    """Refuse a bank that was mined for other classes: it may hold these as negatives.

    Raises:
        UsageError: naming classes that differ and what to do.
    """
    if not bank.classes:
        return
    ours, its = ({each.prompt.casefold() for each in some} for some in (classes, bank.classes))
    if ours == its:
        return
    new, gone = sorted(ours - its), sorted(its - ours)
    parts = [
        f"{what} {', '.join(names[:_SHOWN])}" + (" and others" if len(names) > _SHOWN else "")
        for what, names in (("it does not know", new), ("it was also made for", gone))
        if names
    ]
    raise UsageError(
        f"{where}: was mined for other classes ({'; '.join(parts)}); mine again with these "
        "--classes"
    )


def merge(banks: Sequence[NegativeBank], names: Sequence[str], *, seed: int = 0) -> NegativeBank:
    """Join banks into one: a term's first occurrence stays, the groups are drawn anew.

    Raises:
        UsageError: they are of different models, classes or widths, or only some are encoded.
    """
    first = banks[0]
    modelled = next((number for number, bank in enumerate(banks) if bank.model is not None), 0)
    classed = next((number for number, bank in enumerate(banks) if bank.classes), 0)
    model, classes = banks[modelled].model, banks[classed].classes
    for bank, name in zip(banks[1:], names[1:], strict=True):
        if (bank.features is None) != (first.features is None):
            raise UsageError(
                f"{name}: {'holds words alone' if bank.features is None else 'is encoded'} and "
                f"{names[0]} {'is not' if first.features is None else 'is encoded'}; merge banks "
                "of one kind"
            )
        if model is not None:
            check_model(bank, model, name)
        if bank.features is not None and first.features is not None:
            widths = first.features.shape[1], bank.features.shape[1]
            if widths[0] != widths[1]:
                raise UsageError(
                    f"{name}: its embeddings are {widths[1]} wide and those of {names[0]} "
                    f"{widths[0]}; merge banks of one model"
                )
        if classes:
            check_classes(bank, classes, name)
    rows = [(number, row) for number, bank in enumerate(banks) for row in range(len(bank))]
    kept: dict[str, tuple[int, int]] = {}
    for number, row in rows:
        kept.setdefault(banks[number].terms[row], (number, row))
    places = list(kept.values())
    features = None
    if first.features is not None:
        held = [bank.features for bank in banks if bank.features is not None]
        features = np.stack([held[number][row] for number, row in places])
    return replace(
        banks[classed],
        model=model,
        model_name=banks[modelled].model_name,
        terms=tuple(kept),
        parts=tuple(banks[number].parts[row] for number, row in places),
        lex_files=tuple(banks[number].lex_files[row] for number, row in places),
        closeness=np.array([banks[n].closeness[row] for n, row in places], np.float32),
        templates=tuple(banks[number].templates[row] for number, row in places),
        sources=tuple(banks[number].sources[row] for number, row in places),
        features=features,
        permutation=np.random.default_rng(seed).permutation(len(places)),
        made={"merged": [dict(bank.made) for bank in banks], "duplicates": len(rows) - len(kept)},
        dropped=tuple(each for bank in banks for each in bank.dropped),
    )
