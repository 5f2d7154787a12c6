"""Images with captions: what is read, and what is left out for which reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from vlood.errors import UsageError
from vlood.images.captions import (
    BROKEN_OFF,
    DAMAGED,
    EMPTY,
    NO_CAPTION,
    NO_IMAGE,
    TOO_LONG,
    TWICE,
    Captioned,
    LeftOut,
    find_captions,
)

from .test_shards import shard


def read(*inputs: object, root: Path | None = None) -> tuple[dict[str, str], Counter[str]]:
    captions, reasons = {}, Counter()
    for one in find_captions([str(each) for each in inputs], root=root):
        if isinstance(one, Captioned):
            captions[one.item.path] = one.caption
        else:
            assert isinstance(one, LeftOut)
            reasons[one.reason] += 1
    return captions, reasons


def test_samples_of_a_shard(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "s.tar",
        ("./000.jpg", b"first"),
        ("./000.txt", b"  a red\n  thing "),
        ("001.json", b'{"caption": "from json", "width": 3}'),
        ("001.png", b"second"),
        ("002.txt", "caf\u00e9".encode()),
        ("002.json", b'{"caption": "the text goes first"}'),
        ("002.jpeg", b"third"),
    )
    captions, reasons = read(path)
    assert captions == {
        f"{path}/000.jpg": "a red thing",
        f"{path}/001.png": "from json",
        f"{path}/002.jpeg": "caf\u00e9",
    }
    assert not reasons
    found = [one.item.read() for one in find_captions([str(path)]) if isinstance(one, Captioned)]
    assert found == [b"first", b"second", b"third"]


def test_what_cannot_be_used_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "s.tar",
        ("a.jpg", b"1"),
        ("a.txt", b"good"),
        ("b.jpg", b"2"),  # no caption
        ("c.jpg", b"3"),
        ("c.txt", b" \n"),  # empty
        ("d.jpg", b"4"),
        ("d.txt", b"word " * 400),  # a page
        ("e.jpg", b"5"),
        ("e.json", b"{not json"),
        ("f.jpg", b"6"),
        ("f.json", b'{"caption": 7}'),
        ("g.jpg", b"7"),
        ("g.json", b'{"width": 7}'),
        ("h.txt", b"no image"),
        ("i.jpg", b"8"),
        ("i.txt", b"\xff\xfe"),
        ("a.jpg", b"9"),  # the key was there before
        ("a.txt", b"again"),
        ("j.jpg", b"10"),
        ("j.txt", b"twice beside itself"),
        ("j.jpg", b"11"),
        ("j.txt", b"second"),
        ("k.jpg", b"12"),
        ("k.txt", b"good too"),
    )
    captions, reasons = read(path)
    assert list(captions.values()) == ["good", "twice beside itself", "good too"]
    assert reasons == {NO_CAPTION: 2, EMPTY: 1, TOO_LONG: 1, DAMAGED: 3, NO_IMAGE: 1, TWICE: 2}


def test_a_shard_that_is_cut_short(tmp_path: Path) -> None:
    members = [(f"{n:03d}.{kind}", b"x" * 700) for n in range(9) for kind in ("jpg", "txt")]
    whole = shard(tmp_path / "whole.tar", *members)
    data = whole.read_bytes()
    assert len(read(whole)[0]) == 9
    for size in (512 * 3 * 6 + 100, 512 * 3 * 6 + 512 + 300, 512 * 3 * 5 + 800):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(data[:size])
        captions, reasons = read(cut)
        assert 2 <= len(captions) <= 3
        assert sum(reasons.values()) >= 1
        assert set(reasons) <= {BROKEN_OFF, DAMAGED, NO_CAPTION}


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('caption,path\n"one, two",x.jpg\n,y.jpg\nthree,\n')
    rows = [{"path": "z.jpg", "caption": "four"}, {"path": "w.jpg"}, [1]]
    lines = [*map(json.dumps, rows), "{broken"]
    (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n\n")
    captions, reasons = read(tmp_path)
    assert captions == {str(tmp_path / "x.jpg"): "one, two", str(tmp_path / "z.jpg"): "four"}
    assert reasons == {NO_CAPTION: 1, EMPTY: 1, NO_IMAGE: 2, DAMAGED: 1}
    captions, _ = read(tmp_path / "b.jsonl", root=tmp_path / "pictures")
    assert list(captions) == [str(tmp_path / "pictures" / "z.jpg")]


def test_ranges_of_shards(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        shard(tmp_path / f"s-{number:03d}.tar", ("a.jpg", b"1"), ("a.txt", b"of %d" % number))
    captions, reasons = read(f"{tmp_path}/s-{{008..010}}.tar")
    assert list(captions.values()) == ["of 8", "of 9", "of 10"]
    assert not reasons
    assert len(read(f"{tmp_path}/s-*.tar")[0]) == 3


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.tar", b"no tar at all" * 99, "is not an uncompressed tar archive"),
        ("a.tar.gz", b"", "is compressed; unpack it"),
        ("a.csv", b"path,label\nx,y\n", "needs a column named caption; it has path, label"),
        ("a.png", b"x", r"is not a \.tar shard, nor a \.csv or \.jsonl"),
        ("none/x", b"", "the folder holds no .tar, .csv or .jsonl"),
    ],
)
def test_wrong_inputs_are_refused_at_once(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(UsageError, match=said):
        find_captions([str(path.parent if "/" in name else path)])
    with pytest.raises(UsageError, match="does not exist"):
        find_captions([str(tmp_path / "nothing.tar")])
