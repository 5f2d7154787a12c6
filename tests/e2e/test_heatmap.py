"""`vlood score --heatmap` as a user runs it: pictures, their names in the records, and --resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from .conftest import CLASSES, Many


def test_score_draws_heat_maps_and_goes_on_after_a_failure(
    few: Path, tiny: str, many: Many, tmp_path: Path
) -> None:
    """70 pictures in batches of 32: the run fails in its second batch, and is resumed."""
    np.save(tmp_path / "stored.npy", np.ones((3, 32), np.float32))
    maps, part, table = tmp_path / "maps", tmp_path / "part.jsonl", tmp_path / "table.csv"
    maps.mkdir()
    foreign = maps / "00040-00039.png"
    foreign.write_text("mine")
    common = ("--model", tiny, "--classes", CLASSES, "-q")
    score = ("score", few, *common, "--heatmap-limit", "50", "--heatmap")
    stopped, flat, plain, no_pixels, no_folder = many(
        [*score, maps, "-o", part],
        [*score, tmp_path / "others", "-o", table],
        ["score", few, *common],
        ["score", tmp_path / "stored.npy", *common, "--heatmap", maps],
        ["score", few, *common, "--heatmap-limit", "3"],
    )
    assert "is no heat map" in stopped.sentence(2)
    assert "holds embeddings" in no_pixels.sentence(2)
    assert "needs --heatmap DIR" in no_folder.sentence(2)
    assert flat.code == plain.code == 0, flat.err + plain.err

    foreign.unlink()
    (resumed,) = many([*score, maps, "-o", part, "--resume"])
    assert resumed.code == 0, resumed.err
    records = [json.loads(line) for line in part.read_text().splitlines()]
    pictures = [record.pop("heatmap") for record in records]
    assert records == plain.records
    assert pictures[50:] == [None] * 20
    assert sorted(map(str, maps.iterdir())) == pictures[:50]
    with table.open(newline="") as stream:
        cells = [row["heatmap"] for row in csv.DictReader(stream)]
    assert cells[50:] == [""] * 20
    for one, other in zip(pictures[:50], cells[:50], strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()
    with Image.open(pictures[0]) as picture:
        assert picture.size == (2 * 256 + 4 * 12 + 16 + 74, 256 + 2 * 12 + 60)
