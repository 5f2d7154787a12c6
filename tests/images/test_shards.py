"""Tar shards: members by offset, labels beside them, damage told."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from vlood.errors import ImageError, UsageError
from vlood.images.sources import ImageItem, find_images


def shard(path: Path, *members: tuple[str, bytes], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_shard_cut_within_a_header_is_told(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", ("a.jpg", b"x"), ("b.jpg", b"y"))
    path.write_bytes(path.read_bytes()[: 1024 + 100])
    first, last = items_of(path)
    assert first.read() == b"x"
    assert last.fault is not None
    assert "breaks off" in last.fault


def items_of(path: Path) -> list[ImageItem]:
    return list(find_images([str(path)]))


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_webdataset_samples(tmp_path, format):
    path = shard(
        tmp_path / "s.tar",
        ("000.jpg", b"first"),
        ("000.cls", b"3\n"),
        ("001.json", b'{"label": "tench", "other": [1]}'),
        ("001.JPG", b"second"),
        ("002.png", b"third"),
        ("002.txt", b"a caption"),
        ("003.left.jpg", b"left"),
        ("003.right.jpg", b"right"),
        ("003.cls", b"-1"),
        ("._004.jpg", b"resource fork"),
        format=format,
    )
    items = items_of(path)
    names = ["000.jpg", "001.JPG", "002.png", "003.left.jpg", "003.right.jpg"]
    assert [item.path for item in items] == [f"{path}/{name}" for name in names]
    assert [item.label for item in items] == ["3", "tench", None, None, None]
    assert [item.read() for item in items] == [b"first", b"second", b"third", b"left", b"right"]
    assert all(item.stat() is None for item in items)


def test_archived_folders_give_labels(tmp_path):
    path = shard(
        tmp_path / "s.tar", ("./cat/a.jpg", b"1"), ("./dog/x/b.jpg", b"2"), ("c.jpg", b"3")
    )
    items = items_of(path)
    assert [item.path.removeprefix(f"{path}/") for item in items] == [
        "cat/a.jpg",
        "dog/x/b.jpg",
        "c.jpg",
    ]
    assert [item.label for item in items] == ["cat", "x", None]


def test_long_names_and_many_members(tmp_path):
    members = [(f"{'d' * 120}/{index:05}.jpg", b"%d" % index) for index in range(500)]
    items = items_of(shard(tmp_path / "s.tar", *members, format=tarfile.PAX_FORMAT))
    assert [item.read() for item in items] == [data for _, data in members]


def test_bad_labels_are_no_labels(tmp_path):
    path = shard(tmp_path / "s.tar", ("0.jpg", b"x"), ("0.json", b"{broken"), ("0.cls", b"\xff"))
    assert [item.label for item in items_of(path)] == ["\N{REPLACEMENT CHARACTER}"]


def test_links_inside_are_unreadable_items(tmp_path):
    path = shard(tmp_path / "s.tar", ("a.jpg", b"1"))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
    first, second = items_of(path)
    assert first.read() == b"1"
    with pytest.raises(ImageError, match="link"):
        second.read()


def test_a_shard_cut_short_says_so(tmp_path):
    members = [(f"{index}.jpg", bytes([index]) * 3000) for index in range(9)]
    path = shard(tmp_path / "s.tar", *members)
    path.write_bytes(path.read_bytes()[:10_000])
    first, second, third, rest = items_of(path)
    assert [first.read(), second.read()] == [data for _, data in members[:2]]
    with pytest.raises(ImageError, match="ends before"):
        third.read()
    with pytest.raises(ImageError, match="breaks off"):
        rest.read()


def test_a_shard_that_vanishes_or_shrinks_later(tmp_path):
    path = shard(tmp_path / "s.tar", ("a.jpg", b"1" * 4000))
    (item,) = items_of(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match="ends before"):
        item.read()
    path.unlink()
    with pytest.raises(ImageError, match="does not exist"):
        item.read()


def test_empty_members_are_empty_images(tmp_path):
    (item,) = items_of(shard(tmp_path / "s.tar", ("a.jpg", b"")))
    with pytest.raises(ImageError, match="empty"):
        item.read()


def test_what_is_no_shard_is_refused(tmp_path):
    text = tmp_path / "t.tar"
    text.write_text("not a tar archive, although it is long enough to be read as one" * 20)
    with pytest.raises(UsageError, match="not an uncompressed tar"):
        find_images([str(text)])
    text.write_bytes(b"")
    with pytest.raises(UsageError, match="tar"):
        find_images([str(text)])
    with pytest.raises(UsageError, match="names no images"):
        find_images([str(shard(tmp_path / "n.tar", ("readme.md", b"x")))])
    packed = tmp_path / "p.tar.gz"
    packed.write_bytes(b"\x1f\x8b")
    with pytest.raises(UsageError, match="compressed"):
        find_images([str(packed)])


def test_several_shards_by_a_pattern(tmp_path):
    for index in (1, 0):
        shard(tmp_path / f"s-{index}.tar", (f"{index}.jpg", b"x"))
    items = list(find_images([str(tmp_path / "s-*.tar")]))
    assert [item.path.rpartition("/")[2] for item in items] == ["0.jpg", "1.jpg"]
