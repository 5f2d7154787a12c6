"""Inputs: what is found, in which order, under which label, and what is refused."""

from __future__ import annotations

import io
import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.errors import ImageError, UsageError
from vlood.images.sources import ImageItem, find_images, labelled_classes


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"bytes of " + name.encode())
    return root


def found(*inputs: object, **options: object) -> list[ImageItem]:
    return list(find_images([str(text) for text in inputs], **options))  # type: ignore[arg-type]


def relative(items: list[ImageItem], root: Path) -> list[str]:
    return [os.path.relpath(item.path, root) for item in items]


def test_a_folder_is_walked_sorted_and_by_extension(tmp_path):
    make(tmp_path, "b.JPG", "a.png", "notes.md", "c/z.webp", "c/y.Tiff", "b/x.avif", ".hidden.jpg")
    make(tmp_path, ".thumbnails/t.jpg", "a.txt", "noext")
    items = found(tmp_path)
    assert relative(items, tmp_path) == ["a.png", "b/x.avif", "b.JPG", "c/y.Tiff", "c/z.webp"]
    assert [item.label for item in items] == [None, "b", None, "c", "c"]
    assert items[0].read() == b"bytes of a.png"
    assert found(tmp_path) == items


def test_labels_are_the_folder_an_image_lies_in(tmp_path):
    make(tmp_path, "train/n01/a.jpg", "train/n02/deep/b.jpg")
    assert [item.label for item in found(tmp_path)] == ["n01", "deep"]
    assert [item.label for item in found(tmp_path / "train" / "n01")] == [None]


def test_inputs_keep_their_order_and_the_path_as_typed(tmp_path, monkeypatch):
    make(tmp_path, "b/1.jpg", "a/2.jpg", "odd.name")
    monkeypatch.chdir(tmp_path)
    items = found("./b/", "odd.name", "a", "a/2.jpg", "a/2.jpg")
    assert [item.path for item in items] == ["./b/1.jpg", "odd.name", "a/2.jpg"] + ["a/2.jpg"] * 2


def test_globs_are_sorted_and_literal_names_win(tmp_path, monkeypatch):
    make(tmp_path, "x2.jpg", "x1.jpg", "y.jpg", "d/x3.jpg", "[ab].jpg", "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert [item.path for item in found("x*.jpg")] == ["x1.jpg", "x2.jpg"]
    assert [item.path for item in found("**/x*.jpg")] == ["d/x3.jpg", "x1.jpg", "x2.jpg"]
    assert [item.path for item in found("[ab].jpg")] == ["[ab].jpg"]


@pytest.mark.parametrize("name", ["missing.jpg", "missing/", "none*.jpg", "http://x.org/a.jpg", ""])
def test_what_does_not_exist_is_named(name):
    with pytest.raises(UsageError) as caught:
        found(name)
    assert (name or "''") in str(caught.value)


def test_checks_happen_before_anything_is_yielded(tmp_path):
    make(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match=r"gone\.jpg"):
        find_images([str(tmp_path), "gone.jpg"])


def test_empty_folders_and_no_inputs_are_refused(tmp_path):
    make(tmp_path, "only/notes.md", "full/a.jpg")
    (tmp_path / "empty" / "nested").mkdir(parents=True)
    for name in ("empty", "only"):
        with pytest.raises(UsageError, match="holds no images"):
            found(tmp_path / name)
    assert len(found(tmp_path / "*")) == 1
    with pytest.raises(UsageError, match="no images were named"):
        found()


def test_linked_folders_are_followed_once(tmp_path):
    make(tmp_path, "real/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real" / "twice").symlink_to(tmp_path / "elsewhere")
    items = found(tmp_path / "real")
    assert relative(items, tmp_path) == ["real/a.jpg", "real/other/b.jpg"]


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    make(tmp_path, "x.jpg/inner.png")
    assert relative(found(tmp_path), tmp_path) == ["x.jpg/inner.png"]
    assert relative(found(tmp_path / "x.jpg"), tmp_path) == ["x.jpg/inner.png"]
    with pytest.raises(ImageError, match="folder"):
        ImageItem(str(tmp_path / "x.jpg")).read()


def test_unreadable_entries_of_a_folder_are_items(tmp_path, monkeypatch):
    make(tmp_path, "good.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    # A socket's address may not be longer than about a hundred bytes.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    reasons = {}
    for item in found(tmp_path):
        try:
            item.read()
        except ImageError as error:
            reasons[Path(item.path).name] = str(error)
    assert sorted(reasons) == ["broken.jpg", "empty.jpg", "pipe.jpg", "socket.jpg"]
    assert "link is broken" in reasons["broken.jpg"]
    assert "0 bytes" in reasons["empty.jpg"]
    assert "pipe" in reasons["pipe.jpg"]
    assert "socket" in reasons["socket.jpg"]


def test_named_pipes_and_broken_links_are_items_too(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.jpg").symlink_to("nowhere")
    for name in ("pipe", "link.jpg"):
        (item,) = found(tmp_path / name)
        with pytest.raises(ImageError):
            item.read()
        assert item.stat() is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_files_and_folders(tmp_path):
    make(tmp_path, "a.jpg", "locked/b.jpg")
    (tmp_path / "a.jpg").chmod(0)
    (tmp_path / "locked").chmod(0)
    try:
        items = found(tmp_path)
        assert len(items) == 2
        for item in items:
            with pytest.raises(ImageError, match="denied"):
                item.read()
    finally:
        (tmp_path / "locked").chmod(0o755)


def test_a_folder_that_cannot_be_listed_is_an_item(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    items = found(tmp_path)
    assert relative(items, tmp_path) == ["a.jpg", "locked"]
    with pytest.raises(ImageError, match="cannot be listed"):
        items[1].read()


def test_a_file_without_permission_says_so(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg")

    def refusing(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(ImageError, match="permission denied"):
        ImageItem(str(tmp_path / "a.jpg")).read()


@pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
def test_odd_names_survive(tmp_path):
    raw = os.fsencode(tmp_path)
    names = [b"caf\xe9.jpg", b"line\nbreak.jpg", b" space .jpg", "日本.jpg".encode()]
    for name in names:
        with open(os.path.join(raw, name), "wb") as file:
            file.write(name)
    items = found(tmp_path)
    assert {os.fsencode(item.path) for item in items} == {os.path.join(raw, n) for n in names}
    for item in items:
        assert item.read() == os.path.basename(os.fsencode(item.path))
        assert item.stat() is not None
    listed = b"\0".join(os.path.join(raw, name) for name in names)
    again = found("-", stdin=io.BytesIO(listed), null_separated=True)
    assert {item.path for item in again} == {item.path for item in items}


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg", "x" * 5000 + ".jpg"])
def test_impossible_names_are_unreadable_items(name):
    item = ImageItem(name)
    with pytest.raises(ImageError):
        item.read()
    assert item.stat() is None


def test_stat_is_that_of_the_file(tmp_path):
    make(tmp_path, "a.jpg")
    state = ImageItem(str(tmp_path / "a.jpg")).stat()
    assert state is not None
    assert state.st_size == len(b"bytes of a.jpg")
    assert ImageItem("x", fault="bad").stat() is None
    assert ImageItem("x", shard=str(tmp_path / "a.jpg")).stat() is None


def test_labelled_classes_are_the_sub_folders_with_images(tmp_path):
    make(tmp_path, "b/1.jpg", "a_b/deep/1.png", "none/readme.md", ".hidden/1.jpg", "top.jpg")
    (tmp_path / "empty").mkdir()
    assert labelled_classes(tmp_path) == ["a_b", "b"]
    with pytest.raises(UsageError, match="cannot be listed"):
        labelled_classes(tmp_path / "missing")


def test_standard_input_lines_and_null_bytes(tmp_path):
    lines = io.BytesIO(b"a b.jpg\r\n\nc.jpg")
    assert [item.path for item in found("-", stdin=lines)] == ["a b.jpg", "c.jpg"]
    nulls = io.BytesIO(b"a\nb.jpg\0c.jpg\0")
    items = found("-", stdin=nulls, null_separated=True)
    assert [item.path for item in items] == ["a\nb.jpg", "c.jpg"]
    rooted = found("-", stdin=io.BytesIO(b"a.jpg\n/b.jpg\n"), root=tmp_path)
    assert [item.path for item in rooted] == [f"{tmp_path}/a.jpg", "/b.jpg"]


def test_standard_input_is_read_as_it_comes():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin, os.fdopen(writing, "wb", buffering=0) as feed:
        items = find_images(["-"], stdin=stdin)
        feed.write(b"first.jpg\n")
        assert next(items).path == "first.jpg"
        feed.write(b"second.jpg\n")
        assert next(items).path == "second.jpg"


def test_standard_input_misuse_is_refused():
    with pytest.raises(UsageError, match="no paths came"):
        found("-", stdin=io.BytesIO(b"\n"))
    with pytest.raises(UsageError, match="add -0"):
        found("-", stdin=io.BytesIO(b"a.jpg\0b.jpg\0"))
    with pytest.raises(UsageError, match="once"):
        found("-", "-", stdin=io.BytesIO(b"a.jpg\n"))
    with pytest.raises(UsageError, match="none to read"):
        found("-")


_NAMES = st.lists(st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name))


@settings(max_examples=60, deadline=None)
@given(_NAMES.filter(bool))
def test_null_separated_names_come_back_whole(names):
    stream = io.BytesIO(b"\0".join(names) + b"\0")
    items = list(find_images(["-"], stdin=stream, null_separated=True))
    assert [os.fsencode(item.path) for item in items] == names


@pytest.mark.shared
def test_a_labelled_photo_set_comes_in_sorted_order(shared):
    folder = shared / "photos" / "id_imagenette" / "test"
    items = found(folder)
    expected = sorted(path for path in folder.rglob("*") if path.is_file())
    assert [item.path for item in items] == [str(path) for path in expected]
    assert [item.label for item in items] == [path.parent.name for path in expected]
    assert labelled_classes(folder) == sorted({path.parent.name for path in expected})
