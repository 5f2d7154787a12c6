"""Training images as pixels: what scoring sees, or a part that follows from epoch and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines.conftest import draw_world
from vlood.backbone.tuned_weights import LoraSettings, add_adapter
from vlood.engines.training_pixels import ItemPixels
from vlood.engines.tuning import ItemViews
from vlood.errors import VloodError
from vlood.features.stream import StreamSettings, encode_images
from vlood.images.augment import Augmentation
from vlood.images.sources import find_images

CROP = Augmentation((0.9, 1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world"), 1)


def pixels(folder: Path, backbone: Any) -> tuple[ItemPixels, list[Any]]:
    items = list(find_images([str(folder)]))
    views = ItemViews(lambda: items, backbone, StreamSettings(4, 2))
    return ItemPixels(views, [item.path for item in items]), items


def test_whole_images_are_those_that_are_scored(folder: Path, backbone: Any) -> None:
    source, items = pixels(folder, backbone)
    rows = np.array([5, 0, 3])
    source.expect(rows[:2], 0, 1, Augmentation())
    pictures = source.of(rows, 0, 1, Augmentation())
    chosen = [items[row] for row in rows.tolist()]
    expected = np.concatenate(
        [one.features.raw for one in encode_images(chosen, backbone, StreamSettings(4, 1))]
    )
    np.testing.assert_allclose(backbone.encode_pixels(pictures).raw, expected, atol=1e-5)
    np.testing.assert_array_equal(source.of(rows, 9, 7, Augmentation()), pictures)


def test_views_follow_from_their_number_and_the_seed(folder: Path, backbone: Any) -> None:
    source, _ = pixels(folder, backbone)
    again, _ = pixels(folder, backbone)
    rows = np.arange(4)
    first = source.of(rows, 0, 1, CROP)
    np.testing.assert_array_equal(first, again.of(rows, 0, 1, CROP))
    for number, seed in ((1, 1), (0, 2)):
        assert (again.of(rows, number, seed, CROP) != first).any()
    assert first.shape == source.of(rows, 0, 1, Augmentation()).shape


def test_an_image_that_went_away_is_named(folder: Path, backbone: Any) -> None:
    items = list(find_images([str(folder)]))
    views = ItemViews(lambda: iter(()), backbone, StreamSettings(4, 1))
    with pytest.raises(VloodError, match="is there no more"):
        ItemPixels(views, [items[0].path]).of(np.arange(1), 0, 0, CROP)


def test_the_default_adapter_of_the_bundled_model_is_small(backbone: Any) -> None:
    import copy

    module = copy.deepcopy(backbone.module)
    whole = sum(one.numel() for one in module.parameters())
    add_adapter(module, LoraSettings(), np.random.default_rng(0))
    trained = sum(one.numel() for one in module.parameters() if one.requires_grad)
    # In bytes too: the model's file is in half precision, the adapter's in single.
    assert 0 < 4 * trained <= 0.05 * 2 * whole
