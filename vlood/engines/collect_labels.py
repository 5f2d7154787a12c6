"""The labels training images are collected for: ID classes, negative labels, and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlood.engines.mining import Encoder
from vlood.engines.negatives import holds_embeddings
from vlood.engines.text_side import classes_from_files
from vlood.errors import UsageError
from vlood.negatives.bank import check_classes
from vlood.negatives.bank_folder import is_bank, load_bank
from vlood.negatives.corpora import corpus_names, read_corpus
from vlood.negatives.corpus import Corpus
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import class_features
from vlood.training.collecting import shares

NEGATIVE_LABELS = 1000
"""How many negative labels LAPT trains with."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels images are collected for, and those that compete for them.

    Attributes:
        names: K names, ID classes first, then negatives.
        ids: how many of them are ID classes.
        text: unit rows [K, D].
        logit_scale: the multiplier of cosines.
        wanted: int64, the labels that are to have images.
    """

    names: tuple[ClassName, ...]
    ids: int
    text: NDArray[np.float32]
    logit_scale: float
    wanted: NDArray[np.int64]

    def side(self, label: int) -> str:
        """Say which kind of label it is."""
        return "id" if label < self.ids else "negative"


def check_labels(ids: Sequence[ClassName], negatives: Sequence[str]) -> None:
    """Refuse labels that cannot be told apart.

    Raises:
        UsageError: there is one label in all, or a negative is a class's name.
    """
    known = {text.casefold(): each.name for each in ids for text in (each.name, each.prompt)}
    for term in negatives:
        if term.casefold() in known:
            raise UsageError(
                f"--negatives: {term!r} is also the class {known[term.casefold()]!r}; remove it "
                "from the negatives (vlood negatives leaks BANK finds such words)"
            )
    if len(ids) + len(negatives) < 2:
        raise UsageError(
            f"--classes: {ids[0].name!r} is the only label, and images are filtered by which label "
            "they fit best; name more classes, or give --negatives"
        )


def first_negatives(parts: Sequence[str], count: int) -> list[int]:
    """Return the first rows of a list, nouns and adjectives in proportion, in its own order."""
    kinds = list(dict.fromkeys(parts))
    members = [[row for row, part in enumerate(parts) if part == kind] for kind in kinds]
    given = shares([len(rows) for rows in members], count)
    return sorted(row for rows, size in zip(members, given, strict=True) for row in rows[:size])


@dataclass(frozen=True, eq=False)
class Negatives:
    """Negative labels: terms, and unit rows [M, D] of a bank that has them."""

    terms: tuple[str, ...]
    features: NDArray[np.float32] | None


def read_negatives(text: str, classes: Sequence[ClassName], count: int) -> Negatives:
    """Read the first negative labels of a bank or of a word list.

    Raises:
        UsageError: it is neither, or is a bank that was mined for other classes.
    """
    if count < 1:
        raise UsageError(f"--negative-labels {count}: expected a whole number, 1 or more")
    path = Path(text)
    if is_bank(path):
        bank = load_bank(path)
        check_classes(bank, classes, f"--negatives {path}")
        rows = first_negatives(bank.parts, count)
        features = None if bank.features is None else bank.features[rows]
        return Negatives(tuple(bank.terms[row] for row in rows), features)
    if text in corpus_names() or not path.is_file() or holds_embeddings(path):
        raise UsageError(
            f"--negatives {text}: is no bank and no word list; mine one for these classes with "
            "`vlood mine --classes C -o BANK`"
        )
    corpus: Corpus = read_corpus(text)
    rows = first_negatives(corpus.parts, count)
    return Negatives(tuple(corpus.terms[row] for row in rows), None)


def label_texts(
    classes: Sequence[ClassName],
    negatives: Negatives | None,
    templates: Sequence[str],
    encoder: Encoder | None,
    class_embeddings: Sequence[Path] = (),
    *,
    logit_scale: float,
    classes_only: bool = False,
) -> Labels:
    """Return the labels with their embeddings.

    With a model, classes and negatives get the same templates, as LAPT's filter has it: otherwise
    the templates would decide between them.

    Args:
        classes: the ID classes.
        negatives: the negative labels, or None.
        templates: for all labels.
        encoder: the model, or None where embeddings are given.
        class_embeddings: files of them.
        logit_scale: the multiplier of cosines.
        classes_only: collect images for the ID classes alone; negatives only compete.

    Raises:
        UsageError: there is one label in all, a negative is a class, or embeddings do not fit.
    """
    terms = () if negatives is None else negatives.terms
    check_labels(classes, terms)
    names = (*classes, *map(ClassName.of, terms))
    if encoder is not None:
        text = class_features(encoder.encode, names, templates).features
    else:
        text = classes_from_files(class_embeddings, classes).features
        if negatives is not None:
            text = np.concatenate([text, _rows(negatives, text.shape[1])])
    wanted = np.arange(len(classes) if classes_only else len(names))
    return Labels(names, len(classes), text, logit_scale, wanted)


def _rows(negatives: Negatives, width: int) -> NDArray[np.float32]:
    if negatives.features is None:
        raise UsageError(
            "--negatives: holds words alone, and with --class-embeddings there is no model to "
            "encode them; give a bank that has embeddings"
        )
    if negatives.features.shape[1] != width:
        raise UsageError(
            f"--negatives: its embeddings are {negatives.features.shape[1]} wide and those of "
            f"--class-embeddings {width}; both must come from the same model"
        )
    return negatives.features
