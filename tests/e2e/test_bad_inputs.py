"""Everything that can be wrong with what a user gives: each ends in a record or in one sentence."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlood.features.store import EmbeddingStore

from .conftest import CLASSES, Result, Vlood, interruptible, write_pictures

ERROR = "error"
SCORED = "scored"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file names")


def obey_permissions() -> None:
    """Make a process of root's obey file modes, as everybody else's does."""
    interruptible()
    if os.geteuid() == 0 and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def modes_are_obeyed(folder: Path) -> bool:
    """Say whether a child that called `obey_permissions` is stopped by a file's mode."""
    probe = folder / "probe"
    probe.write_text("x")
    probe.chmod(0)
    done = subprocess.run(
        ["cat", str(probe)], preexec_fn=obey_permissions, capture_output=True, check=False
    )
    probe.unlink()
    return done.returncode != 0


def picture(side: int = 48) -> Image.Image:
    rng = np.random.default_rng(side)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def bomb() -> bytes:
    """Make a small PNG whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def with_exif_turn() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", exif=exif.tobytes())


def palette_with_alpha() -> bytes:
    image = picture().quantize(16)
    image.info["transparency"] = bytes(range(0, 256, 16))
    return encoded(image, "PNG", transparency=image.info["transparency"])


def bad_files() -> list[tuple[str | bytes, bytes, str]]:
    """Return (name, bytes, what becomes of it)."""
    jpeg, png, webp = (encoded(picture(96), kind) for kind in ("JPEG", "PNG", "WEBP"))
    grey = np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16)
    frames = [picture(40), picture(41).resize((40, 40))]
    return [
        ("empty.jpg", b"", ERROR),
        ("text.jpg", b"this is no picture\n" * 50, ERROR),
        ("truncated.jpg", jpeg[: len(jpeg) // 2], ERROR),
        ("truncated.png", png[: len(png) // 2], ERROR),
        ("truncated.webp", webp[: len(webp) // 2], ERROR),
        ("bomb.png", bomb(), ERROR),
        ("long.png", encoded(Image.new("RGB", (65500, 1), (9, 99, 9)), "PNG"), ERROR),
        ("grey16.png", encoded(Image.fromarray(grey), "PNG"), SCORED),
        ("cmyk.jpg", encoded(picture().convert("CMYK"), "JPEG"), SCORED),
        ("palette-alpha.png", palette_with_alpha(), SCORED),
        ("animated.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames), SCORED),
        ("turned.jpg", with_exif_turn(), SCORED),
        ("one.png", encoded(Image.new("RGB", (1, 1), (200, 10, 10)), "PNG"), SCORED),
        ("upper.JPG", encoded(picture(33), "JPEG"), SCORED),
        ("with\nnewline.png", encoded(picture(34), "PNG"), SCORED),
        (b"not-utf8-\xff\xfe.png", encoded(picture(35), "PNG"), SCORED),
        (b"not-utf8-\xff-broken.png", b"broken", ERROR),
        ("Grüße-日本.png", encoded(picture(38), "PNG"), SCORED),
        ("twin-a.png", png, SCORED),
        ("twin-b.png", png, SCORED),
    ]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Write every bad image into one folder; return it and what becomes of each path."""
    folder = tmp_path_factory.mktemp("zoo")
    expected = {}
    for name, data, fate in bad_files():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        try:
            with open(path, "wb") as stream:
                stream.write(data)
        except OSError:  # a file system that stores only UTF-8 names
            continue
        expected[os.fsdecode(path)] = fate
    os.mkfifo(folder / "pipe.jpg")
    (folder / "broken-link.jpg").symlink_to("nowhere.jpg")
    (folder / "strange-link.jpg").symlink_to(os.fsdecode(b"nowhere-\xff\n.jpg"))
    (folder / "link-loop.jpg").symlink_to("link-loop.jpg")
    for name in ("pipe.jpg", "broken-link.jpg", "strange-link.jpg", "link-loop.jpg"):
        expected[str(folder / name)] = ERROR
    inner = folder / "folder.jpg"
    inner.mkdir()
    inner.joinpath("inside.png").write_bytes(encoded(picture(36), "PNG"))
    expected[str(inner / "inside.png")] = SCORED
    if modes_are_obeyed(folder):
        secret = folder / "secret.jpg"
        secret.write_bytes(encoded(picture(37), "JPEG"))
        secret.chmod(0)
        expected[str(secret)] = ERROR
    return folder, expected


@pytest.fixture(scope="module")
def named(zoo: tuple[Path, dict[str, str]]) -> list[str]:
    """Return the inputs of the shared run: the folder, then single files, some named twice."""
    folder, _ = zoo
    return [str(folder), *(str(folder / name) for name in ("one.png", "one.png", "empty.jpg"))]


def score_zoo(vlood: Vlood, named: list[str], tiny: str, *more: str | Path) -> Result:
    return vlood(
        *("score", *named, "--model", tiny, "--classes", CLASSES, "--batch-size", "8", *more),
        preexec_fn=obey_permissions,
        # Records are UTF-8 whatever the locale can say.
        extra={"PYTHONIOENCODING": "ascii"},
    )


@pytest.fixture(scope="module")
def scored_zoo(vlood: Vlood, named: list[str], tiny: str) -> Result:
    return score_zoo(vlood, named, tiny)


def test_every_bad_image_is_a_record_or_an_error_record(
    scored_zoo: Result, zoo: tuple[Path, dict[str, str]]
) -> None:
    folder, expected = zoo
    assert scored_zoo.code == 3, scored_zoo.err
    records = scored_zoo.records
    again = [str(folder / name) for name in ("one.png", "one.png", "empty.jpg")]
    assert [one["path"] for one in records] == [*sorted(expected), *again]
    for one in records:
        fate = ERROR if "error" in one else SCORED
        assert fate == expected[one["path"]], one
        if fate == ERROR:
            assert set(one) == {"path", "error"}
            assert one["error"]
            assert "Traceback" not in one["error"]
        else:
            assert np.isfinite(one["score"])
            assert 0 <= one["confidence"] <= 1


def test_equal_pictures_have_equal_scores(
    scored_zoo: Result, zoo: tuple[Path, dict[str, str]]
) -> None:
    by_name = {Path(one["path"]).name: one for one in scored_zoo.records}
    assert by_name["twin-a.png"]["score"] == by_name["twin-b.png"]["score"]
    assert len({one["score"] for one in scored_zoo.records if one["path"].endswith("one.png")}) == 1


def test_unreadable_images_are_told_on_stderr_one_line_each(
    scored_zoo: Result, zoo: tuple[Path, dict[str, str]]
) -> None:
    bad = sum("error" in one for one in scored_zoo.records)
    lines = scored_zoo.err.splitlines()
    assert lines[-1] == (f"vlood: {bad} of {len(scored_zoo.records)} inputs could not be read")
    assert len(lines) == min(bad, 20) + 1
    assert "Traceback" not in scored_zoo.err


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_flat_formats_hold_the_same_records(
    kind: str,
    vlood: Vlood,
    named: list[str],
    tiny: str,
    scored_zoo: Result,
    tmp_path: Path,
) -> None:
    out = tmp_path / f"records.{kind}"
    done = score_zoo(vlood, named, tiny, "-o", out, "-q")
    assert (done.code, done.out, done.err) == (3, "", "")
    if kind == "csv":
        with open(out, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(out).to_pylist()
    assert len(rows) == len(scored_zoo.records)
    for row, record in zip(rows, scored_zoo.records, strict=True):
        plain = record["path"].encode("utf-8", "surrogateescape").decode(errors="backslashreplace")
        assert row["path"] == plain
        assert bool(row["error"]) == ("error" in record)
        if "error" not in record:
            assert float(row["score"]) == record["score"]
            assert row["label"] == record["label"]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_embed_stores_the_readable_ones(
    vlood: Vlood, named: list[str], tiny: str, scored_zoo: Result, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    done = vlood(*("embed", *named, "--model", tiny, "-o", store), preexec_fn=obey_permissions)
    assert done.code == 3
    assert "Traceback" not in done.err
    stored = EmbeddingStore.open(store)
    records = scored_zoo.records
    assert stored.ids == [one["path"] for one in records if "error" not in one]
    failed = sorted(one["path"] for one in records if "error" in one)
    assert sorted(path for path, _ in stored.errors) == failed
    assert stored.features().shape == (len(stored.ids), 32)


# Inputs and options that are refused before anything is scored.


def refused(done: Result, *parts: str, code: int = 2) -> None:
    line = done.sentence(code)
    assert done.out == ""
    for part in parts:
        assert part in line


def test_an_empty_folder_and_a_missing_file_are_refused(
    vlood: Vlood, tiny: str, tmp_path: Path
) -> None:
    common = ("--model", tiny, "--classes", CLASSES)
    empty = tmp_path / "nothing"
    empty.mkdir()
    refused(vlood("score", empty, *common), str(empty), "no images")
    refused(vlood("score", tmp_path / "absent.jpg", *common), "absent.jpg", "does not exist")
    refused(vlood("score", tmp_path / ("x" * 300), *common), "does not exist")


def test_weights_that_are_not_there_are_one_clear_error(
    vlood: Vlood, few: Path, tmp_path: Path
) -> None:
    common = ("score", few, "--classes", CLASSES, "--model")
    empty = tmp_path / "model"
    empty.mkdir()
    done = vlood(*common, f"local-dir:{empty}")
    assert done.code in (1, 2)
    refused(done, str(empty), code=done.code)
    fetched = vlood(*common, "ViT-B-32:laion2b_s34b_b79k")
    refused(fetched, "ViT-B-32", "--model bundled", "local-dir:", code=1)


def test_weights_of_another_architecture_are_one_clear_error(
    vlood: Vlood, tiny: str, few: Path
) -> None:
    weights = Path(tiny.removeprefix("local-dir:")) / "open_clip_model.safetensors"
    done = vlood("score", few, "--classes", CLASSES, "--model", f"RN50:{weights}")
    assert done.code in (1, 2)
    refused(done, "RN50", code=done.code)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("\n  \n\n", "names no class"),
        ("cat\ndog\n\ncat\n", "'cat' (lines 1, 4)"),
    ],
)
def test_class_lists_that_are_refused(
    lines: str, said: str, vlood: Vlood, tiny: str, few: Path, tmp_path: Path
) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text(lines)
    refused(vlood("score", few, "--model", tiny, "--classes", classes), str(classes), said)


def test_ten_thousand_classes_among_blank_lines(
    vlood: Vlood, tiny: str, few: Path, tmp_path: Path
) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("\n\n" + "".join(f"thing {number}\n \n" for number in range(10_000)))
    done = vlood("score", few, "--model", tiny, "--classes", classes, "--no-cache")
    assert (done.code, len(done.records)) == (0, 70), done.err
    assert all(one["label"].startswith("thing ") for one in done.records)


def test_one_class_is_a_class_list(vlood: Vlood, tiny: str, few: Path, tmp_path: Path) -> None:
    classes = tmp_path / "one.txt"
    classes.write_text("cat\n")
    common = ("score", few, "--model", tiny, "--classes", classes)
    done = vlood(*common, "--method", "max-logit")
    assert (done.code, len(done.records)) == (0, 70), done.err
    assert {one["label"] for one in done.records} == {"cat"}
    refused(vlood(*common), "mcm", "at least 2", "max-logit")


def test_bad_embeddings_are_refused(vlood: Vlood, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = tmp_path / "classes.npy"
    np.save(classes, rng.normal(size=(3, 8)).astype(np.float32))
    classes.with_suffix(".txt").write_text("a\nb\nc\n")
    rows = rng.normal(size=(6, 8)).astype(np.float32)
    rows[4, 2] = np.nan
    np.save(tmp_path / "nan.npy", rows)
    np.save(tmp_path / "wide.npy", rng.normal(size=(6, 9)).astype(np.float32))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    common = ("--class-embeddings", classes)
    refused(vlood("score", tmp_path / "nan.npy", *common), "nan.npy", "1 of 6 rows", "row 4")
    refused(vlood("score", tmp_path / "wide.npy", *common), "wide.npy", "9", "8")
    refused(vlood("score", tmp_path / "objects.npy", *common), "objects.npy")
    refused(vlood("score", tmp_path / "text.npy", *common), "text.npy")
    refused(
        vlood("eval", "--id", tmp_path / "nan.npy", "--ood", tmp_path / "wide.npy", *common),
        "nan.npy",
    )


# Outputs that cannot be written.


@pytest.fixture
def shut(tmp_path: Path) -> Path:
    """Return a folder nobody may write, or skip where this user may all the same."""
    if not modes_are_obeyed(tmp_path):
        pytest.skip("this user may write everywhere, and the right to cannot be dropped")
    folder = tmp_path / "shut"
    folder.mkdir()
    folder.chmod(0o555)
    return folder


def test_a_read_only_output_is_one_sentence(
    vlood: Vlood, tiny: str, few: Path, shut: Path, tmp_path: Path
) -> None:
    common = ("--model", tiny, "-q")
    options = ("--classes", CLASSES, "--cache", shut / "cache")
    done = vlood(
        *("score", few, *common, *options, "-o", shut / "out.jsonl"), preexec_fn=obey_permissions
    )
    refused(done, "out.jsonl", "cannot be written", code=1)
    done = vlood("embed", few, *common, "-o", shut / "store", preexec_fn=obey_permissions)
    refused(done, "store", "cannot be written", code=1)
    missing = vlood("score", few, *common, "--classes", CLASSES, "-o", tmp_path / "no" / "out.csv")
    refused(missing, "does not exist")


def test_a_read_only_cache_stops_nothing(vlood: Vlood, tiny: str, few: Path, shut: Path) -> None:
    done = vlood(
        *("score", few, "--model", tiny, "--classes", CLASSES, "--cache", shut),
        preexec_fn=obey_permissions,
    )
    assert (done.code, len(done.records)) == (0, 70)
    assert len(done.err.splitlines()) <= 3  # one for each part of the cache
    assert "Traceback" not in done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(vlood: Vlood, tiny: str, few: Path, tmp_path: Path) -> None:
    common = ("score", few, "--model", tiny, "--classes", CLASSES)
    refused(vlood(*common, "-o", "/dev/full"), "disk is full", code=1)
    with open("/dev/full", "wb") as full:
        refused(vlood(*common, "--format", "csv", stdout=full), "disk is full", code=1)
        refused(vlood("methods", stdout=full), "disk is full", code=1)


def small_files(limit: int) -> Callable[[], None]:
    """Return what makes every file of a process end at `limit` bytes."""

    def begin() -> None:
        interruptible()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return begin


@pytest.mark.skipif(
    "coverage" in sys.modules, reason="coverage's own data would not grow beyond the limit either"
)
def test_a_file_that_cannot_grow_keeps_what_is_finished(
    vlood: Vlood, tiny: str, tmp_path: Path
) -> None:
    images = write_pictures(tmp_path / "images", 300)
    out = tmp_path / "out.jsonl"
    common = ("score", images, "--model", tiny, "--classes", CLASSES, "--batch-size", "16")
    done = vlood(*common, "-o", out, preexec_fn=small_files(20_000))
    refused(done, "out.jsonl", code=1)
    assert not out.exists()
    assert Path(f"{out}.partial").stat().st_size > 5_000
    stored = vlood("embed", images, "--model", tiny, "-o", tmp_path / "store",
                   preexec_fn=small_files(20_000))  # fmt: skip
    refused(stored, "store", "cannot be written", code=1)
    finished = vlood(*common, "-o", out, "--resume")
    assert finished.code == 0, finished.err
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 300
    assert len({one["path"] for one in records}) == 300


def test_a_small_disk_fills_up(vlood: Vlood, tiny: str, few: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("needs the right to mount a small file system")
    tried = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        out = disk / "out.jsonl"
        done = vlood("score", few, "--model", tiny, "--classes", CLASSES, "-o", out)
        refused(done, "out.jsonl", "disk is full", "--resume", code=1)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
