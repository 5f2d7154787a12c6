"""`vlood bench` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Vlood


def test_what_is_missing_is_named_and_counted(installed: Vlood, tmp_path: Path) -> None:
    done = installed("bench", "openood-imagenet1k", "--check", "--root", tmp_path)
    assert done.code == 1
    assert [one["set"] for one in done.records] == [
        *("imagenet", "ssb_hard", "ninco", "inaturalist", "textures", "openimage_o"),
        *("imagenet_v2", "imagenet_c", "imagenet_r"),
    ]
    assert {one["state"] for one in done.records} == {"missing"}
    ninco = done.records[2]
    assert "benchmark_imglist/imagenet/test_ninco.txt" in ninco["problem"]
    assert (ninco["group"], ninco["expected"]) == ("near", 5879)
    assert done.err.splitlines() == [
        "vlood: 9 of the 9 sets of openood-imagenet1k are not whole",
    ]


def test_running_a_suite_is_told_to_come_later(vlood: Vlood) -> None:
    done = vlood("bench", "traditional-four", "--root", "data")
    sentence = done.sentence(2)
    assert "vlood eval --root data/images_largescale --classes imagenet-1k --id data/" in sentence
    assert "--ood far:inaturalist=data/benchmark_imglist/imagenet/" in sentence
    assert done.out == ""


def test_lists_are_built_where_the_check_looks_and_overlaps_are_told(
    vlood: Vlood, tmp_path: Path
) -> None:
    common = {"images": ".", "rows": 1, "layout": "ood", "licence": "free", "origin": "here"}
    names = {"known": "id", "other": "far"}
    sets = [
        {"name": name, "group": group, "list": f"{name}.txt", "folder": "pictures", **common}
        for name, group in names.items()
    ]
    suite = {"name": "own", "title": "Own", "protocol": "none", "class_count": 1, "sets": sets}
    (tmp_path / "own.json").write_text(json.dumps(suite))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").touch()
    place = ("--root", tmp_path, "--build-lists", tmp_path)
    done = vlood("bench", tmp_path / "own.json", *place, "--check")
    assert done.code == 0, done.err
    assert [one.get("state", one.get("list")) for one in done.records] == [
        *(str(tmp_path / f"{name}.txt") for name in names),
        *("present", "present"),
    ]
    assert "1 images of other are in known too" in done.err
