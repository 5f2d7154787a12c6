"""Negative labels from mining to a report, as a user meets them: banks, methods, explanations."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from .conftest import Many, Result, Vlood, at_terminal
from .test_bad_inputs import modes_are_obeyed, obey_permissions

WORLD = ("--model", "bundled", "--classes", "world")
FILES = ("README.md", "bank.json", "dropped.parquet", "embeddings.safetensors", "negatives.faiss",
         "negatives.parquet")  # fmt: skip
PUBLISHED = "the nice drum\nThis is a shiny photo\nthe nice flute\nthe nice drum\n"

Start = Callable[..., "subprocess.Popen[bytes]"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX terminals and signals")


@pytest.fixture(scope="session")
def mined(installed: Vlood, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("mined") / "bank"
    done = installed("mine", *WORLD, "-o", folder)
    assert done.code == 0, done.err
    return folder, done


@pytest.fixture(scope="session")
def bank(mined: tuple[Path, Result]) -> Path:
    return mined[0]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write embeddings of 4 classes, 60 words and 70 images: no model needed."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("arrays")
    classes, words = rng.normal(size=(4, 16)), rng.normal(size=(60, 16))
    images = np.concatenate([classes[np.arange(35) % 4], words[:35]])
    images += rng.normal(size=images.shape) * 0.4
    for name, rows in (("classes", classes), ("words", words), ("images", images)):
        np.save(folder / f"{name}.npy", rows.astype(np.float32))
    np.save(folder / "first.npy", images[:40].astype(np.float32))
    np.save(folder / "second.npy", images[40:].astype(np.float32))
    (folder / "classes.txt").write_text("ape\nbee\ncat\ndog\n")
    (folder / "words.txt").write_text("".join(f"word {number}\n" for number in range(60)))
    return folder


def array_side(arrays: Path) -> tuple[str | Path, ...]:
    return ("--class-embeddings", arrays / "classes.npy", "--negative-embeddings",
            arrays / "words.npy")  # fmt: skip


def terms_of(bank: Path) -> list[str]:
    return [str(term) for term in pq.read_table(bank / "negatives.parquet").column("term")]


# Mining.


def test_mine_writes_a_bank_and_one_object(mined: tuple[Path, Result]) -> None:
    folder, done = mined
    assert done.err == ""
    (facts,) = done.records
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    table = pq.read_table(folder / "negatives.parquet")
    assert table.column_names == [
        *("term", "part_of_speech", "lex_file", "closeness", "template", "source")
    ]
    assert facts["bank"] == str(folder)
    assert facts["negatives"] == len(table) <= facts["corpus_terms"] == 256
    assert (facts["classes"], facts["index"]) == (12, "flat")
    closeness = table.column("closeness").to_pylist()
    assert closeness == sorted(closeness)
    assert set(table.column("template").to_pylist()) == {"the nice {}"}
    held = load_file(folder / "embeddings.safetensors")
    assert held["features"].shape == (len(table), 128)
    assert sorted(held["permutation"].tolist()) == list(range(len(table)))
    assert "keyboard" not in terms_of(folder)


def test_a_bank_is_not_overwritten_unless_asked(
    many: Many, bank: Path, arrays: Path, tmp_path: Path
) -> None:
    before = (bank / "bank.json").read_bytes()
    own = tmp_path / "bank"
    command = ["mine", "--corpus", arrays / "words.npy", "--class-embeddings",
               arrays / "classes.npy", "-o", own]  # fmt: skip
    refused, first, second, third = many(
        ["mine", *WORLD, "-o", bank], command, [*command, "--overwrite", "--size", "7"], command
    )
    assert "--overwrite" in refused.sentence(2)
    assert (bank / "bank.json").read_bytes() == before
    assert (first.code, second.code) == (0, 0), second.err
    assert "--overwrite" in third.sentence(2)
    assert len(terms_of(own)) == 7


def test_classes_presets_sizes_and_kinds_of_words(many: Many, tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("id,word\n1,drum\n2,flute\n3,harp\n4,tuba\n")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "noun.artifact.txt").write_text("drum\nflute\nharp\ntuba\n")
    (lists / "noun.animal.txt").write_text("badger\n")
    (lists / "adj.all.txt").write_text("shiny\nloud\n")
    (tmp_path / "scripts.txt").write_text("барабан\n太鼓\nقطة\nдом\ndrum\n")
    out = {name: tmp_path / name for name in ("csv", "folder", "scripts", "pets", "csp")}
    # Two class lists, each preset, a share and a count, a column, a folder, scripts of all kinds.
    runs = many(
        ["mine", *WORLD, "--preset", "neglabel", "--keep", "0.5", "--corpus",
         f"{tmp_path / 'words.csv'}:word", "-o", out["csv"]],
        ["mine", *WORLD, "--preset", "openood-vlm", "--keep", "1", "--corpus", lists,
         "-o", out["folder"]],
        ["mine", *WORLD, "--size", "5", "--near-duplicates", "2", "--corpus",
         tmp_path / "scripts.txt", "-o", out["scripts"]],
        ["mine", "--model", "bundled", "--classes", "cats,dogs", "--size", "20", "--index", "none",
         "-o", out["pets"]],
        ["mine", *WORLD, "--preset", "csp", "--corpus", lists, "--exclude-lex", "noun.animal",
         "--keep", "0.5", "-o", out["csp"]],
    )  # fmt: skip
    for run in runs:
        assert run.code == 0, run.err
    assert len(terms_of(out["csv"])) == 2
    assert sorted(terms_of(out["folder"])) == ["drum", "flute", "harp", "loud", "shiny", "tuba"]
    parts = pq.read_table(out["folder"] / "negatives.parquet").to_pylist()
    assert {row["term"] for row in parts if row["part_of_speech"] == "adj"} == {"loud", "shiny"}
    assert {row["lex_file"] for row in parts} == {"noun.artifact", "adj.all"}
    assert sorted(terms_of(out["scripts"])) == sorted(["барабан", "太鼓", "قطة", "дом", "drum"])
    assert len(terms_of(out["pets"])) == 20
    assert not (out["pets"] / "negatives.faiss").exists()
    assert runs[3].records[0]["index"] is None
    assert json.loads((out["csp"] / "bank.json").read_text())["made"]["preset"] == "csp"


def test_embeddings_are_mined_and_scored_without_a_model(
    environment: dict[str, str], many: Many, arrays: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bank"
    code = (
        "import sys\n"
        f"sys.argv = ['vlood', 'mine', '--corpus', {str(arrays / 'words.npy')!r}, "
        f"'--class-embeddings', {str(arrays / 'classes.npy')!r}, '-o', {str(out)!r}]\n"
        "from vlood.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "big = ('torch', 'open_clip')\n"
        "sys.stderr.write(','.join(name for name in big if name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, check=True, timeout=60
    )
    assert done.stderr == b""
    assert json.loads(done.stdout)["negatives"] == 30
    side = ("--class-embeddings", arrays / "classes.npy", "--method", "neglabel")
    by_bank, by_rows, no_words, none, tanl = many(
        ["score", arrays / "images.npy", *side, "--negatives", out],
        ["score", arrays / "images.npy", *side, "--negative-embeddings", arrays / "words.npy"],
        ["score", arrays / "images.npy", *side, "--negatives", "bundled"],
        ["score", arrays / "images.npy", *side],
        ["score", arrays / "images.npy", *array_side(arrays), "--method", "tanl"],
    )
    for run in (by_bank, by_rows):
        assert (run.code, run.err) == (0, "")
        assert [one["path"] for one in run.records] == list(map(str, range(70)))
    scores = [one["score"] for one in by_rows.records]
    assert min(scores[:35]) > max(scores[35:])
    assert "need a model" in no_words.sentence(2)
    assert "--negative-embeddings" in none.sentence(2)
    assert "no model" in tanl.sentence(2)


# Scoring with negatives.


def test_neglabel_mines_once_and_says_so(vlood: Vlood, few: Path, tmp_path: Path) -> None:
    command = ("score", few, *WORLD, "--method", "neglabel", "--cache", tmp_path)
    first = vlood(*command)
    assert first.code == 0, first.err
    assert len(first.err.splitlines()) == 2
    assert "mining negatives from bundled" in first.err
    assert "kept for later runs" in first.err
    second = vlood(*command, "--negatives", "bundled")
    assert (second.code, second.err) == (0, "")
    assert second.out == first.out
    assert len(first.records) == 70
    assert {one["method"] for one in first.records} == {"neglabel"}


def test_explanations_name_negatives_in_every_format(
    vlood: Vlood, many: Many, environment: dict[str, str], few: Path, bank: Path, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("drum\nflute\nkeyboard\nharp\n")
    neglabel = ("--method", "neglabel", "--negatives", bank, "--explain", "--threshold", "0.5")
    out = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "parquet")}
    plain, lines, other, unused, *flat, listed = many(
        ["score", few, *WORLD],
        ["score", few, *WORLD, *neglabel],
        ["score", few, *WORLD, "--negatives", bank, "--explain"],
        ["score", few, *WORLD, "--negatives", bank],
        *(["score", few, *WORLD, *neglabel, "-o", path] for path in out.values()),
        ["score", few, *WORLD, "--method", "neglabel", "--negatives", words, "--explain"],
    )
    for run in (plain, lines, other, *flat):
        assert (run.code, run.err) == (0, "")
    terms = set(terms_of(bank))
    for record in lines.records:
        near = record["nearest_negatives"]
        assert len(near) == 5
        assert {each["term"] for each in near} <= terms
        cosines = [each["similarity"] for each in near]
        assert cosines == sorted(cosines, reverse=True)
        assert -1 <= cosines[-1] <= cosines[0] <= 1
        assert record["top_labels"][0]["label"] == record["label"]
        said = record["explanation"]
        if record["ood"]:
            assert said == f"not one of your 12 classes; nearest word: {near[0]['term']}"
        else:
            assert said.startswith(record["label"])
    assert len(lines.records) == 70
    # A method without negatives: they are named, and nothing else changes.
    for record, bare in zip(other.records, plain.records, strict=True):
        assert {name: record[name] for name in bare} == bare
        assert record["nearest_negatives"][0]["term"] in terms
        assert "nearest word outside them" in record["explanation"]
    assert unused.out == plain.out
    assert "mcm scores without them" in unused.err
    # Flat formats hold the same.
    with open(out["csv"], encoding="utf-8", newline="") as stream:
        rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    for row, record in zip(rows, lines.records, strict=True):
        assert row["explanation"] == record["explanation"]
        assert record["nearest_negatives"][0]["term"] in row["nearest_negatives"]
        assert float(row["score"]) == record["score"]
    table = pq.read_table(out["parquet"]).to_pylist()
    assert [row["explanation"] for row in table] == [one["explanation"] for one in lines.records]
    # The name of a class among a user's own words is left out, and said.
    assert listed.code == 0
    assert "keyboard" in listed.err
    assert {near["term"] for one in listed.records for near in one["nearest_negatives"]} == {
        *("drum", "flute", "harp")
    }
    shown = at_terminal(environment, ["score", few, *WORLD, *neglabel])
    assert "{" not in shown
    for record in lines.records[:3]:
        assert record["explanation"] in shown


# Streams.


def test_a_stream_in_two_parts_is_one_stream(many: Many, arrays: Path, tmp_path: Path) -> None:
    method = ("--method", "adaneg", "--batch-size", "10")
    whole, state = tmp_path / "whole.safetensors", tmp_path / "state.safetensors"

    def score(name: str, *more: str | Path) -> list[str | Path]:
        return ["score", arrays / name, *array_side(arrays), *method, *more]

    # Two parts of a stream have ids of their own: records are compared by their scores.
    one, first, second, fresh, other, nothing, nowhere, mcm, known = many(
        score("images.npy", "--state", whole),
        score("first.npy", "--state", state),
        score("second.npy", "--state", state),
        score("second.npy"),
        score("first.npy", "--state", state, "--set", "groups=2"),
        score("first.npy", "--state", arrays / "words.txt"),
        score("first.npy", "--state", tmp_path / "no" / "state.safetensors"),
        ["score", arrays / "first.npy", *array_side(arrays), "--state", state],
        score("first.npy", "--calibrate-on", arrays / "first.npy"),
    )
    for run in (one, first, second, fresh):
        assert (run.code, run.err) == (0, "")
    scores = [each["score"] for each in one.records]
    assert [each["score"] for each in first.records + second.records] == scores
    assert [each["score"] for each in fresh.records] != scores[40:]
    left, right = load_file(whole), load_file(state)
    assert sorted(left) == sorted(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
    assert "groups" in other.sentence(2)
    assert "state" in nothing.sentence(2)
    assert "does not exist" in nowhere.sentence(2)
    assert nowhere.out == ""
    assert "keeps no state" in mcm.sentence(2)
    assert "--threshold" in known.sentence(2)


def test_a_killed_stream_goes_on_to_the_same_bytes(
    vlood: Vlood, begin: Start, few: Path, bank: Path, tmp_path: Path
) -> None:
    common = ["score", few, *WORLD, "--method", "adaneg", "--negatives", bank, "--batch-size", "4"]
    common += ["--no-cache", "-q"]
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    wholes, states = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    assert vlood(*common, "-o", whole, "--state", wholes).code == 0
    partial = Path(f"{out}.partial")

    def lines() -> int:
        return partial.read_bytes().count(b"\n") if partial.exists() else 0

    process = begin([*common, "-o", out, "--state", states, "--resume"])
    while process.poll() is None and lines() < 20:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not out.exists(), "the run ended before it was killed"
    assert not states.exists()
    # Another beginning is another stream: what is finished does not go on from it.
    shutil.copy(wholes, tmp_path / "other.safetensors")
    refused = vlood(*common, "-o", out, "--state", tmp_path / "other.safetensors", "--resume")
    assert "--resume" in refused.sentence(2)
    done = vlood(*common, "-o", out, "--state", states, "--resume")
    assert (done.code, done.err) == (0, "")
    assert out.read_bytes() == whole.read_bytes()
    assert states.read_bytes() == wholes.read_bytes()


# Comparing.


def test_eval_marks_streams_and_leaves_them_out_of_all(
    many: Many, environment: dict[str, str], arrays: Path, tmp_path: Path
) -> None:
    sets = ("--id", arrays / "first.npy", "--ood", f"far:words={arrays / 'second.npy'}")
    common = ["eval", *sets, *array_side(arrays), "--resamples", "20"]
    named = [*common, "--method", "mcm,neglabel,adaneg"]
    report = tmp_path / "report"
    every, some, noted = many(
        [*common, "--method", "all"], [*named, "-o", report], ["methods", "--json"]
    )
    assert (every.code, some.code) == (0, 0), every.err + some.err
    marks = {row["name"]: row["stream"] for row in noted.records}
    assert (marks["adaneg"], marks["tanl"]) == ("order-dependent", "transductive")
    assert (marks["neglabel"], marks["mcm"]) == ("", "")
    compared = [row["method"] for row in every.records]
    assert {"mcm", "neglabel"} <= set(compared)
    assert not any(marks[name] for name in compared)
    assert [(row["method"], row["stream"]) for row in some.records] == [
        *(("mcm", ""), ("neglabel", ""), ("adaneg", "order-dependent"))
    ]
    assert all(0.5 < row["auroc"] <= 1 for row in some.records if row["method"] != "mcm")
    pictures = {path.name for path in report.glob("*.png")}
    assert {"roc-mcm.png", "roc-neglabel.png", "scores-mcm.png"} <= pictures
    assert any(name.startswith("roc-adaneg") for name in pictures)
    stored = json.loads((report / "results.json").read_text())
    assert "order-dependent" in json.dumps(stored)
    shown = at_terminal(environment, named)
    assert "adaneg * order-dependent" in shown
    assert "not to be compared" in shown
    listed = at_terminal(environment, ["methods"])
    assert "order-dependent" in listed
    assert "transductive" in listed
    assert "Eval compares neither" in listed


# Looking into banks, joining them, and other people's.


def test_banks_are_shown_searched_and_cleaned(
    many: Many, bank: Path, few: Path, tmp_path: Path
) -> None:
    terms = terms_of(bank)
    image = next(few.rglob("*.png"))
    clean = tmp_path / "clean"
    shown, same, listed, dropped, found, leaks, own, after = many(
        ["negatives", "show", bank],
        ["show", bank],
        ["negatives", "show", bank, "--terms"],
        ["negatives", "show", bank, "--dropped"],
        ["negatives", "search", bank, terms[3], image, "--template", "the nice {}", "--top", "3"],
        ["negatives", "leaks", bank, "--classes", f"{terms[0]},{terms[5]}", "-o", clean],
        ["negatives", "leaks", bank],
        ["negatives", "show", clean],
    )
    for run in (shown, same, listed, dropped, found, leaks, own, after):
        assert (run.code, run.err) == (0, "")
    assert shown.out == same.out
    (facts,) = shown.records
    assert (facts["negatives"], facts["model"], facts["index"]) == (len(terms), "bundled", "flat")
    assert facts["index recall@10"] == 1
    assert facts["first"] == terms[:10]
    assert [row["term"] for row in listed.records] == terms
    assert {row["reason"] for row in dropped.records} <= {
        *("exact", "lemma", "wordnet", "similarity", "near-duplicate")
    }
    by_text, by_image = found.records
    assert by_text["nearest"][0]["term"] == terms[3]
    assert by_text["nearest"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert by_image["query"] == str(image)
    assert len(by_image["nearest"]) == 3
    assert sorted(row["term"] for row in leaks.records) == sorted([terms[0], terms[5]])
    assert {row["reason"] for row in leaks.records} == {"exact"}
    assert own.out == ""
    assert after.records[0]["negatives"] == len(terms) - 2


def test_banks_are_merged_and_published_lists_go_in_and_out(
    many: Many, bank: Path, few: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(PUBLISHED)
    np.save(tmp_path / "list.npy", np.array(PUBLISHED.splitlines()))
    (tmp_path / "words.txt").write_text("harp\ntuba\nlute\nlyre\n")
    place = {name: tmp_path / name for name in ("txt", "npy", "once", "few", "both")}
    runs = many(
        ["import", "neglabel-txt", tmp_path / "list.txt", "-o", place["txt"]],
        ["negatives", "import", "cma-npy", tmp_path / "list.npy", "-o", place["npy"]],
        ["import", "neglabel-txt", tmp_path / "list.txt", "--dedup", "-o", place["once"]],
        ["export", place["txt"], "--format", "txt", "-o", tmp_path / "txt.out"],
        ["export", place["npy"], "-o", tmp_path / "npy.out"],
        ["export", place["once"], "--plain", "-o", tmp_path / "once.out"],
        ["mine", *WORLD, "--corpus", tmp_path / "words.txt", "-o", place["few"]],
        ["negatives", "merge", bank, place["few"], "-o", place["both"]],
        ["negatives", "search", place["both"], "harp", "--top", "1"],
        ["score", few, *WORLD, "--method", "neglabel", "--negatives", place["once"]],
    )
    for run in runs:
        assert (run.code, run.err) == (0, "")
    assert runs[0].records[0]["kept"] == 4
    assert (tmp_path / "txt.out").read_text() == PUBLISHED
    assert (tmp_path / "npy.out").read_text() == PUBLISHED
    assert (tmp_path / "once.out").read_text() == "drum\nshiny\nflute\n"
    assert terms_of(place["both"]) == terms_of(bank) + terms_of(place["few"])
    assert len(runs[-1].records) == 70
    again, one, mixed = many(
        ["export", bank, "-o", tmp_path / "txt.out"],
        ["negatives", "merge", bank, "-o", tmp_path / "new"],
        ["negatives", "merge", bank, place["txt"], "-o", tmp_path / "new"],
    )
    assert "--overwrite" in again.sentence(2)
    assert "two banks" in one.sentence(2)
    assert "one kind" in mixed.sentence(2)
    assert (tmp_path / "txt.out").read_text() == PUBLISHED


def test_corpora_are_listed_and_read(many: Many) -> None:
    listed, bundled, wrong = many(["corpora"], ["corpora", "bundled"], ["corpora", "nosuch"])
    assert {"imagenet21k", "bundled"} <= {row["name"] for row in listed.records}
    assert all(row["licence"] for row in listed.records)
    (facts,) = bundled.records
    assert (facts["terms"], facts["parts"]) == (256, {"noun": 256})
    assert "nosuch" in wrong.sentence(2)


# What can be wrong.


def test_words_and_options_that_cannot_be_mined(many: Many, tmp_path: Path) -> None:
    lists = {
        "empty": "\n \n",
        "leaks": "Keyboard\nhearts\n",
        "long": "drum\n" + " ".join(["word"] * 500) + "\n",
        "nul": "drum\nfl\0ute\n",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    out = tmp_path / "bank"
    cases: list[tuple[list[str], str]] = [
        (["--corpus", str(tmp_path / "empty.txt")], "empty.txt"),
        (["--corpus", str(tmp_path / "leaks.txt")], "collides with a class"),
        (["--corpus", str(tmp_path / "long.txt")], "line 2"),
        (["--corpus", str(tmp_path / "nul.txt")], "NUL"),
        (["--corpus", "nosuch"], "nosuch"),
        (["--size", "0"], "--size 0"),
        (["--size", "some"], "--size some"),
        (["--keep", "2"], "--keep 2"),
        (["--size", "9", "--keep", "0.1"], "--keep and --size"),
        (["--rule", "x"], "--rule x"),
        (["--index", "x"], "--index x"),
        (["--preset", "x"], "--preset x"),
        (["--leaks", "x"], "--leaks x"),
        (["--quantile", "3"], "--quantile 3"),
    ]
    runs = many(*(["mine", *WORLD, "-o", out, *options] for options, _ in cases))
    for run, (_, said) in zip(runs, cases, strict=True):
        assert said in run.sentence(2)
        assert run.out == ""
    assert not out.exists()


def test_negatives_that_do_not_fit(
    many: Many, few: Path, tiny: str, bank: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "no-bank"
    empty.mkdir()
    common = ["score", few, *WORLD, "--method", "neglabel", "--negatives"]
    cases: list[tuple[list[str | Path], str]] = [
        ([*common, bank, "--set", "groups=500"], "500 groups"),
        (["score", few, "--model", tiny, "--classes", "world", "--method", "neglabel",
          "--negatives", bank], "bundled"),
        (["score", few, "--model", "bundled", "--classes", "cats,dogs", "--method", "neglabel",
          "--negatives", bank], "other classes"),
        ([*common, tmp_path / "nowhere"], "--negatives"),
        ([*common, empty], "--negatives"),
        ([*common, bank, "--negative-embeddings", "x.npy"], "give one of them"),
        (["negatives", "search", bank, "drum", "--model", tiny], "bundled"),
        (["negatives", "show", empty], "vlood mine"),
        (["negatives", "leaks", tmp_path / "nowhere"], "nowhere"),
    ]  # fmt: skip
    runs = many(*(arguments for arguments, _ in cases))
    for run, (_, said) in zip(runs, cases, strict=True):
        assert said in run.sentence(2)
        assert run.out == ""


def test_damaged_banks_are_told(many: Many, few: Path, bank: Path, tmp_path: Path) -> None:
    for name in ("negatives.faiss", "negatives.parquet", "embeddings.safetensors", "bank.json"):
        damaged = tmp_path / name.partition(".")[2]
        shutil.copytree(bank, damaged)
        data = bytearray((damaged / name).read_bytes())
        data[len(data) // 2 :] = data[len(data) // 2 : -9]
        (damaged / name).write_bytes(bytes(data))
    runs = many(
        ["negatives", "search", tmp_path / "faiss", "drum"],
        *(["negatives", "show", tmp_path / name] for name in ("parquet", "safetensors", "json")),
        ["score", few, *WORLD, "--method", "neglabel", "--negatives", tmp_path / "parquet"],
    )
    for run, name in zip(runs, ("faiss", "parquet", "safetensors", "json", "parquet"), strict=True):
        assert str(tmp_path / name) in run.sentence(2)
        assert run.out == ""


def test_places_that_cannot_be_written(
    many: Many, bank: Path, arrays: Path, tmp_path: Path
) -> None:
    if not modes_are_obeyed(tmp_path):
        pytest.skip("this user may write everywhere, and the right to cannot be dropped")
    shut = tmp_path / "shut"
    shut.mkdir()
    shut.chmod(0o555)
    words = ("--corpus", arrays / "words.npy", "--class-embeddings", arrays / "classes.npy")
    stream = ("score", arrays / "first.npy", *array_side(arrays), "--method", "adaneg")
    commands: list[list[str | Path]] = [
        ["mine", *words, "-o", shut / "bank"],
        ["negatives", "merge", bank, bank, "-o", shut / "bank"],
        ["export", bank, "-o", shut / "words.txt"],
        [*stream, "--state", shut / "state.safetensors"],
    ]
    for run in many(*commands, preexec_fn=obey_permissions):
        assert str(shut) in run.sentence(1)
        assert run.out == ""
