from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vlood.cli.app import app
from vlood.errors import UsageError, VloodError
from vlood.negatives.cleaning import clean_term, is_usable
from vlood.negatives.corpora import all_infos, corpus_names, describe, read_corpus
from vlood.negatives.corpus import Corpus, Entry, build_corpus, join
from vlood.negatives.term_files import write_corpus


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def neglabel(tmp_path: Path) -> Path:
    folder = tmp_path / "neglabel"
    written(folder / "noun.act.txt", 'running\n"walking\npound1\n')
    written(folder / "adj.all.txt", "[aqueous\nrunning\n")
    written(folder / "noun.Tops.txt", "entity\npound\n")
    return folder


def test_a_text_list(tmp_path: Path) -> None:
    text = "\ufeff# words\nDog\r\n\nhot_dog\tnoun\nred\tADJ\n犬\n"
    corpus = read_corpus(written(tmp_path / "words.txt", text))
    assert corpus.terms == ("dog", "hot dog", "red", "犬")
    assert corpus.parts == ("", "noun", "adj", "")
    assert set(corpus.lex_files) == {""}
    assert set(corpus.sources) == {corpus.name}
    assert corpus.report.changed_examples == (("Dog", "dog"), ("hot_dog", "hot dog"))


def test_a_file_named_as_wordnets(neglabel: Path) -> None:
    corpus = read_corpus(str(neglabel / "noun.act.txt"))
    assert corpus.terms == ("running", "walking", "pound")
    assert set(corpus.parts) == {"noun"}
    assert set(corpus.lex_files) == {"noun.act"}


def test_a_folder_is_read_in_sorted_order(neglabel: Path) -> None:
    corpus = read_corpus(str(neglabel))
    assert corpus.terms == ("aqueous", "running", "entity", "pound", "walking")
    assert corpus.parts == ("adj", "adj", "noun", "noun", "noun")
    assert corpus.lex_files == ("adj.all", "adj.all", "noun.Tops", "noun.Tops", "noun.act")
    assert (corpus.report.read, corpus.report.duplicates, corpus.report.changed) == (7, 2, 3)
    assert corpus.report.duplicate_examples == ("running", "pound")


def test_raw_terms_are_kept(neglabel: Path) -> None:
    corpus = read_corpus(str(neglabel), raw=True)
    assert corpus.terms == ("[aqueous", "running", "entity", "pound", '"walking', "pound1")
    assert corpus.report.changed == 0


def test_lexicographer_files_are_left_out(neglabel: Path) -> None:
    corpus = read_corpus(str(neglabel), exclude_lex=["ADJ.all", "noun.animal"])
    assert corpus.terms == ("entity", "pound", "running", "walking")
    assert corpus.report.excluded == 2
    with pytest.raises(UsageError, match=r"no lexicographer file noun\.acts.*there are adj\.all, "):
        read_corpus(str(neglabel), exclude_lex=["noun.acts"])
    with pytest.raises(UsageError, match=r"no usable term without adj\.all, noun\.Tops, noun\.act"):
        read_corpus(str(neglabel), exclude_lex=["adj.all", "noun.act", "noun.tops"])
    with pytest.raises(UsageError, match="has no lexicographer files"):
        read_corpus("bundled", exclude_lex=["noun.act"])


def test_other_files_of_a_folder_are_named(
    neglabel: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(neglabel / "readme.txt", "not a list")
    assert len(read_corpus(str(neglabel))) == 5
    assert "left out readme.txt" in caplog.text


def test_tables(tmp_path: Path) -> None:
    csv = written(
        tmp_path / "t.csv", 'id,word,part_of_speech\n1,"Dog, hot",noun\n2,,\n3,red,a\n4,x,\n'
    )
    corpus = read_corpus(csv)
    assert corpus.terms == ("dog, hot", "red", "x")
    assert corpus.parts == ("noun", "adj", "")
    assert read_corpus(f"{csv}:id").terms == ("1", "2", "3", "4")
    table = pa.table({"n": [1, 2, 3], "name": ["Dog", None, "red"], "cat": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_corpus(str(tmp_path / "t.parquet")).terms == ("dog", "red")
    assert read_corpus(f"{tmp_path / 't.parquet'}:cat").terms == ("a", "b", "c")
    with pytest.raises(UsageError, match="the column 'n' holds int values, not text"):
        read_corpus(f"{tmp_path / 't.parquet'}:n")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(UsageError, match=r"no column named 'term'; there are '(id|n)', '"):
            read_corpus(f"{tmp_path / name}:term")
    with pytest.raises(UsageError, match="no column named term, word, name; there are 'a'"):
        read_corpus(written(tmp_path / "a.csv", "a\nb\n"))


def test_a_file_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    text = written(tmp_path / "words.csv:txt", "dog\n")
    assert read_corpus(text).terms == ("dog",)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"", "holds no usable term"),
        ("a.txt", b"# one\n\n  # two\n", "holds no usable term"),
        ("a.txt", b"[\n___\n", "holds no usable term"),
        ("a.txt", b"dog\nc\0t\n", "line 2: has a NUL character"),
        ("a.txt", b"dog\xff\n", "is not UTF-8 text"),
        ("a.txt", b"dog\n\n" + b"word " * 500, "line 3: has 2499 characters.*running text"),
        ("a.txt", b"dog\tverb\n", "line 1: the part of speech is 'verb'; write noun or adj"),
        ("noun.act.txt", b"", "holds no usable term"),
        ("a.csv", b"", "has no column .* the file is empty"),
        ("a.csv", b"term\n", "holds no usable term"),
        ("a.csv", b"term\ndog\nc\0t\n", "line 3: has a NUL character"),
        ("a.csv", b"term\n\xff\n", "is not UTF-8 text"),
        ("a.csv", b"term\n" + b"x" * 201, "line 2: has 201 characters"),
        ("a.csv", b"term,part_of_speech\ndog,verb\n", "line 2: the part of speech is 'verb'"),
        ("a.csv", b'term\n"' + b"x" * 200_000, "is not CSV"),
        ("a.parquet", b"", "is no Parquet file"),
        ("a.parquet", b"PAR1 rubbish PAR1", "is no Parquet file"),
        ("a.npy", b"x", "is a file of embeddings"),
        ("a.safetensors", b"x", "is a file of embeddings"),
        ("a.jpg", b"\xff\xd8\xff\xe0\0", "is not UTF-8 text"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=told) as refused:
        read_corpus(str(tmp_path / name))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.parquet", "a.csv:term"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_corpus(str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.parquet", "folder"])
def test_shut_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_text("term\n")
    path.chmod(0)
    try:
        with pytest.raises(UsageError, match="cannot be read"):
            read_corpus(str(path))
    finally:
        path.chmod(0o700)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean imagenet21k\? It can be imagenet21k, bund"):
        read_corpus("imagenet-21k")
    with pytest.raises(UsageError, match="is no corpus, file or folder; give imagenet21k"):
        read_corpus("no/such/thing")
    with pytest.raises(UsageError, match="is empty; give"):
        read_corpus("  ")
    for text in ("x" * 5000, "a\0b"):
        with pytest.raises(UsageError, match="is no corpus"):
            read_corpus(text)
    for text in ("wordnet", "WordNet:"):
        with pytest.raises(UsageError, match="say which WordNet"):
            read_corpus(text)
    with pytest.raises(UsageError, match=r"no file named like noun\.act\.txt"):
        read_corpus(str(tmp_path))
    with pytest.raises(UsageError, match="--all-lemmas means nothing"):
        read_corpus("bundled", all_lemmas=True)


def test_the_bundled_names() -> None:
    from vlood.images.world import far_names, vocabulary

    corpus = read_corpus("bundled")
    assert corpus.terms == vocabulary()
    assert {"umbrella", *far_names().values()} <= set(corpus.terms)
    assert set(corpus.parts) == {"noun"}
    assert corpus.report.changed == corpus.report.duplicates == 0
    assert describe("bundled").terms == len(corpus)


def test_imagenet21k() -> None:
    pytest.importorskip("timm")
    corpus = read_corpus("imagenet21k")
    assert 18_000 < len(corpus) < 21_843 == corpus.report.read
    assert set(corpus.parts) == {"noun"}
    names = dict(zip(corpus.terms, corpus.synonyms, strict=True))
    assert "animate being" in names["animal"]
    assert "animate being" not in names
    every = read_corpus("imagenet21k", all_lemmas=True)
    assert len(every) > 36_000
    assert "animate being" in every.terms


def test_a_library_name_wins_over_a_folder(neglabel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    neglabel.rename(neglabel.parent / "bundled")
    monkeypatch.chdir(neglabel.parent)
    assert "umbrella" in read_corpus("bundled").terms
    assert len(read_corpus("./bundled")) == 5


def test_what_there_is() -> None:
    assert corpus_names() == ("imagenet21k", "bundled", "wordnet:download")
    assert [info.offline for info in all_infos()] == [True, True, True, False]
    assert describe("wordnet:/x").licence == describe("wordnet:download").licence
    assert describe("words.txt").what == "a word list of your own"


def small(name: str, *terms: str) -> Corpus:
    return build_corpus(name, [Entry(term, "noun", "noun.act", (f"{name} kin",)) for term in terms])


def test_the_digest_is_of_terms_and_parts_in_order() -> None:
    digest = hashlib.sha256("dog\0noun\nred\0adj\n犬\0\n".encode()).hexdigest()
    corpus = build_corpus("x", [Entry("dog", "noun"), Entry("red", "adj"), Entry("犬")])
    assert corpus.sha256() == digest
    others = [
        [Entry("red", "adj"), Entry("dog", "noun"), Entry("犬")],
        [Entry("dog", "adj"), Entry("red", "adj"), Entry("犬")],
        [Entry("dog", "noun"), Entry("red", "adj")],
    ]
    assert len({build_corpus("x", each).sha256() for each in others} | {corpus.sha256()}) == 4
    renamed = build_corpus("y", [Entry("Dog", "noun", "noun.x"), Entry("red", "adj"), Entry("犬")])
    assert renamed.sha256() == corpus.sha256()


def test_some_of_a_corpus() -> None:
    corpus = small("x", "a", "b", "c")
    assert corpus.only(np.array([True, False, True])).terms == ("a", "c")
    assert corpus.only([2, 0]).terms == ("c", "a")
    assert corpus.only(np.array([], np.int64)).terms == ()
    assert corpus.only([]).terms == ()
    with pytest.raises(ValueError, match="mask of shape"):
        corpus.only(np.array([True]))
    with pytest.raises(IndexError):
        corpus.only([3])


def test_corpora_are_joined() -> None:
    one, two = small("one", "a", "b"), small("two", "b", "c", "C")
    both = join([one, two])
    assert both.terms == ("a", "b", "c")
    assert both.sources == ("one", "one", "two")
    assert both.name == "one, two"
    assert both.synonyms[1] == ("one kin", "two kin")
    assert (both.report.read, both.report.duplicates) == (5, 2)
    assert both.report.duplicate_examples == ("b", "c")
    assert join([one]) is one
    with pytest.raises(UsageError, match="no corpus was given"):
        join([])


def test_a_corpus_of_names() -> None:
    corpus, kept = Corpus.of_names(["B", "a", "B"], ["x", "x", "y"])
    assert corpus.terms == ("B", "a")
    assert corpus.sources == ("x", "x")
    assert kept.tolist() == [0, 1]
    assert corpus.report.duplicates == 1


ENTRIES = st.lists(
    st.builds(
        Entry,
        st.text(max_size=20).filter(lambda term: "\0" not in term),
        st.sampled_from(["noun", "adj", ""]),
        st.sampled_from(["", "noun.act"]),
        st.lists(st.text("abc ", max_size=5), max_size=3).map(tuple),
    )
)


@given(ENTRIES, st.sampled_from([".txt", ".csv", ".parquet"]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], ending: str
) -> None:
    path = tmp_path_factory.mktemp("corpus") / f"words{ending}"
    if not any(is_usable(clean_term(entry.term)) for entry in entries):
        with pytest.raises(UsageError, match="no usable term"):
            build_corpus("x", entries)
        return
    corpus = build_corpus("x", entries)
    if ending == ".txt" and any(term.startswith("#") for term in corpus.terms):
        with pytest.raises(UsageError, match="would not be read again"):
            write_corpus(path, corpus)
        return
    write_corpus(path, corpus)
    again = read_corpus(str(path))
    assert (again.terms, again.parts) == (corpus.terms, corpus.parts)
    assert again.sha256() == corpus.sha256()
    if ending != ".txt":
        assert (again.lex_files, again.synonyms) == (corpus.lex_files, corpus.synonyms)


def test_raw_terms_are_written_where_they_can_be_read_again(tmp_path: Path) -> None:
    corpus = build_corpus("x", [Entry("#1\tx \ny"), Entry("Dog")], raw=True)
    with pytest.raises(UsageError, match=r"not be read again from a \.txt file; write \.csv"):
        write_corpus(tmp_path / "a.txt", corpus)
    for name in ("a.csv", "a.parquet"):
        write_corpus(tmp_path / name, corpus)
        assert read_corpus(str(tmp_path / name), raw=True).terms == corpus.terms


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["corpora", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_lists() -> None:
    infos = [json.loads(line) for line in run().splitlines()]
    assert [info["name"] for info in infos][:2] == ["imagenet21k", "bundled"]
    assert infos[1]["terms"] > 200


def test_the_command_reads_and_writes(neglabel: Path, tmp_path: Path) -> None:
    facts = json.loads(
        run(str(neglabel), "--exclude-lex", "noun.Tops", "-o", str(tmp_path / "out.csv"))
    )
    assert facts["terms"] == 4
    assert facts["parts"] == {"adj": 2, "noun": 2}
    assert facts["lex_files"] == {"adj.all": 2, "noun.act": 2}
    assert facts["first"] == ["aqueous", "running", "walking", "pound"]
    assert facts["cleaning"]["changed"] == 3
    again = read_corpus(str(tmp_path / "out.csv"))
    assert again.sha256() == facts["sha256"]
    assert again.lex_files[-1] == "noun.act"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--raw"], "name one, such as imagenet21k"),
        (["imagenet"], "did you mean imagenet21k?"),
        (["bundled", "-o", "x.jsonl"], "use one of .txt, .csv, .parquet"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    result = CliRunner().invoke(app, ["corpora", *arguments])
    assert result.exit_code == 2
    assert told in result.output + capfd.readouterr().err


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(VloodError, match=r"a\.csv: cannot be written \(No such file"):
        write_corpus(tmp_path / "missing" / "a.csv", small("x", "a"))
