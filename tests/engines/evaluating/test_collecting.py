"""One pass over a set: batches kept, a torn line cut off, changed images noticed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vlood.backbone.image_features import ImageFeatures
from vlood.engines.evaluating.collecting import PartialScores, collect
from vlood.engines.evaluating.sets import EvalSet, check_sets
from vlood.engines.scoring import ScoredBatch
from vlood.errors import UsageError
from vlood.methods.contract import Scores


@pytest.fixture
def pictures(tmp_path) -> EvalSet:
    folder = tmp_path / "pictures"
    (folder / "dog").mkdir(parents=True)
    for number in range(7):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / "dog" / f"{number}.png")
    return EvalSet("pictures", "near", (str(folder),))


class Scoring:
    """Scores images by their number, in batches of two, and counts them."""

    def __init__(self, stop_after: int = 99) -> None:
        self.seen = 0
        self.stop_after = stop_after

    def __call__(self, items) -> Iterator[ScoredBatch]:
        items = list(items)
        for start in range(0, len(items), 2):
            if self.seen >= self.stop_after:
                raise KeyboardInterrupt
            some = items[start : start + 2]
            number = np.array([int(item.path[-5]) for item in some], float)
            self.seen += len(some)
            yield ScoredBatch(
                ids=[item.path for item in some],
                labels=[item.label for item in some],
                positions=np.arange(len(some)),
                features=ImageFeatures(np.zeros((len(some), 3), np.float32)),
                scores=[Scores(number / 3, number.astype(int), number)],
                errors={},
                digests=[bytes([int(one)]) * 16 for one in number],
                encoded=len(some),
            )


def test_a_stopped_pass_goes_on_after_its_last_whole_batch(pictures, tmp_path):
    partial = PartialScores(tmp_path / "p.jsonl")
    with pytest.raises(KeyboardInterrupt):
        collect(pictures, Scoring(stop_after=4), 1, partial=partial)
    with partial.path.open("a") as stream:
        stream.write('{"ids": ["torn')
    rest = Scoring()
    found = collect(pictures, rest, 1, partial=partial)
    assert rest.seen == found.encoded == 3
    whole = collect(pictures, Scoring(), 1)
    assert found.images == whole.images
    np.testing.assert_array_equal(found.judged[0].scores, np.arange(7) / 3)
    np.testing.assert_array_equal(found.judged[0].predicted, np.arange(7))
    assert found.images.labels == ["dog"] * 7


def test_images_that_changed_meanwhile_are_noticed(pictures, tmp_path):
    partial = PartialScores(tmp_path / "p.jsonl")
    with pytest.raises(KeyboardInterrupt):
        collect(pictures, Scoring(stop_after=4), 1, partial=partial)
    Image.new("RGB", (4, 4)).save(f"{pictures.inputs[0]}/0-9.png")
    with pytest.raises(UsageError, match="images of pictures changed"):
        collect(pictures, Scoring(), 1, partial=partial)


def test_embeddings_that_are_kept_start_a_set_over(pictures, tmp_path):
    partial = PartialScores(tmp_path / "p.jsonl")
    with pytest.raises(KeyboardInterrupt):
        collect(pictures, Scoring(stop_after=4), 1, partial=partial)
    scoring = Scoring()
    found = collect(pictures, scoring, 1, partial=partial, keep_features=True)
    assert scoring.seen == 7
    assert found.features is not None
    assert found.features.shape == (7, 3)


def test_sets_with_one_name_or_one_input_are_refused(pictures):
    known = EvalSet("known", "id", (f"{pictures.inputs[0]}/dog",))
    check_sets([known, pictures])
    with pytest.raises(UsageError, match="two sets are called pictures"):
        check_sets([replace(known, name="pictures"), pictures])
    twin = EvalSet("twin", "far", (f"{pictures.inputs[0]}/",))
    with pytest.raises(UsageError, match="pictures and twin are the same input"):
        check_sets([known, pictures, twin])
    with pytest.raises(UsageError, match="does not exist"):
        check_sets([known, EvalSet("gone", "far", ("no-such-folder",))])
