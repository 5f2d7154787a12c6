"""Lists: text lines, OpenOOD's lists, CSV and JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.errors import ImageError, UsageError
from vlood.images.lists import parse_label, read_list, split_joined
from vlood.images.sources import find_images


def listed(path: Path, root: Path | None = None) -> list[tuple[str, str | None]]:
    """Return the paths, relative to the list's folder or the root, and the labels of a list."""
    base = f"{root or path.parent}/"
    items = find_images([str(path)], root=root)
    return [(item.path.removeprefix(base), item.label) for item in items]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_paths_and_labels_a_line(tmp_path):
    text = "a.jpg\nsub/b.png tench\n\nc.jpg golden retriever\nd.jpg 7\ne.jpg\tmud turtle\r\n"
    assert listed(write(tmp_path / "list.txt", text)) == [
        ("a.jpg", None),
        ("sub/b.png", "tench"),
        ("c.jpg", "golden retriever"),
        ("d.jpg", "7"),
        ("e.jpg", "mud turtle"),
    ]


def test_paths_with_spaces_are_settled_by_what_exists(tmp_path):
    for name in ("my cat.jpg", "my dog.jpg", "my"):
        write(tmp_path / name, "x")
    text = "my cat.jpg\nmy dog.jpg 3\nmy label\nother file.jpg\n"
    (tmp_path / "my").unlink()
    assert listed(write(tmp_path / "list.txt", text)) == [
        ("my cat.jpg", None),
        ("my dog.jpg", "3"),
        ("my", "label"),
        ("other", "file.jpg"),
    ]


def test_openood_lists_split_at_the_first_space(tmp_path):
    write(tmp_path / "images" / "my cat.jpg", "x")
    text = "cifar10/test/a.png 3\nfar/b.png -1\nmy cat.jpg 1\nm.png {'label': 4, 'soft': [0.5]}\n"
    path = write(tmp_path / "lists" / "test.txt", text)
    assert listed(path, tmp_path / "images") == [
        ("cifar10/test/a.png", "3"),
        ("far/b.png", None),
        ("my", "cat.jpg 1"),
        ("m.png", "4"),
    ]


def test_a_leading_slash_with_a_root_is_rejected(tmp_path):
    with pytest.raises(UsageError, match="starts with a slash"):
        find_images([str(write(tmp_path / "a.txt", "/abs.jpg 1\n"))], root=tmp_path)
    items = list(
        find_images([str(write(tmp_path / "b.txt", "a.jpg 1\n/abs.jpg 1\n"))], root=tmp_path)
    )
    with pytest.raises(ImageError, match="line 2 of"):
        items[1].read()


def test_joined_lists_are_read_one_after_the_other(tmp_path):
    one = write(tmp_path / "one" / "a.txt", "a.jpg 1\nb.jpg -1\n")
    two = write(tmp_path / "two" / "b.txt", "c.jpg {'label': 2}\n")
    images = tmp_path / "images"
    items = list(read_list(f"{one}///{two}", images))
    assert [(item.path, item.label) for item in items] == [
        (f"{images}/a.jpg", "1"),
        (f"{images}/b.jpg", None),
        (f"{images}/c.jpg", "2"),
    ]
    paths = [item.path for item in read_list(f"{one}///{two}", None)]
    assert paths == [f"{one.parent}/a.jpg", f"{one.parent}/b.jpg", f"{two.parent}/c.jpg"]
    with pytest.raises(UsageError, match=r"none\.txt is not a regular file"):
        list(read_list(f"{one}///{tmp_path}/none.txt", images))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.txt///b.csv///c.JSONL", ["a.txt", "b.csv", "c.JSONL"]),
        ("/x/a.txt////y/b.txt", ["/x/a.txt", "/y/b.txt"]),
        ("a.txt", ["a.txt"]),
        ("lists///a.txt", ["lists///a.txt"]),
        ("a.txt///", ["a.txt///"]),
        ("", [""]),
    ],
)
def test_only_lists_are_taken_apart(text, parts):
    assert split_joined(text) == parts


def test_absolute_and_current_folder_paths(tmp_path, monkeypatch):
    write(tmp_path / "here" / "x.jpg", "x")
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "lists" / "l.txt", f"here/x.jpg 1\n{tmp_path}/abs.jpg\nnone.jpg\n")
    paths = [item.path for item in find_images([str(path)])]
    assert paths == ["here/x.jpg", f"{tmp_path}/abs.jpg", f"{tmp_path}/lists/none.jpg"]


def test_a_byte_order_mark_and_other_encodings(tmp_path):
    assert listed(write(tmp_path / "a.txt", b"\xef\xbb\xbfa.jpg 1\n")) == [("a.jpg", "1")]
    (name, _), *_ = listed(write(tmp_path / "b.txt", b"caf\xe9.jpg\n"))
    assert name == "caf\udce9.jpg"


def test_csv_needs_a_path_column(tmp_path):
    text = 'label,path\ntench,a.jpg\n,"b, c.jpg"\n-1,"line\nbreak.jpg"\n'
    assert listed(write(tmp_path / "a.csv", text)) == [
        ("a.jpg", "tench"),
        ("b, c.jpg", None),
        ("line\nbreak.jpg", None),
    ]
    with pytest.raises(UsageError, match="column named path; it has file, label"):
        find_images([str(write(tmp_path / "b.csv", "file,label\na.jpg,1\n"))])


def test_json_lines_need_a_path(tmp_path):
    rows = [{"path": "a.jpg", "label": 3}, {"path": "b.jpg", "score": 0.5}, {"label": "x"}]
    text = "\n".join(json.dumps(row) for row in rows) + "\nnot json\n[1]\n"
    path = write(tmp_path / "a.jsonl", text)
    assert listed(path)[:2] == [("a.jpg", "3"), ("b.jpg", None)]
    items = list(find_images([str(path)]))
    assert [item.path for item in items[2:]] == [f"{path}:{number}" for number in (3, 4, 5)]
    for item in items[2:]:
        with pytest.raises(ImageError, match="names no path"):
            item.read()


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name in ("a.txt", "a.csv", "a.jsonl") for text in ("", "\n\n")]
    + [("a.csv", "path\n"), ("a.csv", "path,label\n\n")],
)
def test_empty_lists_are_refused(tmp_path, name, text):
    with pytest.raises(UsageError, match=r"a\.(txt|csv|jsonl)"):
        find_images([str(write(tmp_path / name, text))])


def test_a_list_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UsageError, match="not a regular file"):
        find_images([str(tmp_path / "pipe.txt")])


def test_lists_are_read_lazily(tmp_path):
    path = write(tmp_path / "long.txt", "".join(f"{index}.jpg\n" for index in range(50_000)))
    items = find_images([str(path)])
    assert next(items).path == f"{tmp_path}/0.jpg"
    assert sum(1 for _ in items) == 49_999


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("3", "3"),
        ("-1", None),
        ("", None),
        (" tench ", "tench"),
        ("{'label': -1}", None),
        ("{'label': 'cat', 'x': 1}", "cat"),
        ("{'x': 1}", None),
        ("{broken", "{broken"),
        ("{1, 2}", "{1, 2}"),
        ("{[1]: 2}", "{[1]: 2}"),
        ("{" * 5000, "{" * 5000),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_labels(text, label):
    assert parse_label(text) == label


@given(st.text())
def test_any_text_is_a_label_or_none(text):
    label = parse_label(text)
    assert label is None or label == label.strip() != ""


@given(st.integers(min_value=0), st.dictionaries(st.text(max_size=5), st.integers(), max_size=3))
def test_mapping_labels_round_trip(number, fields):
    assert parse_label(repr({**fields, "label": number})) == str(number)
