"""`vlood bench` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Many, Vlood


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


def test_a_suite_without_its_sets_is_one_sentence(many: Many, tmp_path: Path) -> None:
    missing, nowhere, unnamed = many(
        ("bench", "traditional-four", "--root", tmp_path),
        ("bench", "traditional-four"),
        ("bench", "traditionalfour", "--root", tmp_path),
    )
    sentence = missing.sentence(1)
    assert "5 of the 5 sets of traditional-four are not whole below" in sentence
    assert "--check says how they must lie" in sentence
    assert "needs --root" in nowhere.sentence(2)
    assert "did you mean traditional-four?" in unnamed.sentence(2)
    assert missing.out == ""


def test_a_suite_of_ones_own_runs_and_shared_images_are_counted(
    many: Many, tiny: str, few: Path, tmp_path: Path
) -> None:
    """DTD's published lists have the same shape: images of one folder are on both sides."""
    pictures = sorted(path.name for path in (few / "class-0").iterdir())
    lists = {
        "known": (pictures[:20], 0),
        "near": (pictures[20:32], -1),
        "far": (pictures[28:40], -1),
    }
    lists["dotted"] = (pictures[16:26], -1)
    for name, (names, label) in lists.items():
        lines = [f"class-0/{each} {label}\n" for each in names]
        (tmp_path / f"{name}.txt").write_text("".join(lines))

    def suite(*others: str) -> Path:
        groups = {"known": "id", "far": "far"}
        sets = [
            {
                "name": name,
                "group": groups.get(name, "near"),
                "list": f"{name}.txt",
                "images": "images",
                "folder": ".",
                "rows": len(lists[name][0]),
                "layout": "ood" if name != "known" else "class-order",
                "licence": "free",
                "origin": "here",
            }
            for name in ("known", *others)
        ]
        path = tmp_path / f"{'-'.join(others)}.json"
        record = {"name": "own", "title": "Own", "protocol": "none", "class_count": 2, "sets": sets}
        path.write_text(json.dumps(record | {"classes": ["red", "blue"]}))
        return path

    (tmp_path / "images").symlink_to(few)
    run = ("--root", tmp_path, "--model", tiny, "--no-cache", "--resamples", "20")
    whole, refused, dropped, skipped, lacking = many(
        ("bench", suite("near", "far"), *run, "-o", tmp_path / "report"),
        ("bench", suite("dotted", "far"), *run),
        ("bench", suite("dotted", "far"), *run, "--overlap", "drop"),
        ("bench", suite("near", "far"), *run, "--skip-missing"),
        ("bench", suite("near", "far"), "--root", few, "--model", tiny),
    )
    assert whole.code == 0, whole.err
    assert [(one["ood"], one["group"], one["n_ood"]) for one in whole.records] == [
        *(("near", "near", 12), ("far", "far", 12)),
    ]
    assert whole.records[0]["id_accuracy"] is not None
    page = (tmp_path / "report" / "report.html").read_text()
    assert "free; here" in page
    sentence = refused.sentence(2)
    assert "4 of 10 images of dotted are also images of known (4 by path" in sentence
    assert dropped.code == 0, dropped.err
    assert dropped.records[0]["n_ood"] == 6
    assert "They are left out of dotted" in dropped.err
    assert skipped.code == 0
    assert "(known, near, far; of known, the list known.txt is not there" in lacking.sentence(1)


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
    assert "other shares 1 image with known" in done.err
