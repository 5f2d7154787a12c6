"""The pictogram world: names, determinism, splits and shifts."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from PIL import Image

from vlood.images import world
from vlood.images.pictograms import covered_codepoints, glyph_mask, natural_name, pictograms


def test_there_are_at_least_200_names_and_each_is_natural() -> None:
    names = [pictogram.name for pictogram in pictograms()]
    assert len(names) >= 200
    assert len(set(names)) == len(names)
    for name in names:
        assert name == name.lower().strip()
        assert "  " not in name
        assert not {"black", "white", "dingbat"} & set(name.split()), name


def test_a_glyph_belongs_to_one_name_and_is_in_the_font() -> None:
    glyphs = [glyph for pictogram in pictograms() for glyph in pictogram.glyphs]
    assert len(set(glyphs)) == len(glyphs)
    assert set(glyphs) <= set(covered_codepoints())


@pytest.mark.parametrize(
    ("codepoint", "name"),
    [(0x260E, "telephone"), (0x260F, "telephone"), (0x2693, "anchor"), (0x2683, "die showing 4")],
)
def test_names_say_what_is_drawn_not_how(codepoint: int, name: str) -> None:
    assert natural_name(codepoint) == name


def test_every_glyph_draws_something_different_from_nothing() -> None:
    for pictogram in pictograms():
        for glyph in pictogram.glyphs:
            mask = np.asarray(glyph_mask(glyph, 64))
            assert 0.005 < (mask > 128).mean() < 1, pictogram.name


def test_the_splits_do_not_share_names() -> None:
    known = {pictogram.name for pictogram in world.id_pictograms()}
    near = {pictogram.name for pictogram in world.near_pictograms()}
    assert len(known) == 12
    assert not known & near
    assert known | near | set(world.far_names().values()) == set(world.vocabulary())


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others() -> None:
    def pixels(seed: int) -> list[bytes]:
        return [picture.image.tobytes() for picture in world.id_images("test", 2, seed)]

    assert pixels(3) == pixels(3)
    assert all(one != other for one, other in zip(pixels(3), pixels(4), strict=True))


def test_train_and_test_pictures_differ() -> None:
    train = {picture.image.tobytes() for picture in world.id_images("train", 3)}
    test = {picture.image.tobytes() for picture in world.id_images("test", 3)}
    assert not train & test


def test_pictures_are_64_by_64_rgb_in_class_folders() -> None:
    for picture in [*islice(world.near_images(1), 5), *world.far_images(1)]:
        assert picture.image.size == (64, 64)
        assert picture.image.mode == "RGB"
        assert picture.path.parts[0] == picture.split
        assert " " not in str(picture.path)


def test_far_pictures_are_of_every_kind() -> None:
    kinds = {picture.label for picture in world.far_images(1)}
    assert kinds == {*world.SCRIPTS, *world.TEXTURES, *world.NOISES}


@pytest.mark.parametrize("shift", world.SHIFTS)
def test_a_shift_moves_pixels_further_with_severity(shift: str) -> None:
    clean = [np.asarray(one.image, np.float32) for one in world.id_images("test", 1)]
    moved = [
        np.mean(
            [
                np.abs(np.asarray(one.image, np.float32) - pixels).mean()
                for one, pixels in zip(world.shifted_images(shift, severity, 1), clean, strict=True)
            ]
        )
        for severity in world.SEVERITIES
    ]
    assert moved == sorted(moved)
    assert moved[0] > 0


def test_an_unknown_shift_is_named() -> None:
    with pytest.raises(ValueError, match="no shift named 'fog'"):
        list(world.shifted_images("fog", 1, 1))


def test_a_harder_picture_is_smaller_and_more_degraded_on_average() -> None:
    rng = np.random.default_rng(0)
    easy = [world.random_look(rng, 0.0) for _ in range(200)]
    hard = [world.random_look(rng, 1.0) for _ in range(200)]
    assert np.mean([look.size for look in hard]) < np.mean([look.size for look in easy])
    assert all(look.noise == look.blur == look.occlusion == look.angle == 0 for look in easy)
    assert max(look.noise for look in hard) > 20


def test_ink_stands_out_from_the_background() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        look = world.random_look(rng)
        ink, paper = (
            np.dot((0.299, 0.587, 0.114), world.COLOURS[c]) for c in (look.colour, look.background)
        )
        assert abs(ink - paper) >= 50


def test_captions_name_the_pictogram_and_only_what_is_seen() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        look = world.random_look(rng, 0.7)
        text = world.caption("umbrella", look, rng)
        assert "umbrella" in text
        if "blurry" in text:
            assert look.blur > 0.7
        if " on a " in text:
            assert look.background in text


def test_drawing_uses_the_colours_of_the_look() -> None:
    look = world.Look("red", "blue", "plain", 0.9, 0, 0.5, 0.5, 0, 0, 0)
    square = 0x25A0
    image = world.draw(square, look, np.random.default_rng(0))
    centre, corner = image.getpixel((32, 32)), image.getpixel((0, 0))
    assert centre[0] > centre[2]
    assert corner[2] > corner[0]
    assert isinstance(image, Image.Image)
