"""A labelled folder cleaned by the installed command, and the commands that read its lists."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from .conftest import Many, write_pictures


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """Write two classes of 9 pictures; one picture of the first lies in the second as well."""
    folder = tmp_path / "my train"
    for number, name in enumerate(("cats", "dogs")):
        folder.mkdir(exist_ok=True)
        (write_pictures(tmp_path / name, 9, seed=number) / "class-0").rename(folder / name)
    shutil.copy(folder / "cats" / "00000.png", folder / "dogs" / "twin.png")
    (folder / "dogs" / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_folder_is_cleaned_and_its_lists_are_used(
    many: Many, tiny: str, train: Path, tmp_path: Path
) -> None:
    out, good = tmp_path / "out", tmp_path / "good.csv"
    model = ("--model", tiny)
    words = tmp_path / "words.txt"
    words.write_text("dogs\tyoung dog\ncats\tyoung cat\n")
    done, table, names, scored, again = many(
        ("clean", train, *model, "-o", out, "--keep-list", good),
        ("clean", train, *model, "--format", "table", "--by", "images"),
        ("clean", train, *model, "--by", "names", "--method", "mcm", "--classes", words),
        ("score", out / "keep.txt", *model, "--classes", "cats,dogs"),
        ("clean", good, *model, "--format", "csv"),
    )
    assert done.code == 3, done.err
    assert "broken.png" in done.err
    twins = [one for one in done.records if one.get("duplicate_of")]
    assert [(one["exact"], one["conflict"]) for one in twins] == [(True, True)]
    assert done.records[-1]["path"] == str(train / "dogs" / "broken.png")
    written = (out / "suspects.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == done.records
    assert "duplicate: 1" in table.out
    assert "images are suspect" in table.out
    assert names.code == 3, names.err
    assert len(names.records) > 1
    for one in names.records[:-1]:
        assert one["score"] is not None
        assert one["label"] in ("cats", "dogs")
    assert len(scored.records) == json.loads((out / "summary.json").read_text())["kept"]
    assert not any("error" in one for one in scored.records)
    assert again.code == 0, again.err
    assert again.out.startswith("path,label,problem,severity")
    assert not any(row["duplicate_of"] for row in csv.DictReader(again.out.splitlines()))


def test_what_cannot_be_cleaned_is_one_sentence(many: Many, tiny: str, train: Path) -> None:
    model = ("--model", tiny)
    flat = train / "cats"
    for done, part in zip(
        many(
            ("clean", flat, *model),
            ("clean", train, *model, "-o", train),
            ("clean", train, *model, "--classes", "cats,horses"),
            ("clean", train, *model, "--keep-list", train / "list.parquet"),
            ("clean", train, *model, "--negatives", "world"),
            ("clean", "-", *model),
            ("clean", train, *model, "--method", "gl-mcm"),
        ),
        (
            "no labels",
            "did not write",
            "no class for the label 'dogs'",
            "ends in .txt, .csv or .jsonl",
            "no part without --method",
            "no labels",
            "take mcm",
        ),
        strict=True,
    ):
        assert part in done.sentence(2)
