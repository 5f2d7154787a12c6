"""Saved detectors: what is written is read back to the last bit, and nothing damaged gets in."""

from __future__ import annotations

import json
import logging
import math
import random
import resource
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlood.backbone.image_features import ImageFeatures
from vlood.detector import folder as folders
from vlood.detector.calibration import calibrate
from vlood.detector.folder import load_detector, save_detector
from vlood.detector.negative_rows import open_index
from vlood.detector.saved import Learned, SavedDetector, check_backbone, check_class_list
from vlood.detector.schema import FIELDS, SCHEMA
from vlood.errors import UsageError, VloodError
from vlood.features.checksums import sha256_of_file
from vlood.methods import registry
from vlood.negatives.negative_features import NegativeFeatures, NegativeRow
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import ClassFeatures

ROOT = Path(__file__).parents[2]
IDENTITY = {
    "architecture": "tiny",
    "config": "c0",
    "weights": "w0",
    "preprocessing": "resize 8",
    "precision": "fp32",
    "open_clip": "3.3.0",
}
METHODS = [name for name in registry.names() if not registry.get(name).record.trains]


def make_saved(
    method: str = "neglabel", classes: int = 5, negatives: int = 12, width: int = 8
) -> SavedDetector:
    rng = np.random.default_rng(0)
    chosen = registry.get(method)
    names = [ClassName(f"class_{row}", f"class {row}") for row in range(classes)]
    ids = ClassFeatures.of([each.name for each in names], rng.normal(size=(classes, width)))
    words = [f"word {row}" for row in range(negatives - 1)] + ["слово\n電車"]
    given_sides: dict[str, Any] = {}
    rows: tuple[NegativeRow, ...] = ()
    if "negatives" in chosen.record.needs:
        given_sides["negatives"] = NegativeFeatures.of(words, rng.normal(size=(negatives, width)))
    if "noise" in chosen.record.needs:
        given_sides["noise"] = rng.normal(size=(6, width)).astype(np.float32)
    detector = chosen.fit(ids, chosen.settings(), 37.5, **given_sides)
    if detector.negative_names:
        rows = tuple(
            NegativeRow(name, "noun", "noun.act", 0.25, "the nice {}", "test")
            for name in detector.negative_names
        )
    calibration = calibrate(rng.normal(size=40), rng.integers(0, classes, 40), per_class=True)
    return SavedDetector(
        detector=detector,
        classes=tuple(names),
        templates=("a photo of a {}.",),
        backbone=IDENTITY,
        model_name="ViT-tiny:test",
        negatives=rows,
        calibration=calibration,
        learned=Learned("contexts", {"ctx": rng.normal(size=(4, 6)).astype(np.float32)}, {"a": 1}),
        figures=({"ood": "far", "auroc": 0.9},),
        provenance={"command": "vlood tune", "seed": 0},
    )


def images(width: int = 8, count: int = 9) -> ImageFeatures:
    rng = np.random.default_rng(1)
    local = rng.normal(size=(count, 4, width)).astype(np.float32)
    return ImageFeatures(rng.normal(size=(count, width)).astype(np.float32), local)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "detector"
    save_detector(path, make_saved())
    return path


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "detector.json").read_text())


def rewrite(folder: Path, **changes: Any) -> None:
    fields = {**described(folder), **changes}
    (folder / "detector.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_scores_are_the_same_to_the_last_bit(method: str, tmp_path: Path) -> None:
    saved = make_saved(method)
    save_detector(tmp_path / "d", saved)
    loaded = load_detector(tmp_path / "d")
    before, after = (registry.score(one.detector, images()) for one in (saved, loaded))
    for name in ("score", "label", "confidence"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert loaded.detector.settings == saved.detector.settings
    assert loaded.detector.negative_names == saved.detector.negative_names


def test_everything_else_comes_back_too(written: Path) -> None:
    saved, loaded = make_saved(), load_detector(written)
    for name in ("classes", "templates", "backbone", "model_name", "negatives", "threshold"):
        assert getattr(loaded, name) == getattr(saved, name), name
    assert [dict(row) for row in loaded.figures] == list(saved.figures)
    assert dict(loaded.provenance) == dict(saved.provenance)
    assert loaded.learned is not None
    assert saved.learned is not None
    np.testing.assert_array_equal(loaded.learned.arrays["ctx"], saved.learned.arrays["ctx"])
    assert loaded.learned.about == saved.learned.about
    assert loaded.calibration is not None
    assert saved.calibration is not None
    np.testing.assert_array_equal(loaded.calibration.scores, saved.calibration.scores)
    assert loaded.calibration.per_class == saved.calibration.per_class


def test_the_same_detector_is_the_same_bytes(written: Path, tmp_path: Path) -> None:
    save_detector(tmp_path / "again", make_saved())
    names = sorted(path.name for path in written.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (written / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_every_field_is_documented_and_written(written: Path) -> None:
    assert set(described(written)) == set(FIELDS)
    page = (ROOT / "docs" / "detector-folder.md").read_text()
    for name, meaning in FIELDS.items():
        assert f"| `{name}` | {meaning} |" in page
    for name in registry.names():
        assert f"`{name}`" in page, name


def test_the_card_says_what_a_person_asks(written: Path) -> None:
    card = (written / "README.md").read_text()
    for words in ("class_0", "neglabel", "ViT-tiny:test", "word 3", "90.00 %", "vlood tune"):
        assert words in card
    assert "called OOD" in card


def test_its_index_finds_its_negatives(written: Path) -> None:
    loaded = load_detector(written)
    index = open_index(written)
    assert index is not None
    features = loaded.detector.tensors["negative_features"]
    assert index.search(features[3:4], 1)[1][0, 0] == 3


def test_a_thousand_classes_and_ten_thousand_negatives_are_small_and_quick(tmp_path: Path) -> None:
    path = tmp_path / "large"
    save_detector(path, make_saved("neglabel", classes=1000, negatives=10_000, width=512))
    size = sum(file.stat().st_size for file in path.rglob("*"))
    assert size < 60e6
    started = time.perf_counter()
    load_detector(path)
    # Seconds, where the promise is half a one: this guards against something absurd.
    assert time.perf_counter() - started < 5


def older(folder: Path) -> None:
    """Rewrite a folder as schema 1 had it."""
    now = described(folder)
    old = {
        "schema": 1,
        "kind": "vlood detector",
        "method": now["method"],
        "settings": now["settings"],
        "logit_scale": now["logit_scale"],
        "class_names": [name for name, _ in now["classes"]],
        "template": "a photo of a {}.",
        "backbone": {"name": now["model"], **now["backbone"]},
        "width": now["width"],
        "negatives": now["negatives"],
        "digests": now["digests"],
    }
    (folder / "detector.json").write_text(json.dumps(old))


def test_a_folder_of_an_older_schema_still_loads(copied: Path) -> None:
    older(copied)
    loaded, today = load_detector(copied), make_saved()
    assert loaded.model_name == "ViT-tiny:test"
    assert loaded.backbone == IDENTITY
    assert loaded.templates == ("a photo of a {}.",)
    assert [each.name for each in loaded.classes] == [each.name for each in today.classes]
    np.testing.assert_array_equal(
        registry.score(loaded.detector, images()).score,
        registry.score(today.detector, images()).score,
    )


def test_a_newer_folder_is_read_with_a_warning_if_it_says_so(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(copied, schema=SCHEMA + 3, reads_from=SCHEMA, sparkle=[1, 2])
    with caplog.at_level(logging.WARNING):
        load_detector(copied)
    assert "newer vlood" in caplog.text
    assert "sparkle" in caplog.text
    rewrite(copied, reads_from=SCHEMA + 1)
    with pytest.raises(UsageError, match=f"schema {SCHEMA + 3}.*update vlood"):
        load_detector(copied)


@pytest.mark.parametrize("file", ["tensors.safetensors", "negatives.parquet", "negatives.faiss"])
def test_a_flipped_byte_is_seen(copied: Path, file: str) -> None:
    data = bytearray((copied / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / file).write_bytes(data)
    with pytest.raises(UsageError, match=f"{file} is missing or does not match its digest"):
        load_detector(copied)


CHANGES = {
    "method": ("nonsense", "there is no such method"),
    "settings": ({"groups": -1}, "groups is -1"),
    "logit_scale": (0, "logit_scale is not above zero"),
    "classes": ([], "classes"),
    "width": (9, "shape"),
    "negatives": (11, "holds 12 rows, not 11"),
    "kind": ("a sandwich", "kind"),
    "schema": ("two", "schema"),
    "digests": ({}, "tensors.safetensors"),
    "calibration": ({"n": 1}, "damaged"),
    "learned": ({"kind": "contexts", "about": {}, "arrays": ["nothing"]}, "arrays"),
    "templates": ("a {}", "templates"),
    "backbone": ({"weights": 3}, "backbone"),
    "threshold": ("low", "threshold"),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_wrong_field_is_named(copied: Path, field: str) -> None:
    value, words = CHANGES[field]
    rewrite(copied, **{field: value})
    with pytest.raises(UsageError, match=words) as refusal:
        load_detector(copied)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "reads_from"])
def test_a_missing_field_is_named_or_not_needed(copied: Path, field: str) -> None:
    fields = described(copied)
    del fields[field]
    (copied / "detector.json").write_text(json.dumps(fields))
    if field in (
        "backbone",
        "model",
        "learned",
        "calibration",
        "threshold",
        "classifier",
        "members",
    ):
        load_detector(copied)
        return
    with pytest.raises(UsageError, match=f"lacks {field}"):
        load_detector(copied)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a\0b", "."])
def test_digests_stay_inside_the_folder(copied: Path, name: str) -> None:
    rewrite(copied, digests={**described(copied)["digests"], name: "0" * 64})
    with pytest.raises(UsageError):
        load_detector(copied)


def test_tensors_of_another_shape_or_kind_are_refused(copied: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(copied / "tensors.safetensors")
    good = dict(tensors)
    bad = {
        "class_features": good["class_features"][:, :4],
        "negative_features": good["negative_features"].astype(np.float64),
        "group_sizes": good["group_sizes"] + 1,
        "stray": np.zeros(3, np.float32),
    }
    bad["class_features_nan"] = np.full_like(good["class_features"], np.nan)
    for name, array in bad.items():
        changed = {**good, name.removesuffix("_nan"): np.ascontiguousarray(array)}
        save_file(changed, copied / "tensors.safetensors")
        digest = sha256_of_file(copied / "tensors.safetensors")
        rewrite(copied, digests={**described(copied)["digests"], "tensors.safetensors": digest})
        with pytest.raises(UsageError, match="the detector is damaged"):
            load_detector(copied)


def test_swapped_tensors_of_one_shape_are_harmless(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    save_detector(tmp_path / "d", make_saved("neglabel", classes=12, negatives=12))
    path = tmp_path / "d" / "tensors.safetensors"
    tensors = load_file(path)
    tensors["class_features"], tensors["negative_features"] = (
        tensors["negative_features"],
        tensors["class_features"],
    )
    save_file(tensors, path)
    with pytest.raises(UsageError, match="does not match its digest"):
        load_detector(tmp_path / "d")
    digests = {**described(tmp_path / "d")["digests"], path.name: sha256_of_file(path)}
    rewrite(tmp_path / "d", digests=digests)
    scores = registry.score(load_detector(tmp_path / "d").detector, images())
    assert np.isfinite(scores.score).all()


def test_not_a_folder_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a detector's folder"):
        load_detector(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        folders.check_new(tmp_path / "file")
    with pytest.raises(UsageError, match="not empty and no detector"):
        folders.check_new(tmp_path)
    save_detector(tmp_path / "d", make_saved())
    with pytest.raises(UsageError, match="holds a detector already"):
        folders.check_new(tmp_path / "d")
    folders.check_new(tmp_path / "d", overwrite=True)


def test_a_failing_write_leaves_what_was_there(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copied / "detector.json").read_bytes()

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "card", full)
    with pytest.raises(VloodError, match="No space left"):
        save_detector(copied, replace(make_saved(), provenance={}))
    assert (copied / "detector.json").read_bytes() == before
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]


def test_another_model_or_class_list_is_refused() -> None:
    saved = make_saved()
    check_backbone(saved, {**IDENTITY, "precision": "fp16", "open_clip": "3.4"}, "d")
    check_backbone(replace(saved, backbone=None), {}, "d")
    for name in ("architecture", "config", "weights", "preprocessing"):
        with pytest.raises(UsageError, match=f"another model .*{name}"):
            check_backbone(saved, {**IDENTITY, name: "x"}, "d")
    check_class_list(saved, saved.classes, "d")
    with pytest.raises(UsageError, match="another order"):
        check_class_list(saved, saved.classes[::-1], "d")
    with pytest.raises(UsageError, match=r"does not know zebra.*also knows class_0"):
        check_class_list(saved, [ClassName.of("zebra"), *saved.classes[1:]], "d")


# Fuzzing: 2,000 folders in all, half of them with bytes changed and half with JSON edited.

EXAMPLES = 1000
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([10**30, -1, 0, 1e308, "NaN", "../x", "class_features"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def refused_or_harmless(folder: Path) -> None:
    """Load and score; whatever happens, it is a sentence or a finite result."""
    sentence = "-"
    try:
        loaded = load_detector(folder)
        index = open_index(folder)
    except UsageError as refusal:
        sentence = str(refusal)
    assert sentence
    assert "\n" not in sentence
    if sentence != "-":
        return
    scores = registry.score(loaded.detector, images(loaded.width))
    assert len(scores) == 9
    assert not np.isnan(scores.score).any()
    if index is not None:
        assert index.rows == len(loaded.negatives)


@pytest.mark.slow
def test_folders_with_changed_bytes_are_refused_or_harmless(written: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    target = tmp_path / "fuzzed"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = sorted(path.name for path in written.iterdir())
    for _ in range(EXAMPLES):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(written, target)
        file = target / rng.choice(names)
        data = bytearray(file.read_bytes())
        match rng.randrange(5):
            case 0:
                for _ in range(rng.randint(1, 8)):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:
                del data[rng.randrange(len(data)) :]
            case 2:
                start = rng.randrange(len(data))
                del data[start : start + rng.randint(1, 64)]
            case 3:
                start = rng.randrange(len(data))
                data[start:start] = rng.randbytes(rng.randint(1, 64))
            case _:
                data = bytearray(rng.randbytes(rng.randint(0, 200)))
        file.write_bytes(data)
        if rng.random() < 0.5:
            # Somebody who also rewrites the digest gets as far as the file's own reader.
            redigest(target, file)
        refused_or_harmless(target)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1 << 20  # in KiB: 1 GiB


def redigest(folder: Path, file: Path) -> None:
    if file.name == "detector.json":
        return
    fields = described(folder)
    fields["digests"][file.name] = sha256_of_file(file)
    (folder / "detector.json").write_text(json.dumps(fields))


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.integers(0, 400), JSON), min_size=1, max_size=3), st.booleans())
def test_folders_with_edited_json_are_refused_or_harmless(
    copied: Path, edits: list[tuple[int, Any]], drop: bool
) -> None:
    original = (copied / "detector.json").read_text()
    try:
        fields = json.loads(original)
        for place, value in edits:
            edit(fields, place, value, drop)
        (copied / "detector.json").write_text(json.dumps(fields))
        refused_or_harmless(copied)
    finally:
        (copied / "detector.json").write_text(original)


def edit(fields: Any, place: int, value: Any, drop: bool) -> None:
    """Replace (or drop) the value at one place of a nested JSON value."""
    places: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        keys = (
            list(inner)
            if isinstance(inner, dict)
            else range(len(inner))
            if isinstance(inner, list)
            else []
        )
        for key in keys:
            places.append((inner, key))
            walk(inner[key])

    walk(fields)
    if not places:
        return
    holder, key = places[place % len(places)]
    if drop:
        del holder[key]
    else:
        holder[key] = value


def test_settings_survive_json(written: Path) -> None:
    stored = described(written)["settings"]
    assert stored == asdict(make_saved().detector.settings)
    assert all(not isinstance(value, float) or math.isfinite(value) for value in stored.values())
