"""Suites: the published ones are sound, own ones are checked, folders are compared with them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from vlood.errors import UsageError
from vlood.evaluation.suites import (
    Suite,
    build_lists,
    check_suite,
    find_overlaps,
    read_suite,
    suite_names,
)
from vlood.evaluation.suites.suite import suite_of
from vlood.images import world
from vlood.images.lists import read_list
from vlood.prompts.classes import read_classes

SET = {
    "name": "known",
    "group": "id",
    "list": "lists/known.txt",
    "images": "images",
    "folder": "known",
    "rows": 4,
    "layout": "class-names",
    "licence": "free",
    "origin": "here",
}
OTHER = {**SET, "name": "other", "group": "far", "list": "lists/other.txt", "folder": "other"}
SUITE: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "protocol": "nowhere",
    "classes": ["cat face", "anchor"],
    "class_count": 2,
    "sets": [{**OTHER, "layout": "ood", "rows": 3}, SET],
}


@pytest.fixture
def record() -> dict[str, Any]:
    return copy.deepcopy(SUITE)


@pytest.fixture
def suite() -> Suite:
    return suite_of(SUITE, "mine.json")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Lay out empty files as the suite `mine` has its images."""
    touch(tmp_path / "images/known/cat_face", "b.png", "a.jpg")
    touch(tmp_path / "images/known/anchor", "deep/c.png", "d.png", "notes.txt")
    touch(tmp_path / "images/other", "x.png", "y/z.png", "y/w.png", ".hidden.png")
    return tmp_path


def statuses(suite: Suite, root: Path) -> dict[str, tuple[str, str]]:
    return {one.set.name: (one.state, one.problem) for one in check_suite(suite, root)}


def test_the_published_suites_are_there() -> None:
    assert suite_names() == (
        *("ooddb-dtd", "ooddb-patternnet", "openood-cifar10", "openood-cifar100"),
        *("openood-imagenet1k", "openood-imagenet200", "traditional-four", "world"),
    )


@pytest.mark.parametrize("name", suite_names())
def test_a_published_suite_is_sound(name: str, tmp_path: Path) -> None:
    suite = read_suite(name)
    assert suite.name == name
    assert len(suite.group("id")) == 1
    assert suite.group("far")
    if isinstance(suite.classes, str):
        assert len(read_classes(suite.classes)) == suite.class_count
    assert all(one.rows is not None or "not verified" in " ".join(one.notes) for one in suite.sets)
    found = check_suite(suite, tmp_path)
    assert {one.state for one in found} == {"missing"}
    assert all(one.set.place in one.problem for one in found)
    built = build_lists(suite, tmp_path, tmp_path / "out")
    assert all(one.path is None and one.refused for one in built)
    assert not (tmp_path / "out").exists()


def test_the_protocols_are_those_of_the_papers() -> None:
    imagenet = read_suite("openood-imagenet1k")
    rows = {one.name: one.rows for one in imagenet.sets}
    assert rows == {
        **{"imagenet": 45_000, "ssb_hard": 49_000, "ninco": 5_879, "inaturalist": 10_000},
        **{"textures": 5_160, "openimage_o": 15_869},
        **{"imagenet_v2": 10_000, "imagenet_c": 10_000, "imagenet_r": 30_000},
    }
    assert [one.name for one in imagenet.group("near")] == ["ssb_hard", "ninco"]
    assert [one.name for one in imagenet.group("shift")][-1] == "imagenet_r"
    four = read_suite("traditional-four")
    assert [one.name for one in four.group("far")] == ["inaturalist", "sun", "places", "textures"]
    assert four.group("id")[0].rows == 50_000
    assert len(read_suite("ooddb-dtd").classes or ()) == 23
    assert "polka-dotted" in " ".join(read_suite("ooddb-dtd").group("near")[0].notes)


def test_an_own_suite_is_read_and_sorted_by_group(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(SUITE))
    suite = read_suite(str(tmp_path / "mine.json"))
    assert [one.name for one in suite.sets] == ["known", "other"]
    assert suite.classes == ("cat face", "anchor")
    assert suite.sets[0].place == "images/known"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("titel",), "x", "unknown field 'titel' .did you mean title"),
        (("sets", 0, "gruop"), "far", "unknown field 'gruop' .did you mean group"),
        (("sets", 0, "group"), "faar", "the group 'faar' is unknown .did you mean far"),
        (("sets", 0, "layout"), "odd", "the layout 'odd' is unknown .did you mean ood"),
        (("sets", 0, "layout"), "none", "a reason goes with the layout none"),
        (("sets", 0, "layout"), "class-order", "OOD images have no classes"),
        (("sets", 0, "reason"), "because", "a reason goes with"),
        (("sets", 0, "name"), "known", "two sets with the name 'known'"),
        (("sets", 0, "list"), "lists/known.txt", "two sets with the list"),
        (("sets", 0, "list"), "/lists/known.txt", "does not lie below the root"),
        (("sets", 0, "list"), "a.txt///../b.txt", "'../b.txt' does not lie below"),
        (("sets", 0, "folder"), "../known", "does not lie below the root"),
        (("sets", 0, "folder"), "", "does not lie below the root"),
        (("sets", 0, "rows"), 0, "rows is 0"),
        (("sets", 0, "rows"), "3", "rows is '3'; expected a whole number or null"),
        (("sets", 0, "rows"), True, "rows is True; expected a whole number"),
        (("sets", 0, "notes"), [1], "holds 1; expected texts"),
        (("sets", 0, "name"), "../x", "the name '../x' may hold"),
        (("sets", 0, "group"), "id", "ID sets alone"),
        (("sets", 1), {**SET, "group": "shift"}, "no set of the group id"),
        (("sets", 0), "other", "set 1 is no JSON object"),
        (("sets",), {}, "expected a list of sets"),
        (("class_count",), 3, "names 2 classes and says there are 3"),
        (("class_count",), 0, "has 0 classes"),
        (("classes",), ["a", "a"], "names a class twice"),
        (("classes",), 7, "expected a library name"),
    ],
)
def test_a_mistake_is_one_sentence(
    record: dict[str, Any], path: tuple[Any, ...], value: object, said: str
) -> None:
    place: Any = record
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(UsageError, match=said) as caught:
        suite_of(record, "mine.json")
    assert "mine.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["name", "sets", "class_count"])
def test_a_missing_field_is_told(record: dict[str, Any], key: str) -> None:
    del record[key]
    with pytest.raises(UsageError, match=f"lacks the field '{key}'"):
        suite_of(record, "mine.json")


def test_what_is_no_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean traditional-four"):
        read_suite("traditional4")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_suite(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        read_suite(str(tmp_path / "bad.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UsageError, match="is no JSON object"):
        read_suite(str(tmp_path / "list.json"))


def test_lists_are_made_from_folders_and_then_all_is_there(suite: Suite, root: Path) -> None:
    before = statuses(suite, root)
    assert {state for state, _ in before.values()} == {"incomplete"}
    assert "--build-lists can make it" in before["known"][1]
    built = build_lists(suite, root, root)
    assert [(one.rows, one.refused) for one in built] == [(4, ""), (3, "")]
    assert (root / "lists/known.txt").read_text().splitlines() == [
        "known/anchor/d.png 1",
        "known/anchor/deep/c.png 1",
        "known/cat_face/a.jpg 0",
        "known/cat_face/b.png 0",
    ]
    assert (root / "lists/other.txt").read_text().splitlines() == [
        "other/x.png -1",
        "other/y/w.png -1",
        "other/y/z.png -1",
    ]
    assert set(statuses(suite, root).values()) == {("present", "")}
    items = list(read_list(str(root / "lists/known.txt"), root / "images"))
    assert [item.label for item in items] == ["1", "1", "0", "0"]
    again = build_lists(suite, root, root)
    assert all("already there" in one.refused for one in again)
    assert find_overlaps(suite, root) == []


def test_what_lacks_is_counted_and_named(suite: Suite, root: Path) -> None:
    build_lists(suite, root, root)
    (root / "images/known/anchor/d.png").unlink()
    (root / "lists/other.txt").write_text("other/x.png -1\n")
    found = {one.set.name: one for one in check_suite(suite, root)}
    assert found["known"].absent == 1
    assert "1 of its 4 images are not there" in found["known"].problem
    assert "known/anchor/d.png" in found["known"].problem
    assert found["other"].problem == "it has 1 images where the published set has 3"
    (root / "lists/other.txt").write_text("other/x.png -1\n/other/x.png -1\n")
    assert "starts with a slash" in statuses(suite, root)["other"][1]
    (root / "lists/other.txt").write_text("\n")
    assert statuses(suite, root)["other"][0] == "incomplete"


def test_images_on_both_sides_are_found(suite: Suite, root: Path) -> None:
    build_lists(suite, root, root)
    with (root / "lists/other.txt").open("a") as file:
        file.write("known/anchor/d.png -1\n")
    (overlap,) = find_overlaps(suite, root)
    assert (overlap.id, overlap.ood, overlap.count) == ("known", "other", 1)
    assert overlap.example.endswith("known/anchor/d.png")


def test_joined_lists_count_together(record: dict[str, Any], root: Path) -> None:
    record["sets"][0]["list"] = "lists/a.txt///lists/b.txt"
    suite = suite_of(record, "mine.json")
    touch(root, "lists/a.txt")
    (root / "lists/a.txt").write_text("other/x.png -1\nother/y/z.png -1\n")
    assert "the list lists/b.txt is not there" in statuses(suite, root)["other"][1]
    (root / "lists/b.txt").write_text("other/y/w.png -1\n")
    assert statuses(suite, root)["other"] == ("present", "")
    assert "several lists" in build_lists(suite, root, root)[1].refused


@pytest.mark.parametrize(
    ("change", "spoil", "said"),
    [
        ({}, "images/known/e.png", "lies beside the class folders"),
        ({}, "images/known/anchor/e f.png", "holds white space"),
        ({}, "images/known/dog/e.png", "named after no class"),
        ({}, "images/known/anchor/e.png", "holds 5 images where the published set has 4"),
        ({"layout": "class-order"}, "images/known/dog/e.png", "has 3 class folders"),
        ({"layout": "class-numbers"}, "images/known/2/e.png", "named after no class"),
        ({"layout": "none", "reason": "only they know"}, "x", "only they know"),
        ({"folder": "gone"}, "x", "gone is not there"),
        ({"folder": "gone"}, "images/gone/readme.md", "holds no images"),
    ],
)
def test_what_a_folder_does_not_determine_is_refused(
    record: dict[str, Any], root: Path, change: dict[str, str], spoil: str, said: str
) -> None:
    record["sets"][1].update(change)
    touch(root, spoil)
    refused, made = build_lists(suite_of(record, "mine.json"), root, root / "out")
    assert said in refused.refused
    assert made.rows == 3
    assert not (root / "out/lists/known.txt").exists()


@pytest.mark.parametrize(
    ("layout", "folders"), [("class-order", ("n01", "n02")), ("class-numbers", ("00", "1"))]
)
def test_class_folders_by_order_and_by_number(
    record: dict[str, Any], tmp_path: Path, layout: str, folders: tuple[str, str]
) -> None:
    record["sets"][1].update(layout=layout, rows=2)
    touch(tmp_path / "images/known", *(f"{name}/a.png" for name in folders))
    built = build_lists(suite_of(record, "mine.json"), tmp_path, tmp_path)
    text = "".join(f"known/{name}/a.png {label}\n" for label, name in enumerate(folders))
    assert built[0].path is not None
    assert built[0].path.read_text() == text


def test_the_world_lies_as_the_demo_draws_it(tmp_path: Path) -> None:
    suite = read_suite("world")
    pictures = [
        *((f"id/test/{name}", 25) for name in world.ID_CLASSES),
        *((f"near/{one.name}", 2) for one in world.near_pictograms()),
        *((f"far/{name}", 16) for name in world.far_names()),
        *((f"shifted/blur-3/{name}", 25) for name in world.ID_CLASSES),
    ]
    for folder, count in pictures:
        place = tmp_path / folder.replace(" ", "_")
        touch(place, *(f"{number:04d}.png" for number in range(count)))
    assert set(statuses(suite, tmp_path).values()) == {("present", "")}
    built = build_lists(suite, tmp_path, tmp_path / "out")
    assert [one.rows for one in built] == [300, 460, 224, 300]
    first = (tmp_path / "out/world/pictograms.txt").read_text().splitlines()[0]
    assert first == "id/test/airplane/0000.png 0"
