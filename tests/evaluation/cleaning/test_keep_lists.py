"""Lists that vlood reads back, whatever the paths hold."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vlood.errors import UsageError
from vlood.evaluation.cleaning.keep_lists import check_list_name, list_bytes, unlisted
from vlood.images.sources import find_images

ODD = ("plain.jpg", "two words.jpg", " edge .jpg", "quo'te\".jpg", "größe.jpg", "nicht\udcff.jpg")


def written(folder: Path, names: tuple[str, ...], suffix: str) -> tuple[Path, list]:
    entries = []
    for name in names:
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(b"x")
        entries.append((path, "a class"))
    listed = folder / f"list{suffix}"
    listed.write_bytes(list_bytes(entries, suffix))
    return listed, entries


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_a_list_is_read_back(suffix: str, tmp_path: Path) -> None:
    names = ODD if suffix == ".txt" else (*ODD, "line\nbreak.jpg", "ta\tb.jpg")
    listed, entries = written(tmp_path, names, suffix)
    found = [(item.path, item.label) for item in find_images([str(listed)])]
    assert found == entries


def test_other_tools_get_the_paths_of_a_txt(tmp_path: Path) -> None:
    listed, entries = written(tmp_path, ODD, ".txt")
    command = f"cut -f1 '{listed}' | xargs -d '\\n' ls -1 --zero"
    done = subprocess.run(command, shell=True, capture_output=True, check=True)
    shown = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    assert sorted(shown) == sorted(path for path, _ in entries)


def test_a_txt_refuses_what_it_cannot_hold() -> None:
    entries = [("a.jpg", "x"), ("b\n.jpg", "x"), ("c.jpg", "y\tz")]
    assert unlisted(entries) == entries[1:]
    with pytest.raises(UsageError, match=r"tab or a line break.*\.csv or \.jsonl"):
        list_bytes(entries, ".txt")


def test_the_name_says_what_a_list_is(tmp_path: Path) -> None:
    check_list_name(tmp_path / "keep.CSV", "--keep-list")
    with pytest.raises(UsageError, match=r"ends in \.txt, \.csv or \.jsonl"):
        check_list_name(tmp_path / "keep", "--keep-list")
    with pytest.raises(UsageError, match="does not exist; make it"):
        check_list_name(tmp_path / "none" / "keep.txt", "--keep-list")
