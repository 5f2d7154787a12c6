from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor

from vlood.backbone.preprocess import Preprocessing
from vlood.errors import ImageError

CONFIGS: list[dict[str, Any]] = [
    {"size": 32},
    {"size": [32, 32], "interpolation": "bilinear", "mean": (0.5, 0.5, 0.5), "std": (0.5,) * 3},
    {"size": (48, 32), "resize_mode": "shortest"},
    {"size": 40, "resize_mode": "squash"},
    {"size": 40, "resize_mode": "longest", "fill_color": 7},
]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def both(config: dict[str, Any]) -> tuple[Preprocessing, Any]:
    cfg = PreprocessCfg(**config)
    transform = image_transform_v2(cfg, is_train=False)
    return Preprocessing.of_transform(transform, cfg.size), transform


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
@settings(max_examples=15, deadline=None)
@given(width=st.integers(10, 150), height=st.integers(10, 150), seed=st.integers(0, 9))
def test_the_two_halves_give_the_transform_bit_for_bit(
    config: dict[str, Any], width: int, height: int, seed: int
) -> None:
    preprocessing, transform = both(config)
    assert preprocessing.split
    images = [picture(width, height, seed), picture(height, width, seed + 1)]
    pixels = np.stack([preprocessing.prepare(image) for image in images])
    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == (*preprocessing.size, 3)
    expected = torch.stack([transform(image) for image in images])
    assert torch.equal(preprocessing.normalise(pixels), expected)


def test_every_setting_changes_the_description_and_nothing_else_does() -> None:
    texts = [both(config)[0].describe() for config in CONFIGS]
    texts.append(both({"size": 32, "mean": (0.48145467, 0.4578275, 0.40821073)})[0].describe())
    texts.append(both({"size": 32, "interpolation": "bilinear"})[0].describe())
    assert len(set(texts)) == len(texts)
    assert both(CONFIGS[0])[0].describe() == both(CONFIGS[0])[0].describe()
    assert "0x" not in "".join(texts)


@pytest.mark.parametrize(("config", "side"), [(CONFIGS[0], 32), (CONFIGS[2], 48)])
def test_scaled_jpegs_keep_at_least_the_models_side(config: dict[str, Any], side: int) -> None:
    assert both(config)[0].draft_side == side


def test_another_transform_is_run_whole() -> None:
    transform = Compose([RandomHorizontalFlip(0.0), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    preprocessing = Preprocessing.of_transform(transform, 20)
    assert not preprocessing.split
    assert preprocessing.draft_side is None
    assert preprocessing.describe().startswith("whole transform")
    image = picture(20, 20)
    pixels = preprocessing.prepare(image)
    assert pixels.dtype == np.float32
    assert torch.equal(preprocessing.normalise(pixels[None])[0], transform(image))


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[4]])
@pytest.mark.parametrize("size", [(65_500, 1), (1, 65_500)])
def test_a_long_strip_is_refused_before_memory_is(
    config: dict[str, Any], size: tuple[int, int]
) -> None:
    preprocessing, _ = both({**config, "size": 224})
    with pytest.raises(ImageError, match="too long and thin"):
        preprocessing.prepare(Image.new("RGB", size))


def test_a_single_pixel_is_an_image() -> None:
    pixels = both(CONFIGS[0])[0].prepare(Image.new("RGB", (1, 1), (9, 8, 7)))
    assert pixels.shape == (32, 32, 3)
    assert (pixels == (9, 8, 7)).all()
