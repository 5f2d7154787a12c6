"""Heat maps of a run: which inputs get one, where it lies, and that it shows what the model saw."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlood.engines.heatmaps import Heatmaps, check_folder, picture_name
from vlood.engines.records import Record
from vlood.engines.scoring import Decision, Scorer, records_of, score_images
from vlood.engines.text_side import classes_from_texts
from vlood.errors import UsageError, VloodError
from vlood.evaluation.heatmap import is_ours
from vlood.features.stream import StreamSettings
from vlood.images import world
from vlood.images.decode import DecodeSettings
from vlood.images.sources import ImageItem
from vlood.methods import registry
from vlood.methods.contract import Detector, make_settings
from vlood.methods.regional import regional_idness
from vlood.negatives.negative_features import NegativeFeatures
from vlood.prompts.classes import read_classes
from vlood.prompts.templates import DEFAULT_TEMPLATE, ClassFeatures


@pytest.fixture(scope="session")
def classes(backbone: Any) -> ClassFeatures:
    return classes_from_texts(read_classes("world"), [DEFAULT_TEMPLATE], backbone, None)


@pytest.fixture(scope="session")
def mcm(backbone: Any, classes: ClassFeatures) -> Detector:
    method = registry.get("mcm")
    return method.fit(classes, make_settings(method, {}), backbone.logit_scale)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Seven wide pictures, of which the third is none."""
    places = []
    for number in range(7):
        rough = np.random.default_rng(number).integers(0, 256, (3, 5, 3), np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(rough).resize((120, 72)).save(path)
        places.append(str(path))
    Path(places[2]).write_text("none")
    return places


def drawn(
    heatmaps: Heatmaps, files: list[str], mcm: Detector, *, skip: int = 0, batch_size: int = 2
) -> list[Record]:
    """Score the files as the command does, from number ``skip`` on."""
    heatmaps.open(resume=skip > 0)
    items = heatmaps.watched((ImageItem(path) for path in files[skip:]), after=skip)
    settings = StreamSettings(batch_size=batch_size)
    found = []
    for batch in score_images(items, heatmaps.backbone, Scorer([mcm]), settings, local=True):
        records = records_of(batch, mcm, Decision())
        heatmaps.draw(batch, records)
        found += records
    return found


@pytest.fixture
def heatmaps(tmp_path: Path, backbone: Any, mcm: Detector) -> Heatmaps:
    return Heatmaps(tmp_path / "new" / "maps", 0, mcm, backbone, DecodeSettings())


def test_every_readable_input_gets_a_picture_named_by_its_record(
    heatmaps: Heatmaps, files: list[str], mcm: Detector
) -> None:
    records = drawn(heatmaps, files, mcm)
    assert "heatmap" not in records.pop(2)
    names = [Path(record["heatmap"]).name for record in records]
    assert names == [f"{number + 1:05d}-{number}.png" for number in (0, 1, 3, 4, 5, 6)]
    assert sorted(path.name for path in heatmaps.folder.iterdir()) == names
    assert all(is_ours(Path(record["heatmap"])) for record in records)
    assert not heatmaps.left_out


def test_a_picture_shows_what_the_model_saw(
    heatmaps: Heatmaps, files: list[str], mcm: Detector, backbone: Any
) -> None:
    record = drawn(heatmaps, files[:1], mcm)[0]
    seen = backbone.preprocessing.prepare(Image.open(files[0]).convert("RGB"))
    with Image.open(record["heatmap"]) as picture:
        panel = np.asarray(picture)[12 : 12 + 256 : 4, 12 : 12 + 256 : 4]
    np.testing.assert_array_equal(panel, seen)


def test_the_first_inputs_are_drawn_and_a_resumed_run_draws_the_same(
    heatmaps: Heatmaps, files: list[str], mcm: Detector
) -> None:
    heatmaps.limit = 5
    records = drawn(heatmaps, files, mcm)
    assert [bool(record.get("heatmap")) for record in records] == [1, 1, 0, 1, 1, 0, 0]
    assert records[6]["heatmap"] is None
    assert heatmaps.left_out
    before = {path.name: path.read_bytes() for path in heatmaps.folder.iterdir()}
    for name in list(before)[1:]:
        (heatmaps.folder / name).unlink()
    torn = heatmaps.folder / ".00004-3.png.0123abcd.partial"
    torn.write_text("torn")
    again = Heatmaps(heatmaps.folder, 5, mcm, heatmaps.backbone, DecodeSettings())
    assert drawn(again, files, mcm, skip=2) == records[2:]
    after = {path.name: path.read_bytes() for path in heatmaps.folder.iterdir()}
    assert not torn.exists()
    assert after.items() <= before.items()
    assert [again.first_inputs(2, before=seen) for seen in (0, 2, 6, 8)] == [6, 4, 0, 0]


def test_only_heat_maps_are_replaced(heatmaps: Heatmaps, files: list[str], mcm: Detector) -> None:
    drawn(heatmaps, files, mcm)
    drawn(heatmaps, files, mcm)
    other = heatmaps.folder / "00004-3.png"
    Image.new("RGB", (4, 4)).save(other)
    before = other.read_bytes()
    (heatmaps.folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"00004-3\.png is there and is no heat map"):
        drawn(heatmaps, files, mcm)
    assert other.read_bytes() == before


def test_a_file_that_is_gone_costs_its_picture_alone(
    heatmaps: Heatmaps, files: list[str], mcm: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ImageItem.read
    seen: list[str] = []

    def once(item: ImageItem) -> bytes:
        if item.path == files[1] and item.path in seen:
            Path(item.path).unlink(missing_ok=True)
        seen.append(item.path)
        return read(item)

    monkeypatch.setattr(ImageItem, "read", once)
    records = drawn(heatmaps, files, mcm)
    assert records[1]["heatmap"] is None
    assert records[1]["score"] > 0
    assert sum(bool(record.get("heatmap")) for record in records) == 5


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "maps:")])
def test_a_failing_write_is_one_sentence(
    heatmaps: Heatmaps,
    files: list[str],
    mcm: Detector,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    said: str,
) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(number, "broken")

    monkeypatch.setattr("vlood.engines.heatmaps.write_atomically", fail)
    with pytest.raises(VloodError, match=f"--heatmap .*{said}"):
        drawn(heatmaps, files, mcm)


def test_models_without_regions_and_detectors_of_one_class_are_refused(
    mcm: Detector, backbone: Any, tmp_path: Path
) -> None:
    from torch import nn

    method = registry.get("energy")
    alone = ClassFeatures.of(["a"], np.ones((1, backbone.embed_dim), np.float32))
    one = method.fit(alone, make_settings(method, {}), 100.0)
    with pytest.raises(UsageError, match="--heatmap: energy gives every region the same"):
        Heatmaps(tmp_path, 0, one, backbone, DecodeSettings())
    other: Any = SimpleNamespace(name="other", module=SimpleNamespace(visual=nn.Identity()))
    with pytest.raises(UsageError, match=r"--heatmap: .*Identity.*leave --heatmap out"):
        Heatmaps(tmp_path, 0, mcm, other, DecodeSettings())
    other.module = backbone.module
    other.preprocessing = SimpleNamespace(split=False)
    with pytest.raises(UsageError, match=r"--heatmap: --model other: its preprocessing"):
        Heatmaps(tmp_path, 0, mcm, other, DecodeSettings())


def test_places_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "file", [])
    with pytest.raises(UsageError, match="lies in the input folder"):
        check_folder(tmp_path / "in" / "maps", ["-", str(tmp_path / "in")])
    check_folder(tmp_path / "maps", [str(tmp_path / "in"), str(tmp_path / "file")])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b/cat.jpg", "00012-cat.png"),
        ("a/../..", "00012-image.png"),
        ("a/ my cat_no.1!.jpg", "00012-my-cat-no-1.png"),
        ("a/\udcff\n.jpg", "00012-xff-n.png"),
        ("猫.jpg", "00012-猫.png"),
        ("x" * 300, f"00012-{'x' * 40}.png"),
    ],
)
def test_names_are_flat_short_and_safe(path: str, name: str) -> None:
    assert picture_name(12, path) == name
    assert len(name.encode()) < 200


def test_the_map_lights_up_where_the_pictogram_is(backbone: Any, classes: ClassFeatures) -> None:
    words = [f"a {one.name}" for one in world.near_pictograms()] + list(world.far_names().values())
    negatives = NegativeFeatures.of(words, backbone.encode_texts(words))
    method = registry.get("neglabel")
    one = method.fit(classes, make_settings(method, {}), backbone.logit_scale, negatives=negatives)
    found = []
    for picture in world.id_images("test", 1):
        small = picture.image.resize((32, 32))
        for corner in ((0, 0), (32, 0), (0, 32), (32, 32)):
            sheet = Image.new("RGB", (64, 64), small.getpixel((0, 0)))
            sheet.paste(small, corner)
            pixels = backbone.preprocessing.prepare(sheet)[None]
            (idness,) = regional_idness(one, backbone.encode_pixels(pixels, local=True))
            halves = idness.reshape(2, idness.shape[0] // 2, 2, idness.shape[1] // 2)
            row, column = np.unravel_index(halves.mean(axis=(1, 3)).argmax(), (2, 2))
            found.append((column * 32, row * 32) == corner)
    assert np.mean(found) > 0.8
