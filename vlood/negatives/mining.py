"""NegMine: choose the words that are farthest from the classes, and leave out those that collide.

Pure: words, embeddings and settings in, rows and reasons out (Jiang et al. 2024, section 3.1; the
index rule and the fixed total are OpenOOD-VLM's).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlood.backbone.image_features import unit
from vlood.errors import UsageError
from vlood.negatives.bank import Dropped
from vlood.negatives.closeness import closeness_to_classes
from vlood.negatives.corpus import Corpus
from vlood.negatives.leaks import REASONS, Relations, find_leaks
from vlood.negatives.near_duplicates import keep_distinct
from vlood.negatives.selection import auto_size, select
from vlood.prompts.classes import ClassName

log = logging.getLogger(__name__)

RULES = ("linear", "index")
ORDERS = ("nouns-first", "adjectives-first")

Progress = Callable[[int, int], None]


class CandidateRows(Protocol):
    """Embeddings of candidates [N, D]: an array, a memory map, or words encoded on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class MiningSettings:
    """What decides which candidates become negatives.

    Attributes:
        quantile: of a candidate's cosines with the classes; its value is the candidate's closeness.
        rule: ``linear`` interpolation between cosines, or ``index``: the floor(quantile * K)-th.
        keep: the share of each part of speech that is kept, or None.
        size: how many are kept, shared among the parts of speech, or None. Without either the
            number follows the number of classes.
        together: whether parts of speech compete with each other.
        order: which part of speech comes first in the bank.
        leaks: which collisions with a class leave a candidate out.
        similarity: the cosine with a class from which a candidate collides with it.
        near_duplicate: the cosine with a kept candidate from which another is left out, or None.
        seed: of the permutation that makes the groups.
    """

    quantile: float = 0.95
    rule: str = "linear"
    keep: float | None = None
    size: int | None = None
    together: bool = False
    order: str = "nouns-first"
    leaks: tuple[str, ...] = REASONS
    similarity: float = 0.95
    near_duplicate: float | None = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(f"--rule {self.rule}: expected one of {', '.join(RULES)}")
        if self.order not in ORDERS:
            raise UsageError(f"--order {self.order}: expected one of {', '.join(ORDERS)}")
        if not 0 <= self.quantile <= 1:
            raise UsageError(f"--quantile {self.quantile}: expected a share from 0 to 1")
        if self.keep is not None and self.size is not None:
            raise UsageError("--keep and --size: give one, they both set how many are kept")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UsageError(f"--keep {self.keep}: expected a share above 0 and at most 1")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size}: expected at least 1, or auto")
        unknown = [reason for reason in self.leaks if reason not in REASONS]
        if unknown:
            raise UsageError(f"--leaks {unknown[0]}: expected some of {', '.join(REASONS)}")


@dataclass(frozen=True, eq=False)
class Mined:
    """The chosen rows of the candidates, in order, their closeness, and what was left out."""

    rows: NDArray[np.int64]
    closeness: NDArray[np.float32]
    dropped: tuple[Dropped, ...]


def mine(
    corpus: Corpus,
    rows: CandidateRows,
    classes: Sequence[ClassName],
    class_features: NDArray[np.float32],
    settings: MiningSettings,
    *,
    relations: Relations | None = None,
    on_progress: Progress | None = None,
) -> Mined:
    """Choose negatives from N candidates for K classes.

    Args:
        corpus: the N words.
        rows: their embeddings [N, D], of any length.
        classes: the K classes.
        class_features: unit rows [K, D].
        settings: see :class:`MiningSettings`.
        relations: WordNet's hypernyms and hyponyms, where there are some.
        on_progress: called with (candidates compared, all of them).

    Raises:
        UsageError: no candidate is left.
    """
    close = closeness_to_classes(
        rows,
        class_features,
        quantile=settings.quantile,
        rule=settings.rule,
        on_progress=on_progress,
    )
    leaks = find_leaks(
        corpus.terms,
        corpus.synonyms,
        classes,
        reasons=settings.leaks,
        largest=close.largest,
        nearest=close.nearest,
        similarity=settings.similarity,
        relations=relations,
    )
    allowed = np.ones(len(corpus), bool)
    allowed[[leak.row for leak in leaks]] = False
    if not allowed.any():
        raise UsageError(
            f"--corpus: every one of the {len(corpus)} words collides with a class "
            f"({leaks[0].term!r} with {leaks[0].class_name!r}, for one); give more words, or "
            "--leaks none"
        )
    size = settings.size
    if size is None and settings.keep is None:
        size = auto_size(len(classes), int(allowed.sum()))
    chosen = select(
        close.value,
        corpus.parts,
        keep=settings.keep,
        size=size,
        together=settings.together,
        allowed=allowed,
    )
    dropped = [Dropped(leak.term, leak.reason, leak.class_name, leak.detail) for leak in leaks]
    picked = []
    for part in chosen.in_order(settings.order):
        ranking, count = part.ranking, part.count
        if settings.near_duplicate is not None and count:
            ranking, doubled = _distinct(corpus, rows, ranking, count, settings.near_duplicate)
            dropped.extend(doubled)
        picked.append(ranking[:count])
    taken = np.concatenate(picked)
    if not len(taken):
        raise UsageError(
            f"--keep {settings.keep}: of {int(allowed.sum())} words none is kept; keep more of "
            "them, or give more words"
        )
    if size is not None and len(taken) < size and settings.size is not None:
        log.warning("--size %d: there are only %d words to take", size, len(taken))
    return Mined(taken, close.value[taken], tuple(dropped))


def _distinct(
    corpus: Corpus,
    rows: CandidateRows,
    ranking: NDArray[np.int64],
    count: int,
    cosine: float,
) -> tuple[NDArray[np.int64], list[Dropped]]:
    """Return the first ``count`` of a ranking that are no near duplicates of those before them."""
    looked_at = min(len(ranking), count + max(256, count // 4))
    while True:
        candidates = ranking[:looked_at]
        found = keep_distinct(unit(np.asarray(rows[candidates], np.float32)), count, cosine)
        if len(found.kept) >= count or looked_at == len(ranking):
            break
        looked_at = min(len(ranking), 2 * looked_at)
    dropped = [
        Dropped(corpus.terms[candidates[row]], "near-duplicate", corpus.terms[candidates[kept]])
        for row, kept in found.duplicate_of.items()
    ]
    return candidates[found.kept], dropped
