"""Covariate shifts: what they keep, how they grow, and that a seed settles them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlood.errors import UsageError
from vlood.images.shifts import SEVERITIES, SHIFTS, Shift, content_seed, parse_shift, shifted
from vlood.images.world import id_images

RANDOM = {"gaussian-noise", "shot-noise", "motion-blur", "fog", "snow", "rain"}

names = pytest.mark.parametrize("name", SHIFTS)


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


@names
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
def test_every_severity_goes_further(name: str, picture: Image.Image, seed: int) -> None:
    apart = [distance(shifted(picture, name, each, seed), picture) for each in SEVERITIES]
    assert apart == sorted(set(apart))
    assert apart[0] > 0


@names
def test_every_severity_goes_further_on_a_drawing(name: str) -> None:
    drawing = next(iter(id_images("test", 1))).image
    apart = [distance(shifted(drawing, name, each, 3), drawing) for each in SEVERITIES]
    assert apart == sorted(set(apart))


@names
@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    severity=st.sampled_from(SEVERITIES),
    seed=st.integers(0, 2**64 - 1),
)
def test_size_and_mode_are_kept_and_a_seed_settles_every_pixel(
    name: str, size: tuple[int, int], severity: int, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    state = np.random.get_state()[1].copy()  # noqa: NPY002  the global one must stay untouched
    result = shifted(image, name, severity, seed)
    assert (result.size, result.mode) == (size, "RGB")
    assert result.tobytes() == shifted(image, name, severity, seed).tobytes()
    assert image.tobytes() == noise.tobytes()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@names
def test_another_seed_is_another_picture_where_there_is_chance(
    name: str, picture: Image.Image
) -> None:
    same = shifted(picture, name, 3, 1).tobytes() == shifted(picture, name, 3, 2).tobytes()
    assert same == (name not in RANDOM)


@pytest.mark.parametrize("name", ["gaussian-blur", "motion-blur", "defocus", "pixelate"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (9, 80, 200)])
def test_what_only_smears_leaves_one_colour_as_it_is(name: str, colour: tuple[int, ...]) -> None:
    plain = Image.new("RGB", (50, 40), colour)
    assert shifted(plain, name, 5, 0).tobytes() == plain.tobytes()


def test_saturation_ends_in_grey_and_contrast_keeps_the_mean(picture: Image.Image) -> None:
    red, green, blue = np.moveaxis(np.asarray(shifted(picture, "saturation", 5, 0)), 2, 0)
    assert (red == green).all()
    assert (green == blue).all()
    flat = np.asarray(shifted(picture, "contrast", 5, 0), float)
    assert flat.mean() == pytest.approx(np.asarray(picture, float).mean(), abs=0.5)


def test_gaussian_noise_has_the_deviation_it_says() -> None:
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = np.asarray(shifted(grey, "gaussian-noise", 1, 0), float)
    assert noisy.std() == pytest.approx(15, rel=0.02)


def test_a_seed_belongs_to_the_content() -> None:
    assert content_seed(b"a") == content_seed(b"a") != content_seed(b"b")
    assert 0 <= content_seed(b"") < 2**64


def test_shifts_are_read_as_they_are_written() -> None:
    for name in SHIFTS:
        assert str(parse_shift(f"{name}:3")) == f"{name}:3"
    assert parse_shift("fog:5") == Shift("fog", 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("noise:3", "did you mean gaussian-noise or shot-noise"),
        ("gausian_blur:1", "did you mean gaussian-blur"),
        ("quux:1", "there are gaussian-noise"),
        ("", "no shift is called ''"),
        ("fog", "write fog:3"),
        ("fog:0", "from 1 .weak. to 5"),
        ("fog:6", "from 1"),
        ("fog:x", "from 1"),
        ("fog:", "from 1"),
        ("fog: 3", "from 1"),
    ],
)
def test_wrong_shifts_are_told_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_shift(text)


def test_other_pictures_and_severities_are_refused(picture: Image.Image) -> None:
    with pytest.raises(UsageError, match="this one is L"):
        shifted(picture.convert("L"), "fog", 1, 0)
    with pytest.raises(UsageError, match="6 is none of them"):
        shifted(picture, "fog", 6, 0)
