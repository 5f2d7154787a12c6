"""WordNet as a corpus and as relations between words, read from a Princeton ``dict`` folder."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlood.errors import UsageError, VloodError
from vlood.features.cache import default_cache_folder
from vlood.negatives.corpus import Entry

# The lexicographer files in the order of their numbers: lexnames(5WN) of WordNet 3.0.
_LEX_NAMES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute "
    "noun.body noun.cognition noun.communication noun.event noun.feeling noun.food noun.group "
    "noun.location noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession "
    "noun.process noun.quantity noun.relation noun.shape noun.state noun.substance noun.time "
    "verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption "
    "verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession "
    "verb.social verb.stative verb.weather adj.ppl"
)
LEX_FILES = tuple(_LEX_NAMES.split())
_CLASS_NUMBERS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
_NEEDED = ("data.noun", "index.noun", "data.adj", "index.adj")
_INSTEAD = "give the folder of a WordNet 3.0 as wordnet:DIR, or use imagenet21k"
_DOWNLOAD = "import sys, nltk; sys.exit(not nltk.download('wordnet', sys.argv[1], quiet=True))"
_DOWNLOAD_SECONDS = 300

DictFolder = Path | zipfile.Path


def find_wordnet(place: str) -> DictFolder:
    """Return the dict folder of ``DIR`` or ``download``, as in ``wordnet:DIR``.

    ``DIR`` may hold the files itself, or in a folder ``dict`` (Princeton's archives), or in a
    folder or archive ``wordnet`` (NLTK's data). ``download`` asks NLTK to fetch WordNet 3.0 into
    the cache folder, once.

    Raises:
        UsageError: the folder is not there or holds no WordNet.
        VloodError: the download failed.
    """
    if place == "download":
        return _downloaded(default_cache_folder() / "nltk_data")
    folder = Path(place).expanduser()
    try:
        found = _dict_folder(folder)
        there = folder.exists()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"corpus wordnet:{place}: cannot be read "
            f"({getattr(error, 'strerror', None) or error}); {_INSTEAD}"
        ) from error
    if found is None:
        lack = f"lacks one of {', '.join(_NEEDED)}" if there else "does not exist"
        raise UsageError(f"corpus wordnet:{place}: {lack}; {_INSTEAD}")
    return found


def read_wordnet(place: str, *, all_lemmas: bool = False) -> list[Entry]:
    """Read the nouns and adjectives of a WordNet, by the name of their lexicographer file.

    That is NegLabel's selection (Jiang et al., ICLR 2024): one term a synset, its first lemma;
    ``all_lemmas`` takes every lemma. NegLabel itself leaves out ``noun.animal`` and ``noun.food``.

    Raises:
        UsageError: nltk is missing, or the folder holds no WordNet that can be read.
        VloodError: the download failed.
    """
    reader = _open_reader(place)
    by_file: dict[str, list[Entry]] = {}
    with _told(place):
        for part, letter in (("noun", "n"), ("adj", "a")):
            for synset in reader.all_eng_synsets(letter):
                names = tuple(name.replace("_", " ") for name in synset.lemma_names())
                listed = by_file.setdefault(synset.lexname(), [])
                for name in names if all_lemmas else names[:1]:
                    others = tuple(other for other in names if other != name)
                    listed.append(Entry(name, part, synset.lexname(), others))
    return [entry for lex_file in sorted(by_file) for entry in by_file[lex_file]]


class WordNetRelations:
    """What WordNet says of a noun: its synonyms, and all that is above or below it.

    Terms are looked up as they are, with spaces or hyphens; one that is not there is looked up by
    its base form ("dogs" is "dog"). Not for use by several threads at once.
    """

    def __init__(self, reader: Any, place: str) -> None:
        self._reader = reader
        self._place = place
        self._senses: dict[str, tuple[Any, ...]] = {}
        self._found: dict[tuple[str, str], frozenset[str]] = {}

    @classmethod
    def open(cls, place: str | Path) -> WordNetRelations:
        """Open ``DIR`` or ``download``, as in ``wordnet:DIR``.

        Raises:
            UsageError: nltk is missing, or the folder holds no WordNet that can be read.
            VloodError: the download failed.
        """
        return cls(_open_reader(str(place)), str(place))

    def lemmas(self, term: str) -> frozenset[str]:
        """Return every lower-case name of the term's noun senses, its own among them."""
        return frozenset(name for synset in self._of(term) for name in _names(synset))

    def hypernyms(self, term: str) -> frozenset[str]:
        """Return the lower-case names of everything above the term's noun senses."""
        return self._all(term, "above", _hypernyms)

    def hyponyms(self, term: str) -> frozenset[str]:
        """Return the lower-case names of everything below the term's noun senses."""
        return self._all(term, "below", _hyponyms)

    def related(self, term: str) -> frozenset[str]:
        """Return the names of all hypernyms and hyponyms of the term's noun senses.

        The closure is whole (a dog's holds "entity" and "pug") and counts instances.
        """
        return self.hypernyms(term) | self.hyponyms(term)

    def _all(self, term: str, side: str, step: Callable[[Any], list[Any]]) -> frozenset[str]:
        key = (term, side)
        if key not in self._found:
            with _told(self._place):
                found = _closure(self._of(term), step)
                self._found[key] = frozenset(name for synset in found for name in _names(synset))
        return self._found[key]

    def _of(self, term: str) -> tuple[Any, ...]:
        if term not in self._senses:
            with _told(self._place):
                self._senses[term] = self._look_up(" ".join(term.lower().split()))
        return self._senses[term]

    def _look_up(self, term: str) -> tuple[Any, ...]:
        inexact: tuple[Any, ...] = ()
        for name in dict.fromkeys((term.replace(" ", "_"), term.replace(" ", "-"))):
            # nltk adds the senses of base forms: "glasses" are no drinking glass.
            synsets = self._reader.synsets(name, "n") if name else ()
            exact = tuple(
                synset
                for synset in synsets
                if name in (each.lower() for each in synset.lemma_names())
            )
            if exact:
                return exact
            inexact = inexact or tuple(synsets)
        return inexact


def _closure(start: tuple[Any, ...], step: Callable[[Any], list[Any]]) -> list[Any]:
    seen: dict[Any, None] = {}
    waiting = [near for synset in start for near in step(synset)]
    while waiting:
        synset = waiting.pop()
        if synset not in seen:
            seen[synset] = None
            waiting.extend(step(synset))
    return list(seen)


def _hypernyms(synset: Any) -> list[Any]:
    return [*synset.hypernyms(), *synset.instance_hypernyms()]


def _hyponyms(synset: Any) -> list[Any]:
    return [*synset.hyponyms(), *synset.instance_hyponyms()]


def _names(synset: Any) -> Iterator[str]:
    return (name.replace("_", " ").lower() for name in synset.lemma_names())


def _open_reader(place: str) -> Any:
    """Return nltk's reader over the folder, which may lack what is not read here or is standard."""
    try:
        from nltk.corpus.reader.wordnet import WordNetCorpusReader
        from nltk.data import PathPointer
    except ImportError as error:
        raise UsageError(
            "corpus wordnet: the package nltk is not installed; "
            "run pip install 'vlood[wordnet]', or use imagenet21k"
        ) from error
    folder = find_wordnet(place)

    class Pointer(PathPointer):  # type: ignore[misc]
        """Stands for the folder; the reader opens files itself."""

        def open(self, encoding: str | None = None) -> Any:
            raise NotImplementedError

        def file_size(self) -> int:
            raise NotImplementedError

        def join(self, fileid: str) -> Any:
            raise NotImplementedError

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        """Reads whole files into memory: no handle stays open."""

        def open(self, file: str) -> io.TextIOWrapper:
            return io.TextIOWrapper(io.BytesIO(_content(folder, file)), "utf-8", newline="\n")

        def map_wn(self, version: str = "wordnet") -> None:
            """Skip the mapping between versions, which needs NLTK's own data."""

    with _told(place):
        # The second argument is a reader of other languages; None would bring a warning.
        return Reader(Pointer(), False)


def _content(folder: DictFolder, file: str) -> bytes:
    path = folder / file
    # Debian's folder has no lexnames, and verbs, adverbs and exceptions are not needed.
    if file == "lexnames" and not path.is_file():
        rows = (
            f"{number:02d}\t{name}\t{_CLASS_NUMBERS[name.split('.')[0]]}\n"
            for number, name in enumerate(LEX_FILES)
        )
        return "".join(rows).encode()
    if file not in _NEEDED and not path.is_file():
        return b""
    return path.read_bytes()


@contextlib.contextmanager
def _told(place: str) -> Iterator[None]:
    """Turn whatever nltk makes of files that are no WordNet into one sentence."""
    try:
        yield
    except (VloodError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UsageError(
            f"corpus wordnet:{place}: its files are not those of a Princeton WordNet ({reason}); "
            f"{_INSTEAD}"
        ) from error


def _dict_folder(folder: Path) -> DictFolder | None:
    places: list[DictFolder] = [folder, folder / "dict", folder / "wordnet"]
    archive = folder / "wordnet.zip"
    if archive.is_file() and zipfile.is_zipfile(archive):
        places.append(zipfile.Path(archive) / "wordnet")
    for place in places:
        if all((place / name).is_file() for name in _NEEDED):
            return place
    return None


def _downloaded(folder: Path) -> DictFolder:
    found = _dict_folder(folder / "corpora")
    if found is not None:
        return found
    try:
        # NLTK trusts no folder that others may write to.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _download(folder)
    except OSError as error:
        raise VloodError(
            f"corpus wordnet:download: {folder} cannot be written "
            f"({error.strerror or error}); set VLOOD_CACHE to a folder of yours"
        ) from error
    found = _dict_folder(folder / "corpora")
    if found is None:
        raise VloodError(
            f"corpus wordnet:download: what came into {folder} is no WordNet; "
            f"remove it and try again, or {_INSTEAD}"
        )
    return found


def _download(folder: Path) -> None:
    # A process of its own can be stopped whatever it waits for, and keeps nltk's talk to itself.
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _DOWNLOAD, str(folder)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VloodError(
            f"corpus wordnet:download: took more than {_DOWNLOAD_SECONDS} seconds; "
            f"try again, or {_INSTEAD}"
        ) from error
    if ended.returncode:
        raise VloodError(
            "corpus wordnet:download: WordNet cannot be fetched, is there a network? "
            f"Without one, {_INSTEAD}"
        )
