"""Find the negatives a detector is fitted with: given ones, a bank's, or mined once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from vlood.engines.mining import (
    Encoder,
    choose_model_corpus,
    mine_words,
    read_embedded_words,
)
from vlood.errors import UsageError, VloodError
from vlood.features.cache import BANKS_FOLDER
from vlood.features.embeddings import looks_like_embeddings
from vlood.negatives.bank import NegativeBank, check_classes, check_model
from vlood.negatives.bank_folder import describe_bank, is_bank, load_bank, save_bank
from vlood.negatives.corpora import WORDNET, corpus_names, read_corpus
from vlood.negatives.corpus import Corpus
from vlood.negatives.leaks import find_leaks
from vlood.negatives.mining import MiningSettings
from vlood.negatives.negative_features import NegativeFeatures
from vlood.negatives.prompting import Prompting, TextRows
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures

Announce = Callable[[str], None]


@dataclass(frozen=True)
class NegativesChoice:
    """What the user said of negatives.

    Attributes:
        given: a bank's folder, a word list, embeddings or the name of a corpus, or None.
        embeddings: files of embeddings, names in a .txt beside each.
        found: what was found for the choice before, or None.
    """

    given: str | None = None
    embeddings: tuple[Path, ...] = ()
    found: NegativeFeatures | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.given is not None and self.embeddings:
            raise UsageError("--negatives and --negative-embeddings: give one of them")

    @property
    def named(self) -> bool:
        """Say whether the user named any."""
        return self.given is not None or bool(self.embeddings)

    def class_templates(self) -> tuple[str, ...]:
        """Return the class templates a bank was mined with; none for anything else."""
        if self.given is None or not is_bank(Path(self.given)):
            return ()
        return tuple(describe_bank(Path(self.given)).get("class_templates", ()))


def find_negatives(
    choice: NegativesChoice,
    classes: Sequence[ClassName],
    ids: ClassFeatures,
    encoder: Encoder | None,
    prompting: Prompting,
    *,
    whole_corpus: bool = False,
    announce: Announce,
) -> NegativeFeatures:
    """Return the negatives for K classes.

    Args:
        choice: what the user said.
        classes: the classes.
        ids: their features.
        encoder: the model, or None where only arrays are at hand.
        prompting: the templates for words that are encoded here.
        whole_corpus: take every word of a corpus that collides with no class, instead of mining.
        announce: told of what is done without being asked for.

    Raises:
        UsageError: they are missing, damaged, or of another model or other classes.
    """
    if choice.found is not None:
        return choice.found
    if choice.embeddings:
        return _given_rows(choice.embeddings, classes, announce)
    if choice.given is None:
        if encoder is None:
            raise UsageError(
                "--negatives is missing: with embeddings alone there is no model to mine with; "
                "give --negative-embeddings FILE, or --negatives with a bank's folder"
            )
        name = choose_model_corpus(encoder.backbone.base_name)
        return _mined_once(
            name, classes, ids, encoder, prompting, whole_corpus, announce
        ).negative_features()
    path = Path(choice.given)
    if is_bank(path):
        return _from_bank(path, classes, encoder)
    if holds_embeddings(path):
        return _given_rows([path], classes, announce)
    if encoder is None:
        raise UsageError(
            f"--negatives {path}: words need a model to encode them; give embeddings with "
            "--negative-embeddings, or a bank's folder"
        )
    if choice.given in corpus_names() or choice.given.startswith(WORDNET):
        return _mined_once(
            choice.given, classes, ids, encoder, prompting, whole_corpus, announce
        ).negative_features()
    _check_words(choice.given)
    return _given_words(choice.given, classes, encoder, prompting, announce)


def _check_words(text: str) -> None:
    """Refuse what is no bank and holds no words either, in words that name both."""
    path = Path(text)
    if path.is_dir():
        if any(path.glob("*.*.txt")):
            return
        wrong = "is a folder, but of no bank and of no word lists"
    elif path.exists() or Path(text.rpartition(":")[0] or text).exists():
        return
    else:
        wrong = "does not exist"
    raise UsageError(
        f"--negatives {text}: {wrong}; give a bank made by vlood mine, a word list (.txt, .csv, "
        f".parquet), embeddings, or a corpus: {', '.join(corpus_names())}"
    )


def _from_bank(
    path: Path, classes: Sequence[ClassName], encoder: Encoder | None
) -> NegativeFeatures:
    where = f"--negatives {path}"
    bank = load_bank(path)
    check_classes(bank, classes, where)
    if encoder is not None:
        check_model(bank, encoder.backbone.identity(), where)
    return encoded(bank, encoder)


def encoded(bank: NegativeBank, encoder: Encoder | None) -> NegativeFeatures:
    """Return a bank's negatives, encoding its words where it has no embeddings yet.

    Raises:
        UsageError: it has none and there is no model.
    """
    if bank.features is not None or encoder is None:
        return bank.negative_features()
    rows = TextRows(bank.terms, bank.templates, encoder.encode)
    return bank.negative_features(rows[slice(None)])


def _given_rows(
    paths: Sequence[Path], classes: Sequence[ClassName], announce: Announce
) -> NegativeFeatures:
    corpus, rows = read_embedded_words(paths)
    kept = _without_class_names(corpus, classes, str(paths[0]), announce)
    return NegativeFeatures.of([corpus.terms[row] for row in kept], rows[slice(None)][kept])


def _given_words(
    text: str,
    classes: Sequence[ClassName],
    encoder: Encoder,
    prompting: Prompting,
    announce: Announce,
) -> NegativeFeatures:
    """Encode a word list as it is: whoever wrote it has chosen."""
    corpus = read_corpus(text)
    kept = _without_class_names(corpus, classes, text, announce)
    terms = [corpus.terms[row] for row in kept]
    templates = [prompting.of_part(corpus.parts[row]) for row in kept]
    rows = TextRows(terms, templates, encoder.encode)
    return NegativeFeatures.of(terms, rows[slice(None)])


def _without_class_names(
    corpus: Corpus, classes: Sequence[ClassName], where: str, announce: Announce
) -> list[int]:
    """Return the rows of words that are no class's name: those would call its own images OOD."""
    leaks = find_leaks(corpus.terms, corpus.synonyms, classes, reasons=("exact", "lemma"))
    if leaks:
        announce(
            f"--negatives {where}: {len(leaks)} of {len(corpus)} are names of classes "
            f"({leaks[0].term}, for one) and are left out"
        )
    leaking = {leak.row for leak in leaks}
    kept = [row for row in range(len(corpus)) if row not in leaking]
    if not kept:
        raise UsageError(
            f"--negatives {where}: every word is the name of a class; give words for what the "
            "classes are not"
        )
    return kept


def _mined_once(
    name: str,
    classes: Sequence[ClassName],
    ids: ClassFeatures,
    encoder: Encoder,
    prompting: Prompting,
    whole_corpus: bool,
    announce: Announce,
) -> NegativeBank:
    """Mine from a corpus, or return what an earlier run mined for the same classes and model."""
    corpus = read_corpus(name)
    settings = MiningSettings()
    if whole_corpus:
        settings = replace(settings, keep=1.0, near_duplicate=None)
    place = None
    if encoder.cache is not None:
        key = {
            "model": encoder.backbone.identity(),
            "classes": [[each.name, each.prompt] for each in classes],
            "class features": blake2b(ids.features.tobytes()).hexdigest(),
            "corpus": corpus.sha256(),
            "prompting": asdict(prompting),
            "settings": asdict(settings),
        }
        text = json.dumps(key, sort_keys=True)
        digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        place = encoder.cache.folder / BANKS_FOLDER / digest
        if is_bank(place):
            try:
                return load_bank(place)
            except UsageError:
                announce(f"{place}: the negatives kept from an earlier run are damaged")
    announce(f"mining negatives from {name} ({len(corpus):,} words) for {len(classes)} classes")
    bank = mine_words(corpus, classes, prompting, settings, encoder, ids=ids)
    announce(f"{len(bank):,} negatives mined" + ("" if place is None else ", kept for later runs"))
    if place is not None:
        try:
            save_bank(place, bank)
        except VloodError as error:
            announce(f"the mined negatives cannot be kept ({error})")
    return bank


def holds_embeddings(path: Path) -> bool:
    """Tell a path of embeddings from one of words: a Parquet file may be either."""
    if not looks_like_embeddings(path):
        return False
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return True
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return "embedding" in pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return False
