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
from vlood.negatives.closeness import Closeness, closeness_to_classes
from vlood.negatives.corpus import Corpus
from vlood.negatives.leaks import REASONS, Relations, find_leaks
from vlood.negatives.near_duplicates import keep_distinct
from vlood.negatives.selection import auto_size, select
from vlood.prompts.classes import ClassName

log = logging.getLogger(__name__)

RULES = ("linear", "index")
ORDERS = ("nouns-first", "adjectives-first")

# Candidates looked at beyond those that are needed, in the hope that no second look is.
_MORE = 1024

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
    block: int = 8192,
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
        block: candidates read at once.
        on_progress: called with (candidates compared, all of them) after each block.

    Raises:
        UsageError: no candidate is left.
    """
    close = closeness_to_classes(
        rows,
        class_features,
        quantile=settings.quantile,
        rule=settings.rule,
        block=block,
        on_progress=on_progress,
    )
    size = settings.size
    if size is None and settings.keep is None:
        size = auto_size(len(classes), len(corpus))
    chosen = select(
        close.value, corpus.parts, keep=settings.keep, size=size, together=settings.together
    )
    filters = _Filters(corpus, rows, classes, close, settings, relations)
    walked = [filters.take(part.ranking, part.count) for part in chosen.in_order(settings.order)]
    taken = np.concatenate([kept for kept, _ in walked])
    dropped = tuple(each for _, some in walked for each in some)
    if not len(taken):
        raise UsageError(_nothing_left(corpus, settings, dropped))
    if settings.size is not None and len(taken) < settings.size:
        log.warning("--size %d: there are only %d words to take", settings.size, len(taken))
    return Mined(taken, close.value[taken], dropped)


@dataclass(frozen=True, eq=False)
class _Filters:
    """Walk down a ranking, passing over candidates that collide with a class or with each other."""

    corpus: Corpus
    rows: CandidateRows
    classes: Sequence[ClassName]
    close: Closeness
    settings: MiningSettings
    relations: Relations | None

    def take(
        self, ranking: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.int64], list[Dropped]]:
        """Return the first ``count`` rows of a ranking that pass, and those that did not.

        Only as much of the ranking is looked at as is needed, so a large corpus costs no more.
        """
        kept = _Kept(self.settings.near_duplicate)
        reasons: dict[int, Dropped] = {}
        looked_at = 0
        while len(kept) < count and looked_at < len(ranking):
            fresh = ranking[looked_at : looked_at + count - len(kept) + _MORE]
            looked_at += len(fresh)
            leaks = self._leaks(fresh)
            clean = np.array([row for row in fresh.tolist() if row not in leaks], np.int64)
            doubles = kept.add(clean, self._unit_rows(clean), count)
            reasons |= leaks
            terms = self.corpus.terms
            for row, other in doubles.items():
                reasons[row] = Dropped(terms[row], "near-duplicate", terms[other])
        # What lies beyond the last one kept was looked at, but nothing was decided of it.
        last = kept.rows[-1] if len(kept) == count and count else -1
        passed: list[Dropped] = []
        for row in ranking[:looked_at].tolist():
            if row in reasons:
                passed.append(reasons[row])
            if row == last:
                break
        return np.array(kept.rows, np.int64), passed

    def _unit_rows(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        if self.settings.near_duplicate is None or not len(chosen):
            return np.zeros((len(chosen), 0), np.float32)
        return unit(np.asarray(self.rows[chosen], np.float32))

    def _leaks(self, ranking: NDArray[np.int64]) -> dict[int, Dropped]:
        if not self.settings.leaks or not len(ranking):
            return {}
        terms = [self.corpus.terms[row] for row in ranking]
        found = find_leaks(
            terms,
            [self.corpus.synonyms[row] for row in ranking],
            self.classes,
            reasons=self.settings.leaks,
            largest=self.close.largest[ranking],
            nearest=self.close.nearest[ranking],
            similarity=self.settings.similarity,
            relations=self.relations,
        )
        return {
            int(ranking[leak.row]): Dropped(leak.term, leak.reason, leak.class_name, leak.detail)
            for leak in found
        }


class _Kept:
    """Candidates kept so far; with a cosine, none of them lies as close as that to another."""

    def __init__(self, cosine: float | None) -> None:
        self.rows: list[int] = []
        self._cosine = cosine
        self._features: list[NDArray[np.float32]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(
        self, candidates: NDArray[np.int64], features: NDArray[np.float32], count: int
    ) -> dict[int, int]:
        """Keep candidates until there are ``count``; return those left out, and for which.

        Args:
            candidates: their row numbers [n], best first.
            features: their unit rows [n, D].
            count: how many to keep in all.
        """
        room = count - len(self)
        if self._cosine is None:
            self.rows.extend(candidates[:room].tolist())
            return {}
        doubles = {
            int(candidates[place]): self.rows[other]
            for place, other in self._near(features).items()
        }
        new = np.array([row not in doubles for row in candidates.tolist()], bool)
        fresh, fresh_features = candidates[new], features[new]
        found = keep_distinct(fresh_features, room, self._cosine)
        for place, other in found.duplicate_of.items():
            doubles[int(fresh[place])] = int(fresh[other])
        self.rows.extend(fresh[found.kept].tolist())
        self._features.append(fresh_features[found.kept])
        return doubles

    def _near(self, features: NDArray[np.float32]) -> dict[int, int]:
        """Find the candidates that lie close to one that is kept, and which."""
        if not self.rows:
            return {}
        held = np.concatenate(self._features)
        near: dict[int, int] = {}
        for start in range(0, len(features), _MORE):
            close = features[start : start + _MORE] @ held.T >= np.float32(self._cosine or 0)
            for place in np.flatnonzero(close.any(axis=1)).tolist():
                near[start + place] = int(close[place].argmax())
        return near


def _nothing_left(corpus: Corpus, settings: MiningSettings, dropped: Sequence[Dropped]) -> str:
    if dropped:
        return (
            f"--corpus: every one of the {len(corpus)} words collides with a class "
            f"({dropped[0].term!r} with {dropped[0].other!r}, for one); give more words, or "
            "--leaks none"
        )
    return (
        f"--keep {settings.keep}: of {len(corpus)} words none is kept; keep more of them, or give "
        "more words"
    )
