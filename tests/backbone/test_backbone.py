from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlood.backbone.backbone import Backbone
from vlood.backbone.batches import ShrinkingBatches, is_out_of_memory
from vlood.backbone.image_features import ImageFeatures
from vlood.backbone.load import load_backbone
from vlood.errors import UsageError, VloodError


@pytest.fixture(scope="module")
def backbone(vit_folder: Path) -> Backbone:
    return load_backbone(f"local-dir:{vit_folder}", device="cpu")


def pixels(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_images_are_encoded_as_open_clip_does(backbone: Backbone, vit: Any) -> None:
    batch = pixels(5)
    features = backbone.encode_pixels(batch)
    images = (torch.from_numpy(batch).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        expected = vit.encode_image(images)
    np.testing.assert_allclose(features.raw, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(features.unit, axis=1), 1, atol=1e-6)
    assert features.raw.dtype == features.unit.dtype == np.float32
    assert features.local is None
    assert features.unit_local is None
    assert len(features) == 5


def test_local_features_come_with_the_same_global_ones(backbone: Backbone) -> None:
    assert backbone.local_refusal is None
    with_local = backbone.encode_pixels(pixels(4), local=True)
    np.testing.assert_allclose(with_local.raw, backbone.encode_pixels(pixels(4)).raw, atol=1e-5)
    assert with_local.local is not None
    assert with_local.local.shape == (4, 16, 24)
    assert with_local.local_grid == (4, 4)
    assert with_local.unit_local is not None
    np.testing.assert_allclose(np.linalg.norm(with_local.unit_local, axis=-1), 1, atol=1e-6)


def test_identity_is_plain_text_that_names_what_matters(backbone: Backbone) -> None:
    identity = backbone.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["weights"] == backbone.digest
    assert identity["precision"] == "fp32"
    assert identity["preprocessing"] == backbone.preprocessing.describe()
    assert {"architecture", "config", "open_clip"} < set(identity)
    assert backbone.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert backbone.logit_bias is None
    assert backbone.embed_dim == 24


def test_texts_use_the_models_tokenizer(backbone: Backbone, vit: Any, tokenizer: Any) -> None:
    texts = ["a red umbrella", "the nice dog"]
    with torch.inference_mode():
        expected = vit.encode_text(tokenizer(texts)).numpy()
    np.testing.assert_allclose(backbone.encode_texts(texts), expected, atol=1e-5)
    assert backbone.encode_texts([]).shape == (0, 24)
    assert backbone.text_tower is not None


def test_nothing_in_gives_nothing_out(backbone: Backbone) -> None:
    assert backbone.encode_pixels(pixels(0)).raw.shape == (0, 24)


def test_the_model_is_frozen(backbone: Backbone) -> None:
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("folder", ["vit_folder", "resnet_folder"])
def test_half_precision_gives_close_float32(
    folder: str, precision: str, request: pytest.FixtureRequest
) -> None:
    model = f"local-dir:{request.getfixturevalue(folder)}"
    exact = load_backbone(model, device="cpu")
    half = load_backbone(model, device="cpu", precision=precision)
    assert half.precision == precision
    assert half.digest == exact.digest
    assert half.identity() != exact.identity()
    batch = pixels(3, exact.preprocessing.size[0])
    features, expected = (
        half.encode_pixels(batch, local=True),
        exact.encode_pixels(batch, local=True),
    )
    assert features.raw.dtype == np.float32
    assert (features.unit * expected.unit).sum(1).min() > 0.99
    assert features.unit_local is not None
    assert expected.unit_local is not None
    assert (features.unit_local * expected.unit_local).sum(-1).min() > 0.98
    texts = ["a dog", "a photo of a cat"]
    cosines = np.sum(half.encode_texts(texts) * exact.encode_texts(texts), axis=1)
    lengths = np.linalg.norm(exact.encode_texts(texts), axis=1) ** 2
    assert np.abs(cosines / lengths - 1).max() < 0.05


def test_local_features_are_refused_by_name(vit_folder: Path) -> None:
    backbone = load_backbone(f"local-dir:{vit_folder}", device="cpu")
    backbone.local_refusal = "this tower has none"
    with pytest.raises(UsageError, match=r"local-dir:.*this tower has none"):
        backbone.encode_pixels(pixels(1), local=True)


@pytest.mark.parametrize("local", [False, True])
def test_a_full_device_halves_the_batch_for_good(
    vit_folder: Path, local: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = load_backbone(f"local-dir:{vit_folder}", device="cpu")
    expected = backbone.encode_pixels(pixels(11), local=local)
    sizes: list[int] = []

    def full(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    backbone.module.visual.conv1.register_forward_pre_hook(full)
    with caplog.at_level(logging.WARNING):
        features = backbone.encode_pixels(pixels(11), local=local)
    assert sizes[:2] == [11, 5]
    assert max(sizes[2:]) <= 3
    np.testing.assert_allclose(features.raw, expected.raw, atol=1e-5)
    if local:
        assert features.local is not None
        np.testing.assert_allclose(features.local, expected.local, atol=1e-5)
    warned = len(caplog.records)
    assert warned == 2
    sizes.clear()
    backbone.encode_pixels(pixels(11), local=local)
    assert max(sizes) <= 3
    assert len(caplog.records) == warned


def test_one_image_too_many_is_an_error_that_says_what_to_do() -> None:
    def never(_: slice) -> int:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(VloodError, match="smaller model"):
        list(ShrinkingBatches("image").map(7, never))


def test_other_failures_are_not_taken_for_memory() -> None:
    def broken(_: slice) -> int:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        list(ShrinkingBatches("image").map(7, broken))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))


def test_zero_features_stay_finite() -> None:
    assert np.isfinite(ImageFeatures(np.zeros((2, 4), np.float32)).unit).all()


@pytest.mark.shared
def test_real_photographs_are_encoded_as_a_plain_loop_does(shared: Path) -> None:
    import open_clip
    from PIL import Image

    folder = shared / "models" / "photo-tiny"
    backbone = load_backbone(f"local-dir:{folder}", device="cpu")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    paths = sorted((shared / "photos" / "id_imagenette" / "test").glob("*/*"))[::50]
    assert paths
    opened = [Image.open(path).convert("RGB") for path in paths]
    prepared = np.stack([backbone.preprocessing.prepare(image) for image in opened])
    with torch.inference_mode():
        expected = model.eval().encode_image(torch.stack([transform(image) for image in opened]))
    np.testing.assert_allclose(backbone.encode_pixels(prepared).raw, expected.numpy(), atol=1e-6)


def test_numbers_outside_the_precision_are_refused(vit_folder: Path) -> None:
    broken = load_backbone(f"local-dir:{vit_folder}", device="cpu")
    with torch.no_grad():
        broken.module.visual.proj[0, 0] = float("nan")
    with pytest.raises(VloodError, match="not finite numbers in fp32"):
        broken.encode_pixels(np.zeros((2, 32, 32, 3), np.uint8))
