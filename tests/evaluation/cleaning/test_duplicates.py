"""Copies: the same bytes, the same picture, and what only looks like one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vlood.evaluation.cleaning.duplicates import (
    Pairs,
    alike,
    candidate_pairs,
    join,
    join_pairs,
    picture_candidates,
    picture_similarity,
    same_content,
    small_picture,
)


def picture(seed: int, side: int = 96) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def similarity(first: Image.Image, second: Image.Image) -> float:
    return float(picture_similarity(small_picture(first)[None], small_picture(second)[None])[0])


def test_altered_copies_are_alike_and_other_pictures_are_not() -> None:
    image = picture(0)
    assert similarity(image, image) == pytest.approx(1.0)
    assert similarity(image, recompressed(image, 30)) > 0.98
    assert similarity(image, image.resize((31, 31))) > 0.95
    assert similarity(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 0.999
    assert similarity(image, image.crop((3, 3, 93, 93))) > 0.9
    others = [similarity(image, picture(seed)) for seed in range(1, 40)]
    assert max(others) < 0.7


def test_plain_pictures_are_alike_only_in_their_own_colour() -> None:
    white, grey, black = (Image.new("RGB", (20, 20), (v, v, v)) for v in (250, 245, 0))
    assert similarity(white, grey) > 0.99
    assert similarity(white, black) < 0.01


def test_equal_files_share_their_first_row() -> None:
    assert same_content([b"a", b"b", b"a", b"c", b"b"]).tolist() == [0, 1, 0, 3, 1]


def test_candidates_are_all_pairs_above_the_cosine_where_they_are_few() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = candidate_pairs(rows, cosine=0.8)
    cosines = np.triu(rows @ rows.T, 1)
    assert found.rows.tolist() == np.argwhere(cosines >= 0.8).tolist()
    expected = cosines[found.rows[:, 0], found.rows[:, 1]]
    np.testing.assert_allclose(found.similarity, expected, atol=1e-6)
    capped = candidate_pairs(rows, cosine=-1.0, neighbours=3)
    assert 60 * 3 / 2 <= len(capped.rows) <= 60 * 3


def test_pictures_find_copies_that_embeddings_put_apart() -> None:
    images = [picture(seed) for seed in range(12)]
    images.append(images[4].transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    images.append(Image.new("RGB", (8, 8), "white"))
    pictures = np.stack([small_picture(image) for image in images])
    rng = np.random.default_rng(0)
    close = 1 + 0.3 * rng.normal(size=(14, 8))
    apart = close.copy()
    apart[12] *= -1

    def found(rows: np.ndarray) -> list[list[int]]:
        features = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return picture_candidates(pictures, features, 0.9).rows.tolist()

    assert found(close) == [[4, 12]]
    assert found(apart) == []


def test_only_readable_pictures_are_alike() -> None:
    pictures = np.stack([small_picture(picture(seed)) for seed in (0, 0, 1, 0)])
    pairs = Pairs(np.array([[0, 1], [0, 2], [0, 3]]), np.ones(3))
    readable = np.array([True, True, True, False])
    kept = alike(pairs, pictures, readable, 0.9)
    assert kept.rows.tolist() == [[0, 1]]
    assert kept.similarity.tolist() == pytest.approx([1.0])


def test_pairs_join_to_groups_named_by_their_first_row() -> None:
    pairs = np.array([[3, 5], [1, 3], [2, 6]])
    assert join_pairs(pairs, 8).tolist() == [0, 1, 2, 1, 4, 1, 2, 7]
    assert join_pairs(np.zeros((0, 2), np.int64), 3).tolist() == [0, 1, 2]
    both = join(Pairs(pairs, np.ones(3)), Pairs(pairs[:1], np.zeros(1)))
    assert both.rows.tolist() == [[1, 3], [2, 6], [3, 5]]
