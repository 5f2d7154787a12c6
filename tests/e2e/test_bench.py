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


def test_settings_of_a_suite_are_compared_in_one_run(
    many: Many, tiny: str, few: Path, tmp_path: Path
) -> None:
    """Label noise, covariate shift and zero-shot shift, as COOkeD has them."""
    pictures = sorted(path.name for path in (few / "class-0").iterdir())
    lists = {"known": pictures[:8], "far": pictures[8:14], "train": pictures[14:30]}
    for name, names in lists.items():
        lines = [
            f"class-0/{each} {row % 2 if name != 'far' else -1}\n" for row, each in enumerate(names)
        ]
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    common = {"images": ".", "folder": "class-0", "licence": "free", "origin": "here"}
    sets = [
        {"name": name, "group": group, "list": f"{name}.txt", "rows": rows, "layout": layout}
        | common
        for name, group, rows, layout in (
            ("known", "id", 8, "class-order"),
            ("far", "far", 6, "ood"),
        )
    ]
    suite = {"name": "own", "title": "Own", "protocol": "none", "class_count": 2, "sets": sets}
    (tmp_path / "own.json").write_text(json.dumps(suite | {"classes": ["red", "blue"]}))
    (tmp_path / "class-0").symlink_to(few / "class-0")
    rows = [
        json.dumps({"path": str(few / "class-0" / each), "label": ("red", "blue")[row % 2]}) + "\n"
        for row, each in enumerate(lists["train"])
    ]
    (tmp_path / "train.jsonl").write_text("".join(rows))
    run = ("bench", tmp_path / "own.json", "--root", tmp_path, "--model", tiny, "--resamples", "0")
    learn = ("--train", tmp_path / "train.jsonl")
    done, unread, lacking, wrong = many(
        (*run, "--method", "mcm,knn", *learn, "--label-noise", "0,0.5", "--shift", "fog:2",
         "--name-shift", "0,1", "-o", tmp_path / "report", "-q"),
        (*run, "--method", "knn", *learn, "--name-shift", "1"),
        (*run, "--label-noise", "0.2"),
        (*run, *learn, "--method", "knn", "--label-noise", "0,2"),
    )  # fmt: skip
    assert done.code == 0, done.err
    named = ["mcm", "knn", "knn 50 % label noise", "mcm, 100 % of names gone"]
    assert list(dict.fromkeys(row["detector"] for row in done.records)) == named
    # The pictures in fog join the ID side.
    assert {(row["ood"], row["n_id"]) for row in done.records} >= {("far", 8), ("far", 16)}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "numbers stand for a share of the class names" in page
    assert "knn read no class names" in unread.sentence(2)
    assert "goes with --train" in lacking.sentence(2)
    assert "--label-noise 0,2: expected shares from 0 to 1" in wrong.sentence(2)
