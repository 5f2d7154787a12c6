"""Mine a bank of negative labels: encode words or take embeddings, choose, and describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlood import __version__
from vlood.errors import UsageError
from vlood.features.cache import FeatureCache
from vlood.features.embeddings import check_features, read_embeddings
from vlood.features.row_names import read_names
from vlood.features.texts import encode_texts
from vlood.negatives.bank import NegativeBank
from vlood.negatives.cleaning import clean_term
from vlood.negatives.corpora import read_corpus
from vlood.negatives.corpus import Corpus, join
from vlood.negatives.leaks import Relations
from vlood.negatives.mining import CandidateRows, MiningSettings, Progress, mine
from vlood.negatives.negative_features import NegativeFeatures
from vlood.negatives.presets import conjugate
from vlood.negatives.prompting import Prompting, TextRows
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures, class_features

if TYPE_CHECKING:
    from vlood.backbone.backbone import Backbone
    from vlood.negatives.index import SearchIndex


_ENCODED_AT_ONCE = 1024
_READ_AT_ONCE = 8192


@dataclass(frozen=True)
class Encoder:
    """A model that gives words their embeddings, and where those are remembered."""

    backbone: Backbone
    cache: FeatureCache | None

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Return raw text features [n, D]."""
        return encode_texts(texts, self.backbone, self.cache)


def mine_words(
    corpus: Corpus,
    classes: Sequence[ClassName],
    prompting: Prompting,
    settings: MiningSettings,
    encoder: Encoder,
    *,
    ids: ClassFeatures | None = None,
    relations: Relations | None = None,
    provenance: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> NegativeBank:
    """Mine negatives for classes from the words of a corpus.

    The embeddings of words are remembered by model and template, whatever the classes are, so that
    the next class list costs seconds. ``ids`` are the classes' features where they are known.

    Raises:
        UsageError: no word is left to choose.
    """
    if ids is None:
        ids = class_features(encoder.encode, classes, prompting.classes)
    templates = [prompting.of_part(part) for part in corpus.parts]
    rows = TextRows(corpus.terms, templates, encoder.encode)
    return _mined_bank(
        corpus,
        rows,
        classes,
        ids,
        settings,
        templates=templates,
        class_templates=prompting.classes,
        backbone=encoder.backbone,
        relations=relations,
        provenance=provenance,
        on_progress=on_progress,
    )


def mine_embeddings(
    paths: Sequence[Path],
    classes: Sequence[ClassName],
    ids: ClassFeatures,
    settings: MiningSettings,
    *,
    relations: Relations | None = None,
    provenance: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> NegativeBank:
    """Mine negatives from embeddings somebody made already, names in a .txt beside them.

    A single ``.npy`` is read from disk a block at a time, however large it is.

    Raises:
        UsageError: a file is unusable, the widths differ, or nothing is left to choose.
    """
    corpus, rows = read_embedded_words(paths)
    width = rows[slice(0, 1)].shape[1]
    if width != ids.features.shape[1]:
        raise UsageError(
            f"--corpus {paths[0]}: rows have {width} numbers, but the class embeddings have "
            f"{ids.features.shape[1]}; both must come from one model"
        )
    return _mined_bank(
        corpus,
        rows,
        classes,
        ids,
        settings,
        templates=[("{}",)] * len(corpus),
        class_templates=(),
        backbone=None,
        relations=relations,
        provenance=provenance,
        on_progress=on_progress,
    )


def read_embedded_words(paths: Sequence[Path]) -> tuple[Corpus, CandidateRows]:
    """Read words with their embeddings; a word that several files hold is taken once.

    Raises:
        UsageError: a file is unusable, has no names, or has another width than the first.
    """
    read = [_named_rows(path) for path in paths]
    widths = sorted({rows.shape[1] for _, rows in read})
    if len(widths) > 1:
        raise UsageError(f"--corpus: files of different widths {widths} cannot be joined")
    names = [name for file_names, _ in read for name in file_names]
    sources = [str(path) for path, (some, _) in zip(paths, read, strict=True) for _ in some]
    corpus, kept = Corpus.of_names([clean_term(name) or name for name in names], sources)
    if len(read) == 1 and len(kept) == len(names):
        return corpus, CheckedRows(paths[0], read[0][1])
    whole = [CheckedRows(path, rows) for path, (_, rows) in zip(paths, read, strict=True)]
    joined = np.concatenate([rows[slice(None)] for rows in whole])
    return corpus, joined[kept]


class CheckedRows:
    """Rows of an array on disk, checked as they are read: float32 [n, D]."""

    def __init__(self, path: Path, rows: NDArray[Any]) -> None:
        self._path = path
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        taken = np.asarray(self._rows[rows])
        try:
            return check_features(self._path, taken)
        except UsageError:
            if not len(taken) or taken.dtype.kind not in "fiu":
                raise
            # It counts the rows of this piece; whoever is to mend the file needs the file's.
            with np.errstate(over="ignore"):
                values = taken.astype(np.float32)
            usable = np.isfinite(values).all(axis=1) & values.any(axis=1)
            number = (range(len(self))[rows] if isinstance(rows, slice) else rows)[usable.argmin()]
            raise UsageError(
                f"{self._path}: row {number} holds NaN, infinite values or nothing but zeros; "
                "remove it or embed that word again"
            ) from None


def prepare_corpus(
    names: Sequence[str],
    *,
    raw: bool = False,
    exclude_lex: Sequence[str] = (),
    all_lemmas: bool = False,
    superclasses: Sequence[str] = (),
    seed: int = 0,
) -> Corpus:
    """Read corpora, join them, and put adjectives before superclasses where there are some.

    Lexicographer files are left out of the corpora that have them.

    Raises:
        UsageError: a corpus does not exist, is empty or cannot be read.
    """
    read = [
        read_corpus(
            name,
            raw=raw,
            exclude_lex=exclude_lex,
            all_lemmas=all_lemmas,
        )
        for name in names
    ]
    return conjugate(join(read), superclasses, seed)


def index_bank(
    bank: NegativeBank, kind: str, *, seed: int, announce: Callable[[str], None]
) -> SearchIndex | None:
    """Build a bank's index, of a kind chosen by its size unless one is named; say which and why.

    Raises:
        UsageError: there is no such kind.
    """
    from vlood.negatives.index import KINDS, build_index

    if kind not in ("auto", "none", *KINDS):
        raise UsageError(f"--index {kind}: expected auto, none, {', '.join(KINDS)}")
    if kind == "none" or bank.features is None:
        return None
    index = build_index(bank.features, kind, seed=seed)
    announce(f"index {index.parameters['reason']}; recall@10 {index.recall:.3f}")
    return index


def choose_model_corpus(model: str) -> str:
    """Return the corpus that negatives come from when nobody names one."""
    return "bundled" if model == "bundled" else "imagenet21k"


def _named_rows(path: Path) -> tuple[list[str], NDArray[Any]]:
    if path.suffix.lower() == ".npy" and path.is_file():
        rows = _mapped(path)
        return read_names(path, count=len(rows)), rows
    embeddings = read_embeddings(path)
    names = embeddings.labels or read_names(path, count=len(embeddings))
    return names, embeddings.features


def _mapped(path: Path) -> NDArray[Any]:
    try:
        rows: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return read_embeddings(path).features  # which says what is wrong with it
    if rows.ndim != 2 or 0 in rows.shape:
        return check_features(path, rows)
    return rows


def _mined_bank(
    corpus: Corpus,
    rows: CandidateRows,
    classes: Sequence[ClassName],
    ids: ClassFeatures,
    settings: MiningSettings,
    *,
    templates: Sequence[tuple[str, ...]],
    class_templates: tuple[str, ...],
    backbone: Backbone | None,
    relations: Relations | None,
    provenance: dict[str, Any] | None,
    on_progress: Progress | None,
) -> NegativeBank:
    mined = mine(
        corpus,
        rows,
        classes,
        ids.features,
        settings,
        relations=relations,
        # Words are encoded as they are read: small blocks show that something happens.
        block=_ENCODED_AT_ONCE if isinstance(rows, TextRows) else _READ_AT_ONCE,
        on_progress=on_progress,
    )
    chosen = mined.rows.tolist()
    side = NegativeFeatures.of(
        [corpus.terms[row] for row in chosen], rows[mined.rows], seed=settings.seed
    )
    made = {
        "corpus": corpus.name,
        "corpus_terms": len(corpus),
        "corpus_sha256": corpus.sha256(),
        "settings": asdict(settings),
        "vlood": __version__,
        **(provenance or {}),
    }
    return NegativeBank(
        terms=side.names,
        parts=tuple(corpus.parts[row] for row in chosen),
        lex_files=tuple(corpus.lex_files[row] for row in chosen),
        closeness=mined.closeness,
        templates=tuple(templates[row] for row in chosen),
        sources=tuple(corpus.sources[row] for row in chosen),
        features=side.features,
        permutation=side.permutation,
        classes=tuple(classes),
        class_templates=class_templates,
        class_features=ids.features,
        model=None if backbone is None else backbone.identity(),
        model_name=None if backbone is None else backbone.name,
        made=made,
        dropped=mined.dropped,
    )
