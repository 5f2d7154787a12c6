"""The corpora one can name: those that need no file, WordNet, and word lists of one's own."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlood.errors import UsageError
from vlood.negatives.corpus import Corpus, Entry, build_corpus
from vlood.negatives.term_files import TABLES, read_folder, read_table, read_text_list
from vlood.negatives.wordnet import LEX_FILES, read_wordnet
from vlood.prompts.library_files import is_folder_and_exists

logger = logging.getLogger(__name__)

WORDNET = "wordnet:"
EMBEDDINGS = (".npy", ".npz", ".safetensors")
FORMS = (
    "imagenet21k, bundled, wordnet:DIR, wordnet:download, a .txt list (one term a line), a folder "
    "of files like noun.act.txt, or a .csv or .parquet file (FILE or FILE:COLUMN)"
)


@dataclass(frozen=True)
class CorpusInfo:
    """What a corpus is, before it is read.

    Attributes:
        name: what to type.
        what: one line on its terms.
        terms: how many there are by default, or None where counting takes a while.
        licence: whose words they are, and under what licence.
        offline: False where the first use needs a network.
    """

    name: str
    what: str
    terms: int | None
    licence: str
    offline: bool


_PRINCETON = "WordNet licence (Princeton University): free to use, keep its notice"
_INFOS = (
    CorpusInfo(
        "imagenet21k",
        "nouns: the first name of each synset of ImageNet-21k",
        None,
        "names from WordNet, in timm (Apache-2.0)",
        True,
    ),
    CorpusInfo(
        "bundled",
        "nouns: every name the bundled model was shown",
        None,
        "made from Unicode character names (Unicode licence)",
        True,
    ),
    CorpusInfo(
        "wordnet:DIR",
        "nouns and adjectives of a WordNet 3.0 on this machine",
        None,
        _PRINCETON,
        True,
    ),
    CorpusInfo(
        "wordnet:download",
        "the same, fetched once with nltk into the cache folder",
        None,
        _PRINCETON,
        False,
    ),
)


def corpus_names() -> tuple[str, ...]:
    """Return the names that need no file."""
    return tuple(info.name for info in _INFOS if info.name != "wordnet:DIR")


def all_infos() -> tuple[CorpusInfo, ...]:
    """Return what there is, with the count of the bundled names."""
    return tuple(describe(info.name) for info in _INFOS)


def describe(name: str) -> CorpusInfo:
    """Say what a corpus is and whose words it holds, without reading it."""
    info = {info.name: info for info in _INFOS}.get(name)
    if info is None and name.startswith(WORDNET):
        info = next(info for info in _INFOS if info.name == "wordnet:DIR")
    if info is None:
        return CorpusInfo(name, "a word list of your own", None, "that of the file", True)
    terms = len(_bundled()) if info.name == "bundled" else info.terms
    return CorpusInfo(name, info.what, terms, info.licence, info.offline)


def read_corpus(
    text: str,
    *,
    raw: bool = False,
    exclude_lex: Sequence[str] = (),
    all_lemmas: bool = False,
) -> Corpus:
    """Read a corpus by what the user typed.

    In this order: ``imagenet21k`` or ``bundled`` (``./bundled`` means a folder of that name),
    ``wordnet:DIR`` or ``wordnet:download``, a folder in NegLabel's style, a ``.csv`` or
    ``.parquet`` file, ``FILE:COLUMN``, a text file.

    Args:
        text: the corpus.
        raw: keep terms as they are, for parity with published code; comments, tabs and duplicates
            are read the same.
        exclude_lex: WordNet lexicographer files to leave out; NegLabel's published corpus is
            without ``noun.animal`` and ``noun.food``.
        all_lemmas: take every name of a synset (imagenet21k and WordNet only), not the first.

    Raises:
        UsageError: nothing of that name exists, it holds no usable term, a line of it is no term,
            or an option does not fit it.
        VloodError: a download failed.
    """
    entries = _entries(text, all_lemmas)
    if exclude_lex:
        exclude_lex = _checked_lex(text, exclude_lex, entries)
    return build_corpus(text, entries, raw=raw, exclude_lex=exclude_lex)


def _entries(text: str, all_lemmas: bool) -> list[Entry]:
    if text == "imagenet21k":
        return _imagenet21k(all_lemmas)
    if text.startswith(WORDNET) and len(text) > len(WORDNET):
        return read_wordnet(text.removeprefix(WORDNET), all_lemmas=all_lemmas)
    if all_lemmas:
        raise UsageError(
            f"corpus {text}: has one name a term, so --all-lemmas means nothing; "
            "leave it out, or use imagenet21k or wordnet:DIR"
        )
    if text == "bundled":
        return [Entry(name, "noun") for name in _bundled()]
    return _from_files(text)


def _from_files(text: str) -> list[Entry]:
    path = Path(text)
    is_folder, exists = is_folder_and_exists(path)
    if is_folder:
        return read_folder(path)
    if path.suffix in EMBEDDINGS:
        raise UsageError(
            f"corpus {text}: is a file of embeddings, and a corpus is words; give {FORMS}"
        )
    if path.suffix in TABLES:
        return read_table(path, None)
    file, colon, column = text.rpartition(":")
    if colon and not exists and Path(file).suffix in TABLES:
        return read_table(Path(file), column)
    if text and (exists or path.suffix == ".txt"):
        return read_text_list(path)
    raise UsageError(_unknown(text))


def _imagenet21k(all_lemmas: bool) -> list[Entry]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet21k")
    entries = []
    for synset in info.label_names():
        names = info.label_name_to_description(synset).split(", ")
        for name in names if all_lemmas else names[:1]:
            others = tuple(other for other in names if other != name)
            entries.append(Entry(name, "noun", "", others))
    return entries


def _bundled() -> tuple[str, ...]:
    from vlood.images.world import vocabulary

    return vocabulary()


def _checked_lex(text: str, exclude: Sequence[str], entries: Iterable[Entry]) -> tuple[str, ...]:
    """Return the files to leave out as the corpus spells them."""
    present = {entry.lex_file for entry in entries} - {""}
    if not present:
        raise UsageError(
            f"corpus {text}: has no lexicographer files, so none can be left out; "
            "leave out --exclude-lex, or use wordnet:DIR or a folder of files like noun.act.txt"
        )
    spelled = {name.lower(): name for name in (*LEX_FILES, *sorted(present))}
    unknown = [name for name in exclude if name.lower() not in spelled]
    if unknown:
        raise UsageError(
            f"corpus {text}: has no lexicographer file {', '.join(unknown)} to leave out; "
            f"there are {', '.join(sorted(present))}"
        )
    return tuple(spelled[name.lower()] for name in exclude)


def _unknown(text: str) -> str:
    if not text.strip():
        return f"corpus: is empty; give {FORMS}"
    if text.rstrip(":").lower() == "wordnet":
        return (
            f"corpus {text}: say which WordNet: wordnet:DIR for a folder of its files, "
            "or wordnet:download to fetch it"
        )
    close = difflib.get_close_matches(text.lower(), corpus_names(), n=1)
    hint = f"did you mean {close[0]}? It can be" if close else "give"
    return f"corpus {text}: is no corpus, file or folder; {hint} {FORMS}"
