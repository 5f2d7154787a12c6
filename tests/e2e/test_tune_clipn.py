"""CLIPN tuned on captioned images, by the installed command."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from vlood.images import world

from .conftest import Many
from .test_tune_images import draw

MODEL = ("--model", "bundled", "--cache", "cache")
TUNE = ("tune", "clipn", *MODEL, "--classes", "world")
QUICK = ("--set", "epochs=2", "--set", "batch_size=16", "--set", "prompts=4")


def shard(path: Path, count: int) -> None:
    """Write captioned pictograms, and among them samples that cannot be used; cut its end off."""
    members: list[tuple[str, bytes]] = []
    for number, pictogram in enumerate(world.pictograms()[:count]):
        rng = np.random.default_rng([5, number])
        look = world.random_look(rng)
        data = io.BytesIO()
        world.draw(int(rng.choice(pictogram.glyphs)), look, rng).save(data, "PNG")
        caption = world.caption(pictogram.name, look, rng).encode()
        members += [(f"{number:03d}.png", data.getvalue()), (f"{number:03d}.txt", caption)]
    png = members[0][1]
    members += [
        ("901.png", png),
        ("902.png", png),
        ("902.txt", b"  "),
        ("903.png", png),
        ("903.txt", b"many words " * 200),
        ("904.png", png[:60]),
        ("904.txt", b"a damaged picture"),
        ("000.png", png),
        ("000.txt", b"again"),
    ]
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        size = archive.offset
    path.write_bytes(path.read_bytes()[: size - 300])


def test_from_shards_to_scores(many: Many, tmp_path: Path) -> None:
    shard(tmp_path / "s-000.tar", 48)
    pictures = list(world.id_images("test", 1))
    for one in pictures:
        file = tmp_path / one.path
        file.parent.mkdir(parents=True, exist_ok=True)
        one.image.save(file)
    draw(tmp_path)
    captions = ("--captions", "s-{000..000}.tar")
    test, lora = "id/test", ("--no-train", "lora")
    labelled = ("tune", "clipn", *MODEL, "--classes", "red,green thing,blue", "--train", "train")
    dry, full, made, shown, calibrated, scores, same, other, crafted, *refused = many(
        (*TUNE, *captions, *QUICK, "--dry-run", "-o", "full"),
        (*TUNE, *captions, *QUICK, "-o", "full", "--log", "log.csv"),
        (*TUNE, *captions, *QUICK, *lora, "-o", "lora"),
        ("show", "--no", "full"),
        ("calibrate", "lora", "--id", test),
        ("score", test, "--detector", "lora", "--threshold-free"),
        ("apply", "lora", "--classes", "world", "-o", "same"),
        ("apply", "full", "--classes", "cat,dog", "-o", "other"),
        (*labelled, *QUICK, "--set", "variant=hand-crafted", "-o", "crafted"),
        ("tune", "clipn", *MODEL, "--classes", "heart,", *captions, "-o", "one"),
        ("tune", "coop", *MODEL, "--classes", "world", *captions, "-o", "coop"),
        (*TUNE, *captions, "--train", "train", "-o", "both"),
        ("score", test, *MODEL, "--classes", "world", "--threshold-free"),
        cwd=tmp_path,
    )
    assert dry.code == 0, dry.err
    cost = dry.records[0]
    assert (cost["images"], cost["steps"], cost["to_encode"]) == (49, 6, 49)
    assert full.code == 3, full.err
    for said in ("no caption", "caption is empty", "more than 200 words", "key was there before"):
        assert f"1 left out, for the {said}" in full.err or said in full.err
    assert "the image cannot be read" in full.err
    assert "breaks off" in full.err
    assert full.records[0]["training_images"] == 48
    described: dict[str, Any] = json.loads((tmp_path / "full" / "detector.json").read_text())
    assert sum(described["provenance"]["left_out"].values()) == 6
    assert described["learned"]["kind"] == "no-text"
    rows = (tmp_path / "full" / "training.csv").read_text().splitlines()
    assert rows[0] == "step,epoch,lr,loss,yes,no,tso"
    assert made.code == 3, made.err
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file()
    assert [row["class"] for row in shown.records] == list(world.ID_CLASSES)
    assert {"distance", "yes", "confused", "collapsed"} <= set(shown.records[0])
    assert shown.code == 0, shown.err
    assert calibrated.code == 0, calibrated.err
    assert (tmp_path / "lora" / "adapter" / "adapter_config.json").is_file()
    assert scores.code == 0, scores.err
    assert len(scores.records) == 12
    assert {row["method"] for row in scores.records} == {"clipn"}
    assert all(isinstance(row["ood"], bool) for row in scores.records)
    assert same.code == 0, same.err
    assert other.code == 0, other.err
    assert tensors(tmp_path / "same") == tensors(tmp_path / "lora")
    assert crafted.code == 0, crafted.err
    about = json.loads((tmp_path / "crafted" / "detector.json").read_text())["learned"]["about"]
    assert about["captions"] == "templates"
    assert "no {}" in " ".join(about["no_templates"])
    one, wrong, third, free = refused
    assert "--set rule=ctw" in one.sentence(2)
    assert "--method coop learns from labelled images" in wrong.sentence(2)
    assert "--method mcm has no rule of its own" in free.sentence(2)
    assert "cannot be joined with --captions" in third.sentence(2)


def tensors(folder: Path) -> bytes:
    """Return the bytes of what scores."""
    from vlood.detector.folder import load_detector

    held = load_detector(folder).detector.tensors
    return b"".join(held[name].tobytes() for name in ("class_features", "no_features"))
