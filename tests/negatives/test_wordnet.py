from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vlood.errors import UsageError, VloodError
from vlood.negatives import wordnet
from vlood.negatives.corpora import read_corpus
from vlood.negatives.wordnet import LEX_FILES, WordNetRelations, read_wordnet

pytest.importorskip("nltk")

FIRST_LEMMAS = [
    *("able", "apt", "dog", "lunar", "worn"),
    *("entity", "animal", "dog", "pug", "bird", "crane"),
    *("thing", "crane", "pound", "pizza", "place", "Paris"),
]


def test_there_are_45_lexicographer_files() -> None:
    assert len(LEX_FILES) == len(set(LEX_FILES)) == 45
    assert (LEX_FILES[3], LEX_FILES[5], LEX_FILES[28]) == ("noun.Tops", "noun.animal", "noun.time")
    assert (LEX_FILES[29], LEX_FILES[43], LEX_FILES[44]) == ("verb.body", "verb.weather", "adj.ppl")


def test_a_term_a_synset_by_lexicographer_file(wordnet_folder: Path) -> None:
    entries = read_wordnet(str(wordnet_folder))
    assert [entry.term for entry in entries] == FIRST_LEMMAS
    assert [entry.lex_file for entry in entries] == sorted(entry.lex_file for entry in entries)
    by_term = {entry.term: entry for entry in entries}
    assert by_term["pug"] == ("pug", "noun", "noun.animal", ("pug-dog",))
    assert by_term["worn"] == ("worn", "adj", "adj.ppl", ())
    assert by_term["apt"].synonyms == ("running",)


def test_every_lemma(wordnet_folder: Path) -> None:
    terms = [entry.term for entry in read_wordnet(str(wordnet_folder), all_lemmas=True)]
    assert {"domestic dog", "Canis familiaris", "hoist", "running"} <= set(terms)
    assert len(terms) == 27


def test_a_corpus_of_it(wordnet_folder: Path) -> None:
    corpus = read_corpus(f"wordnet:{wordnet_folder}")
    assert len(corpus) == 15  # "crane" and "dog" occur twice
    dog = corpus.terms.index("dog")
    assert corpus.parts[dog] == "adj"  # adjective files come first by name
    assert corpus.synonyms[dog] == ("domestic dog", "canis familiaris")
    crane = corpus.terms.index("crane")
    assert corpus.synonyms[crane] == ("hoist",)
    assert "paris" in corpus.terms
    less = read_corpus(f"wordnet:{wordnet_folder}", exclude_lex=["noun.animal", "noun.food"])
    assert "pizza" not in less.terms
    assert less.report.excluded == 6
    assert less.lex_files[less.terms.index("crane")] == "noun.artifact"


def test_lexnames_of_the_folder_are_used(wordnet_folder: Path) -> None:
    rows = [f"{number:02d}\tnoun.file{number}\t1\n" for number in range(45)]
    (wordnet_folder / "lexnames").write_text("".join(rows))
    assert {entry.lex_file for entry in read_wordnet(str(wordnet_folder))} >= {"noun.file5"}


def test_exceptions_of_the_folder_are_used(wordnet_folder: Path) -> None:
    for part in ("verb", "adv"):
        (wordnet_folder / f"data.{part}").write_text("")
        (wordnet_folder / f"index.{part}").write_text("")
    (wordnet_folder / "noun.exc").write_text("doggen dog\n")
    assert "pug" in WordNetRelations.open(wordnet_folder).related("doggen")


@pytest.mark.parametrize("inside", ["dict", "wordnet"])
def test_a_folder_inside_is_found(wordnet_folder: Path, tmp_path: Path, inside: str) -> None:
    (tmp_path / "above").mkdir()
    wordnet_folder.rename(tmp_path / "above" / inside)
    assert len(read_wordnet(str(tmp_path / "above"))) == len(FIRST_LEMMAS)


def zipped(folder: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as written:
        for path in folder.iterdir():
            written.write(path, f"wordnet/{path.name}")


def test_nltks_archive_is_read(wordnet_folder: Path, tmp_path: Path) -> None:
    zipped(wordnet_folder, tmp_path / "corpora" / "wordnet.zip")
    assert len(read_wordnet(str(tmp_path / "corpora"))) == len(FIRST_LEMMAS)


def test_relations(wordnet_folder: Path) -> None:
    relations = WordNetRelations.open(wordnet_folder)
    assert "dog" in relations.lemmas("Domestic Dog")
    assert "pug-dog" in relations.lemmas("pug dog")  # written with a hyphen there
    assert relations.lemmas("dog") == {"dog", "domestic dog", "canis familiaris"}
    dog = {"animal", "animate being", "entity", "pug", "pug-dog"}
    assert relations.related("dog") == relations.related("dogs") == dog
    assert relations.hypernyms("dog") == {"animal", "animate being", "entity"}
    assert relations.hyponyms("dog") == {"pug", "pug-dog"}
    assert relations.related("crane") == {"bird", "animal", "animate being", "entity", "thing"}
    assert relations.related("place") == {"entity", "paris", "city of light"}
    assert relations.related("paris") == {"place", "entity"}
    assert {"pug", "hoist", "paris"} <= relations.related("entity")


@pytest.mark.parametrize("term", ["zebra", "able", "", " ", "a b c", "\0", "../dog", "x" * 500])
def test_what_is_no_noun_has_no_relations(wordnet_folder: Path, term: str) -> None:
    relations = WordNetRelations.open(wordnet_folder)
    assert relations.related(term) == relations.lemmas(term) == frozenset()


def test_folders_that_are_no_wordnet(wordnet_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist; give the folder of a WordNet"):
        read_wordnet(str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"lacks one of data\.noun, .*; give the folder"):
        read_wordnet(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="does not exist"):
        read_wordnet("a\0b")
    with pytest.raises(UsageError, match=r"cannot be read|does not exist"):
        read_wordnet("x" * 5000)
    (wordnet_folder / "data.noun").write_bytes(b"\x80\xff rubbish\n" * 20)
    with pytest.raises(UsageError, match="its files are not those of a Princeton WordNet"):
        read_wordnet(str(wordnet_folder))
    (wordnet_folder / "index.noun").write_text("rubbish\n")
    with pytest.raises(UsageError, match="its files are not those of a Princeton WordNet"):
        WordNetRelations.open(wordnet_folder)


def test_wrong_offsets_are_one_sentence(wordnet_folder: Path) -> None:
    index = wordnet_folder / "index.noun"
    index.write_text(index.read_text().replace("pug n 1 0 1 0 0", "pug n 1 0 1 0 9"))
    with pytest.warns(UserWarning, match="No WordNet synset"), pytest.raises(UsageError):
        WordNetRelations.open(wordnet_folder).related("pug")


def test_without_nltk(wordnet_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "nltk"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(UsageError, match=r"run pip install 'vlood\[wordnet\]'"):
        read_wordnet(str(wordnet_folder))


def test_a_download_is_made_once(
    wordnet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLOOD_CACHE", str(tmp_path / "cache"))
    asked = []

    def fetch(folder: Path) -> None:
        asked.append(folder)
        zipped(wordnet_folder, folder / "corpora" / "wordnet.zip")

    monkeypatch.setattr(wordnet, "_download", fetch)
    for _ in range(2):
        assert len(read_wordnet("download")) == len(FIRST_LEMMAS)
    assert asked == [tmp_path / "cache" / "nltk_data"]


def test_downloads_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLOOD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(wordnet, "_DOWNLOAD", "raise SystemExit(1)")
    with pytest.raises(VloodError, match=r"cannot be fetched.*wordnet:DIR, or use imagenet21k"):
        read_wordnet("download")
    monkeypatch.setattr(wordnet, "_DOWNLOAD", "")
    with pytest.raises(VloodError, match=r"is no WordNet"):
        read_wordnet("download")
    monkeypatch.setattr(wordnet, "_DOWNLOAD", "import time; time.sleep(60)")
    monkeypatch.setattr(wordnet, "_DOWNLOAD_SECONDS", 0.2)
    with pytest.raises(VloodError, match=r"took more than 0\.2 seconds"):
        read_wordnet("download")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLOOD_CACHE", str(tmp_path / "file"))
    with pytest.raises(VloodError, match=r"cannot be written.*set VLOOD_CACHE"):
        read_wordnet("download")


def test_the_room_imports_neither_nltk_nor_torch() -> None:
    code = (
        "import sys, vlood.negatives.corpora, vlood.negatives.published, vlood.cli.corpora;"
        "sys.exit(bool({'nltk', 'torch', 'timm', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
