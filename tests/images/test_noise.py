"""Pictures of noise."""

from __future__ import annotations

import numpy as np

from vlood.images.noise import NOISE_KINDS, noise_pictures


def test_three_pictures_of_each_kind() -> None:
    pictures = noise_pictures(20, 30)
    assert pictures.shape == (15, 20, 30, 3)
    assert pictures.dtype == np.uint8
    kinds = dict(zip(NOISE_KINDS, pictures.reshape(5, 3, 20, 30, 3), strict=True))
    for kind in kinds.values():
        assert kind.min() <= 1
        assert kind.max() >= 254
        assert len({picture.tobytes() for picture in kind}) == 3
    assert set(np.unique(kinds["salt-and-pepper"])) == {0, 255}
    assert 0.4 < kinds["salt-and-pepper"].mean() / 255 < 0.6
    assert len(np.unique(kinds["poisson"])) < 25
    assert abs(kinds["uniform"].mean() / 255 - 0.5) < 0.05
    # The gamma distribution has a long tail, the normal one none.
    assert np.median(kinds["gamma"]) < np.median(kinds["gaussian"])


def test_the_seed_alone_decides_and_no_global_generator() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again, other = noise_pictures(4, 4), noise_pictures(4, 4), noise_pictures(4, 4, seed=1)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_single_pixel_is_a_picture_too() -> None:
    assert noise_pictures(1, 1).shape == (15, 1, 1, 3)
