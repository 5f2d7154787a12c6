"""Training images collected by the installed command, from a pool and from a tiny pipeline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from .conftest import _MANY, Many, Result, write_pictures

MODEL = ("--model", "bundled")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a flat folder: pictures of three classes, some of none, a copy, a broken file."""
    from vlood.images import world

    folder = tmp_path_factory.mktemp("a pool")
    kept = {"heart", "gear", "anchor"}
    known = [one for one in world.id_images("test", 8) if one.label in kept]
    for one in (*known, *world.far_images(2)):
        one.image.save(folder / f"{one.label.replace(' ', '-')}-{one.index}.png")
    for one in known:
        if one.index == 0:
            one.image.save(folder / f"{one.label}-again.jpg", quality=90)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_pool_gives_a_list_to_train_on(many: Many, pool: Path, tmp_path: Path) -> None:
    out, packed, mixed = tmp_path / "out", tmp_path / "packed", tmp_path / "mixed"
    words, shard = tmp_path / "words.txt", tmp_path / "pool.tar"
    words.write_text("stripes\ngreek letter\npattern of dots\n")
    with tarfile.open(shard, "w") as archive:
        for path in sorted(pool.glob("*.png")):
            archive.add(path, path.name)
    labelled = tmp_path / "labelled"
    for name in ("heart", "gear"):
        (labelled / name).mkdir(parents=True)
        shutil.copy(pool / f"{name}-7.png", labelled / name)
    (labelled / "other").mkdir()
    shutil.copy(pool / "anchor-7.png", labelled / "other")
    three = ("--classes", "heart,gear,anchor", *MODEL)
    found, tuned, again, shards, labels = many(
        ("collect", *three, "--pool", pool, "--negatives", words, "--per-label", 4, "-o", out),
        ("tune", "linear-probe", *three, "--train", out / "collected.txt", "-o", tmp_path / "d"),
        ("collect", *three, "--pool", pool, "--per-label", 4, "--overwrite", "-o", out),
        ("collect", *three, "--pool", shard, "--per-label", 2, "-o", packed),
        (
            *("collect", *three, "--pool", pool, "--from-folder", labelled),
            *("--per-label", 3, "--copy", "-o", mixed),
        ),
    )
    assert found.code == 3, found.err
    assert "broken.png" in found.err
    assert tuned.code == 0, tuned.err
    told = json.loads(found.out)
    assert told["id_images"] == 12
    assert told["images"] > 12
    assert again.code == 3, again.err
    records = [json.loads(line) for line in (out / "collected.jsonl").read_text().splitlines()]
    assert len(records) == 12
    for one in records:
        assert Path(one["path"]).name.startswith(one["label"])
    names = [Path(one["path"]).stem for one in records]
    for label in ("heart", "gear", "anchor"):
        assert not {f"{label}-0", f"{label}-again"} <= set(names)
    written = (out / "collected.txt").read_text().splitlines()
    assert written == [f"{one['path']}\t{one['label']}" for one in records]
    assert "broken.png" in (out / "unreadable.jsonl").read_text()
    made = json.loads((out / "provenance.json").read_text())
    assert made["complete"]
    assert made["pool"]["images"] == len(list(pool.iterdir())) - 1
    assert (out / "contact-sheet.png").stat().st_size > 1000
    assert shards.code == 3, shards.err
    for line in (packed / "collected.txt").read_text().splitlines():
        place, label = line.split("\t")
        assert label in place
        source = pool / place.rpartition("_")[2]
        assert (packed / place).read_bytes() == source.read_bytes()
    assert labels.code == 3, labels.err
    mixture = [json.loads(line) for line in (mixed / "collected.jsonl").read_text().splitlines()]
    first = {one["label"]: one for one in mixture if one["rank"] == 1}
    assert {name: first[name]["basis"] for name in first} == {
        **dict.fromkeys(("heart", "gear"), "given"),
        "anchor": "passed",
    }
    assert sum(one["source"] == "pool" for one in mixture) == 7


@pytest.mark.slow
def test_images_are_made_and_made_once(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    out, other = tmp_path / "out", tmp_path / "other"
    # The pipeline is written in the process that runs the commands: importing diffusers is slow.
    builder = Path(__file__).with_name("tiny_pipeline.py").read_text()
    code = f"{builder}\nwrite_pipeline(Path({str(tmp_path / 'tiny')!r}))\n{_MANY}"
    common = (
        *("collect", "--classes", "heart,gear", *MODEL, "--synthesize", "--per-label", "2"),
        *("--pipeline", str(tmp_path / "tiny" / "pipeline")),
    )
    commands = [
        [*common, "--steps", "2", "--made", "3", "-o", str(out)],
        [*common, "--steps", "2", "--made", "4", "-o", str(out), "--resume"],
        [*common, "--steps", "2", "--made", "1", "-o", str(other)],
        [*common, "--steps", "3", "--made", "4", "-o", str(out), "--resume"],
        # The same pipeline paints over pictures; those that were made will do.
        [
            *("collect", "--classes", "heart,gear", "--synthesize", "--inpaint", str(out / "made")),
            *("--pipeline", str(tmp_path / "tiny" / "pipeline"), "--steps", "2", "--size", "16"),
            *("--made", "2", "-o", str(tmp_path / "near")),
        ],
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(commands)],
        capture_output=True,
        env=environment,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    made, resumed, again, refused, near = (
        Result(*each) for each in json.loads(done.stdout.splitlines()[-1])
    )
    assert made.code == 0, made.err
    assert made.err == ""
    assert json.loads(made.out)["images"] == 4
    assert resumed.code == 0, resumed.err
    facts = json.loads((out / "provenance.json").read_text())["pipeline"]
    assert (facts["class"], facts["made_now"]) == ("StableDiffusionPipeline", 2)
    assert again.code == 0, again.err
    assert "2 of 2 labels get a single image" in again.err
    for name in ("heart", "gear"):
        first = Path("made", name, "0001.png")
        assert (out / first).read_bytes() == (other / first).read_bytes()
    records = [json.loads(line) for line in (out / "collected.jsonl").read_text().splitlines()]
    assert len({one["seed"] for one in records}) == 4
    assert all((out / one["path"]).is_file() for one in records)
    assert "made otherwise (steps" in refused.sentence(2)
    assert near.code == 0, near.err
    assert json.loads(near.out)["images"] == 4
    assert len(list((tmp_path / "near" / "near").glob("*/*_ood.png"))) == 4


def test_what_cannot_be_collected_is_one_sentence(many: Many, pool: Path, tmp_path: Path) -> None:
    two = ("--classes", "heart,gear", *MODEL)
    out = ("-o", tmp_path / "out")
    names = tmp_path / "names.txt"
    names.write_text("stripes\nGear\n")
    broken = tmp_path / "broken" / "heart"
    broken.mkdir(parents=True)
    (broken / "one.png").write_bytes(b"no picture")
    (broken.parent / "gear").mkdir()
    write_pictures(broken.parent / "gear", 3)
    for place in (broken.parent / "gear" / "class-0").iterdir():
        place.rename(broken.parent / "gear" / place.name)
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(pool / "heart-1.png", few)
    cases: list[tuple[tuple[object, ...], str]] = [
        ((*two,), "--pool is missing"),
        ((*two, "--pool", pool, "--synthesize"), "give one of them"),
        ((*two, "--pool", pool, "--per-label", 0), "--per-label 0"),
        ((*two, "--pool", pool, "--filter", "best"), "--filter best"),
        (("--classes", "heart,", *MODEL, "--pool", pool), "is the only label"),
        ((*two, "--pool", pool, "--negatives", names), "is also the class 'gear'"),
        ((*two, "--pool", few, "--strict"), "1 images are fewer than the 64"),
        ((*two, "--from-folder", broken.parent, "--strict"), "no image of heart could be read"),
        ((*two, "--pool", few, "--per-label", 1, "--min-similarity", 1, "--strict"), "fewer than"),
        ((*two, "--pool", broken, "--overwrite"), "none of the 1 images could be read"),
        ((*two, "--pool", pool, "--steps", 3), "--steps: goes with --synthesize"),
        ((*two, "--synthesize", "--pipeline", pool), "has no model_index.json"),
        ((*two, "--synthesize", "--pipeline", "no-such"), "is no folder and no name on the hub"),
        ((*two, "--synthesize", "--size", "big"), "--size big"),
        ((*two, "--synthesize", "--prompt", "a photo"), "has no {}"),
        ((*two, "--pool", pool, "--inpaint", pool), "--inpaint: goes with --synthesize"),
        ((*two, "--synthesize", "--mask", "all"), "--mask: goes with --inpaint"),
        ((*two, "--synthesize", "--inpaint", pool, "--per-label", 2), "has no label; leave it out"),
        ((*two, "--synthesize", "--inpaint", pool, "--strength", 2), "--strength 2.0: expected"),
        ((*two, "--synthesize", "--inpaint", pool, "--pipeline", "x"), "no name on the hub"),
    ]
    done = many(*(("collect", *case, *out, "--overwrite") for case, _ in cases))
    for one, (case, part) in zip(done, cases, strict=True):
        assert part in one.sentence(2), case
    foreign = many(("collect", *two, "--pool", pool, "-o", pool))[0]
    assert "did not write" in foreign.sentence(2)
