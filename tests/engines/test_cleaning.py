"""A spoiled folder of pictograms: what was done to it is found again, and nothing is changed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlood.engines.cleaning import (
    COLUMNS,
    Cleaned,
    CleaningSettings,
    LabelledSet,
    check_labels,
    clean,
    read_images,
    read_stored,
)
from vlood.engines.cleaning_folder import check_folder, kept_and_dropped, write_folder
from vlood.errors import UsageError
from vlood.features.embeddings import Embeddings
from vlood.features.stream import StreamSettings
from vlood.images import world
from vlood.images.sources import find_images

CLASSES = 4
PER_CLASS = 20
MOVED = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 4 classes of 20 pictograms, then spoil them.

    Three pictures lie in the wrong class, one is noise, one is there twice under a wrong label, one
    is there recompressed, one is no picture at all.
    """
    root = tmp_path_factory.mktemp("spoiled")
    names = world.ID_CLASSES[:CLASSES]
    for one in world.id_images("test", PER_CLASS, seed=1):
        if one.label in names:
            path = root / one.label.replace(" ", "_") / f"{one.index:02d}.png"
            path.parent.mkdir(exist_ok=True)
            one.image.save(path)
    first, second, third, fourth = sorted(root.iterdir())
    for number in range(MOVED):
        (first / f"{number:02d}.png").rename(second / f"moved-{number}.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(third / "noise.png")
    shutil.copy(fourth / "07.png", first / "twin.png")
    with Image.open(fourth / "05.png") as image:
        image.save(fourth / "again.jpg", quality=60)
    (second / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def found(folder: Path, backbone: Any) -> Cleaned:
    items = list(find_images([str(folder)]))
    names = sorted(path.name for path in folder.iterdir())
    index = {name: number for number, name in enumerate(names)}
    check_labels([item.label for item in items], index)
    data = read_images(items, index, backbone, StreamSettings(batch_size=16))
    return clean(data, names, CleaningSettings("images"))


def by_name(found: Cleaned) -> dict[str, dict[str, Any]]:
    return {"/".join(Path(one["path"]).parts[-2:]): one for one in found.records()}


def test_what_was_done_is_found(found: Cleaned, folder: Path) -> None:
    first, second, third, fourth = sorted(path.name for path in folder.iterdir())
    records = by_name(found)
    moved = [one for name, one in records.items() if name.startswith(f"{second}/moved")]
    assert len(moved) >= MOVED - 1  # the model is weak
    assert {(one["problem"], one["suggested_label"]) for one in moved} == {("mislabelled", first)}
    assert all(one["confidence"] < 0.2 < one["suggested_confidence"] for one in moved)
    noise = records[f"{third}/noise.png"]
    assert noise["problem"] == "ood"
    assert noise["severity"] == -noise["outlier"] > 3.5
    twin = records[f"{first}/twin.png"]
    assert (twin["exact"], twin["conflict"], twin["similarity"]) == (True, True, 1.0)
    assert Path(twin["duplicate_of"]) == folder / fourth / "07.png"
    copy = records.get(f"{fourth}/again.jpg") or records[f"{fourth}/05.png"]
    assert (copy["problem"], copy["exact"], copy["conflict"]) == ("duplicate", False, False)
    assert 0.9 < copy["similarity"] < 1
    assert set(records[f"{second}/broken.png"]) == {"path", "error"}
    assert len(records) < 15


def test_the_folder_of_results_is_whole_and_read_back(
    found: Cleaned, folder: Path, tmp_path: Path
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    out = tmp_path / "results"
    check_folder(out)
    assert write_folder(out, found, {"by": "images"}, title="t") == []
    records = list(found.records())
    assert [
        json.loads(line) for line in (out / "suspects.jsonl").read_text().splitlines()
    ] == records
    with open(out / "suspects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["path"] for row in rows] == [one["path"] for one in records]
    kept, dropped = kept_and_dropped(found)
    items = [(item.path, item.label) for item in find_images([str(out / "keep.txt")])]
    assert items == kept
    everything = {str(path) for path in folder.rglob("*.*")}
    assert {path for path, _ in kept} | {path for path, _ in dropped} == everything
    assert len(kept) + len(dropped) == len(everything)
    assert {path for path, _ in dropped} == {one["path"] for one in records}
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["unreadable"]) == (len(found.data.paths), 1)
    assert summary["suspects"] == len(records) - 1 == summary["images"] - summary["kept"]
    page = (out / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= len(records) - 1
    assert "broken.png" in page
    check_folder(out)  # its own results may be written over
    (out / "mine.txt").write_text("kept")
    write_folder(out, found, {}, title="t")
    assert (out / "mine.txt").exists()
    assert before == sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    for text in ("", "[]", '{"kind": "other"}'):
        with pytest.raises(UsageError, match="did not write; name a new or empty folder"):
            check_folder(tmp_path)
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "photo.jpg")


def test_odd_paths_are_kept_whole_beside_the_txt_lists(found: Cleaned, tmp_path: Path) -> None:
    from dataclasses import replace

    odd = "/some/a\nb\tc.png"
    data = replace(found.data, paths=[odd, *found.data.paths[1:]])
    changed = Cleaned(data, found.class_names, found.suspects, found.doubt, found.outliers)
    lacking = write_folder(tmp_path, changed, {}, title="t")
    assert [path for path, _ in lacking] == [odd]
    assert odd in [item.path for item in find_images([str(tmp_path / "keep.jsonl")])]


def test_labels_that_cannot_be_judged_are_refused() -> None:
    index = {"cat": 0, "dog": 1}
    check_labels(["cat", "cat", None, "dog", "dog"], index)
    for labels, sentence in (
        ([None, None], "no labels; give a folder with one sub-folder a class"),
        (["cat", "cat"], "all 2 images have the label 'cat'"),
        (["cat", "cat", "dog"], "the class 'dog' has a single image"),
        (["cat", "dog"], "'cat' and 1 more have a single image"),
        (["cat", "cat", "owl", "owl", "fox"], "no class for the label 'fox' and 1 more"),
    ):
        with pytest.raises(UsageError, match=sentence):
            check_labels(labels, index)


def stored_set() -> tuple[LabelledSet, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = np.eye(3, 10)
    true = np.repeat(np.arange(3), 20)
    rows = centres[true] + 0.2 * rng.normal(size=(60, 10))
    labels = [f"class {number}" for number in true]
    labels[0] = "class 2"
    rows[41] = rows[40] + 1e-4
    ids = [f"row {number}" for number in range(60)]
    stored = Embeddings(ids=ids, features=rows.astype(np.float32), labels=labels)
    index = {f"class {number}": number for number in range(3)}
    return read_stored([stored], index), centres.astype(np.float32)


@pytest.mark.parametrize("by", ["images", "names", "both"])
def test_stored_embeddings_are_judged_too(by: str) -> None:
    data, centres = stored_set()
    names = [f"class {number}" for number in range(3)]
    found = clean(data, names, CleaningSettings(by), text=centres)
    records = {one["path"]: one for one in found.records()}
    assert records["row 0"]["problem"] == "mislabelled"
    assert records["row 0"]["suggested_label"] == "class 0"
    assert records["row 41"]["duplicate_of"] == "row 40"
    assert kept_and_dropped(found)[0][0] == ("row 1", "class 0")
    assert len(found.doubt.scales) == (2 if by == "both" else 1)


def test_settings_loosen_and_tighten() -> None:
    data, _ = stored_set()
    names = [f"class {number}" for number in range(3)]

    def count(**settings: Any) -> dict[str, int]:
        return clean(data, names, CleaningSettings("images", **settings)).counts

    usual = count()
    assert count(mislabelled=0.0)["mislabelled"] == 0 < usual["mislabelled"]
    assert count(duplicates=1.01)["duplicate"] == 0 < usual["duplicate"]
    assert count(outliers=1.0)["ood"] > usual["ood"]


def test_images_without_a_label_are_only_looked_at_for_copies() -> None:
    data, _ = stored_set()
    data.labels[[0, 41]] = -1
    names = [f"class {number}" for number in range(3)]
    records = {one["path"]: one for one in clean(data, names, CleaningSettings("images")).records()}
    assert "row 0" not in records
    copy = records["row 41"] if "row 41" in records else records["row 40"]
    assert (copy["problem"], copy["conflict"]) == ("duplicate", False)
