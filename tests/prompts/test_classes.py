from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.prompts.classes import ClassName, label_lookup, read_classes
from vlood.prompts.library_files import library_names

WORDS = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1).map(str.strip)


def written(folder: Path, text: str) -> str:
    path = folder / "names.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_holds_one_class_a_line(tmp_path: Path) -> None:
    text = "\ufeff# animals\n\n  tench \nn01440764\tblack bear\r\n\t \nEnglish_springer\nété, vu\n"
    assert read_classes(written(tmp_path, text)) == (
        ClassName("tench", "tench"),
        ClassName("n01440764", "black bear"),
        ClassName("English_springer", "English springer"),
        ClassName("été, vu", "été, vu"),
    )


def test_ten_thousand_classes(tmp_path: Path) -> None:
    classes = read_classes(written(tmp_path, "\n".join(f"thing {n}" for n in range(10_000))))
    assert len(classes) == 10_000
    assert classes[-1].name == "thing 9999"


def test_one_class_in_a_file(tmp_path: Path) -> None:
    assert read_classes(written(tmp_path, "dog")) == (ClassName("dog", "dog"),)


@pytest.mark.parametrize("text", ["", "\n \n", "# only a comment\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="names no class"):
        read_classes(written(tmp_path, text))


def test_duplicates_are_named_with_their_lines(tmp_path: Path) -> None:
    text = "dog\ncat\n# x\ndog\nemu\tbig bird\ncat\ndog\n"
    with pytest.raises(UsageError, match=r"'dog' \(lines 1, 4, 7\), 'cat' \(lines 2, 6\) are"):
        read_classes(written(tmp_path, text))
    with pytest.raises(UsageError, match=r"'a' \(entries 1, 3\) is named more than once"):
        read_classes("a, b, a")


def test_many_duplicates_make_a_short_message(tmp_path: Path) -> None:
    names = [f"n{n}" for n in range(50)]
    with pytest.raises(UsageError, match="and 45 more are named") as refused:
        read_classes(written(tmp_path, "\n".join(names * 2)))
    assert len(str(refused.value)) < 400


def test_equal_prompts_of_two_names_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(read_classes(written(tmp_path, "crane\nbird\tcrane\n"))) == 2
    assert "'crane' and 'bird' have the same prompt name" in caplog.text


def test_a_name_without_words_is_refused(tmp_path: Path) -> None:
    for line in ("dog\t \t", "dog\t", "\tdog"):
        with pytest.raises(UsageError, match="line 2: one side of the tab is empty"):
            read_classes(written(tmp_path, f"cat\n{line}\n"))
    with pytest.raises(UsageError, match="'___' has no words"):
        read_classes("cat,___")


def test_a_comma_list() -> None:
    assert [each.name for each in read_classes(" dog , hot_dog,cat,")] == ["dog", "hot_dog", "cat"]
    assert read_classes("hot_dog,") == (ClassName("hot_dog", "hot dog"),)
    with pytest.raises(UsageError, match="names no class"):
        read_classes(" , ,")


def test_an_unknown_word_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"did you mean cifar10\?.*write 'cifar1O,'"):
        read_classes("cifar1O")
    with pytest.raises(UsageError, match="is no file, folder or library list"):
        read_classes("no/such/folder")
    with pytest.raises(UsageError, match="is empty"):
        read_classes("")


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.txt: cannot be read"):
        read_classes(str(tmp_path / "missing.txt"))
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        read_classes(str(picture))


def test_a_text_too_long_for_a_file_name_is_a_list() -> None:
    assert len(read_classes(",".join(f"class number {n}" for n in range(3000)))) == 3000
    with pytest.raises(UsageError, match="is no file"):
        read_classes("x" * 5000)


def test_a_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("dog\ncat\n",), daemon=True)
    writer.start()
    assert [each.name for each in read_classes(str(pipe))] == ["dog", "cat"]
    writer.join(timeout=5)


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    sources = pytest.importorskip("vlood.images.sources")
    from PIL import Image

    for name in ("hot_dog", "cat", "empty"):
        (tmp_path / name).mkdir()
    for name in ("hot_dog", "cat"):
        Image.new("RGB", (2, 2)).save(tmp_path / name / "one.png")
    assert sources.labelled_classes(tmp_path) == ["cat", "hot_dog"]
    assert read_classes(str(tmp_path)) == (
        ClassName("cat", "cat"),
        ClassName("hot_dog", "hot dog"),
    )
    with pytest.raises(UsageError, match="holds no folder with images"):
        read_classes(str(tmp_path / "empty"))


def test_a_library_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(read_classes("cifar10")) == 10


@pytest.mark.parametrize(
    ("name", "count"),
    [("cifar10", 10), ("cifar100", 100), ("imagenette", 10), ("imagenet-1k", 1000), ("world", 12)],
)
def test_the_library_lists_are_whole(
    name: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert name in library_names("classes")
    with caplog.at_level(logging.WARNING):
        classes = read_classes(name)
    assert len(classes) == len({each.name for each in classes}) == count
    assert not caplog.records


def test_imagenet_prompts_are_open_clips() -> None:
    metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    assert (
        tuple(each.prompt for each in read_classes("imagenet-1k")) == metadata.IMAGENET_CLASSNAMES
    )


def test_world_names_are_the_worlds() -> None:
    from vlood.images.world import ID_CLASSES

    assert tuple(each.name for each in read_classes("world")) == ID_CLASSES


def test_labels_are_found_however_they_are_written() -> None:
    lookup = label_lookup(read_classes("imagenette"))
    assert lookup["English springer"] == lookup["English_springer"] == lookup["1"] == 1
    assert "10" not in lookup
    assert "-1" not in lookup


def test_names_that_are_numbers_are_names() -> None:
    lookup = label_lookup([ClassName("5", "five"), ClassName("0", "zero")])
    assert lookup == {"5": 0, "five": 0, "0": 1, "zero": 1}


def test_a_shared_spelling_counts_only_as_a_name() -> None:
    lookup = label_lookup([ClassName("a b", "x"), ClassName("a_b", "x")])
    assert lookup["a b"] == 0
    assert lookup["a_b"] == 1
    assert "x" not in lookup


@given(st.lists(WORDS.filter(lambda w: w and not w.startswith("#") and w.strip("_ ")), unique=True))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("classes") / "names.txt"
    path.write_text("\n".join(names), encoding="utf-8")
    if not names:
        with pytest.raises(UsageError):
            read_classes(str(path))
        return
    assert [each.name for each in read_classes(str(path))] == names
