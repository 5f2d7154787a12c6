"""Decoding: equal to Pillow on plain images, right on odd ones, a sentence on bad ones."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from vlood.errors import ImageError, VloodError
from vlood.images.decode import FORMATS, DecodeSettings, decode, default_max_pixels

PLAIN = DecodeSettings()

ENCODINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("jpeg", "JPEG", {"quality": 90}),
    ("jpeg-progressive", "JPEG", {"progressive": True}),
    ("jpeg-444", "JPEG", {"subsampling": "4:4:4"}),
    ("png", "PNG", {}),
    ("webp", "WEBP", {}),
    ("webp-lossless", "WEBP", {"lossless": True}),
    ("gif", "GIF", {}),
    ("bmp", "BMP", {}),
    ("tiff", "TIFF", {}),
    ("tiff-lzw", "TIFF", {"compression": "tiff_lzw"}),
    ("ppm", "PPM", {}),
    ("avif", "AVIF", {}),
    ("jpeg2000", "JPEG2000", {}),
]
by_encoding = pytest.mark.parametrize(
    ("format", "options"), [case[1:] for case in ENCODINGS], ids=[case[0] for case in ENCODINGS]
)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@by_encoding
def test_plain_images_equal_pillow(picture, encode, format, options):
    data = encode(picture, format, **options)
    decoded = decode(data, PLAIN)
    assert decoded.mode == "RGB"
    assert np.array_equal(pixels(decoded), pillow(data))


@by_encoding
def test_truncated_images_are_refused_and_never_half_grey(picture, encode, format, options):
    data = encode(picture, format, **options)
    whole = pillow(data)
    cuts = {*range(1, 400, 13), *range(400, len(data), max(1, len(data) // 60))}
    cuts |= {len(data) // 2, len(data) * 9 // 10, len(data) - 40}
    refused = 0
    for cut in sorted(cut for cut in cuts if cut < len(data)):
        try:
            # What is missing may be no pixels: then the picture has to be the whole one.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert np.array_equal(pixels(decode(data[:cut], PLAIN)), whole)
        except ImageError:
            refused += 1
    assert refused >= 30


@pytest.mark.parametrize("format", ["PNG", "JPEG2000"])
def test_a_tail_of_zeros_is_refused(picture, encode, format):
    data = encode(picture, format)
    half = len(data) // 2
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(data[:half] + bytes(len(data) - half), PLAIN)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(picture, encode, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture, format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    decoded = decode(data, PLAIN)
    assert decoded.size == ((90, 120) if orientation >= 5 else (120, 90))
    assert np.array_equal(pixels(decoded), pixels(expected))


def test_damaged_exif_does_not_spoil_whole_pixels(picture, encode):
    data = encode(picture, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode(data, PLAIN).size == (120, 90)


def test_sixteen_bit_grey_is_scaled_not_clipped(encode):
    ramp = np.linspace(0, 65_535, 256 * 4).astype(np.uint16).reshape(4, 256)
    for format in ("PNG", "TIFF", "PPM"):
        grey = pixels(decode(encode(Image.fromarray(ramp), format), PLAIN))
        assert np.array_equal(grey[..., 0], np.rint(ramp / 257).astype(np.uint8)), format
        assert np.array_equal(grey[..., 0], grey[..., 2])


def test_big_endian_sixteen_bit_tiff(encode):
    ramp = np.linspace(0, 65_535, 64).astype(">u2").reshape(8, 8)
    raw = Image.frombytes("I;16B", (8, 8), ramp.tobytes())
    grey = pixels(decode(encode(raw, "TIFF"), PLAIN))[..., 0]
    assert np.array_equal(grey, np.rint(ramp.astype(float) / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 25_700.0, 65_535.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 1e6, 2e6], [0, 128, 255]),
        ([-3.0, -3.0, -3.0], [128, 128, 128]),
    ],
)
def test_float_images_are_scaled(encode, values, expected):
    data = encode(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert pixels(decode(data, PLAIN))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 25_700, 65_535], [0, 100, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([0, 1 << 29, 1 << 30], [0, 128, 255]),
    ],
)
def test_integer_images_are_scaled(encode, values, expected):
    data = encode(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF")
    assert pixels(decode(data, PLAIN))[0, :, 0].tolist() == expected


def test_float_images_with_nan_are_refused(encode):
    data = encode(Image.fromarray(np.array([[0.5, np.nan]], dtype=np.float32)), "TIFF")
    with pytest.raises(ImageError, match="NaN"):
        decode(data, PLAIN)


def test_cmyk_becomes_rgb(picture, encode):
    for format in ("JPEG", "TIFF"):
        data = encode(picture.convert("CMYK"), format)
        decoded = pixels(decode(data, PLAIN))
        assert np.array_equal(decoded, pillow(data))
        assert np.abs(decoded.astype(int) - pixels(picture)).mean() < 6


def test_lab_becomes_rgb(encode):
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    decoded = pixels(decode(encode(lab, "TIFF"), PLAIN))
    assert decoded.shape == (4, 4, 3)
    assert decoded.min() > 250


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_other_opaque_modes_equal_pillow(picture, encode, mode):
    data = encode(picture.convert(mode), "PNG")
    assert np.array_equal(pixels(decode(data, PLAIN)), pillow(data))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_alpha_is_composited_on_the_background(encode, mode, background):
    image = Image.new(mode, (3, 1), 0)
    opaque = (90, 90, 90, 255) if mode == "RGBA" else (90, 255)
    half = (90, 90, 90, 128) if mode == "RGBA" else (90, 128)
    image.putpixel((1, 0), opaque)
    image.putpixel((2, 0), half)
    decoded = pixels(decode(encode(image, "PNG"), DecodeSettings(background=background)))[0]
    assert tuple(decoded[0]) == background
    assert tuple(decoded[1]) == (90, 90, 90)
    blended = (np.array(background) * 127 + 90 * 128) / 255
    assert np.abs(decoded[2] - blended).max() <= 1


def test_opaque_alpha_changes_nothing(picture, encode):
    for format in ("PNG", "WEBP"):
        data = encode(picture.convert("RGBA"), format, lossless=True)
        assert np.array_equal(pixels(decode(data, PLAIN)), pixels(picture))


def test_palette_with_transparency_is_composited(encode):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    for format in ("PNG", "GIF"):
        decoded = pixels(decode(encode(image, format, transparency=0), PLAIN))[0]
        assert decoded.tolist() == [[255, 255, 255], [0, 0, 200]], format


def test_transparent_colour_of_rgb_and_grey_png(encode):
    rgb = Image.new("RGB", (2, 1), (1, 2, 3))
    rgb.putpixel((1, 0), (9, 9, 9))
    decoded = pixels(decode(encode(rgb, "PNG", transparency=(1, 2, 3)), PLAIN))[0]
    assert decoded.tolist() == [[255, 255, 255], [9, 9, 9]]
    grey = Image.new("L", (2, 1), 5)
    grey.putpixel((1, 0), 9)
    decoded = pixels(decode(encode(grey, "PNG", transparency=5), PLAIN))[0]
    assert decoded.tolist() == [[255, 255, 255], [9, 9, 9]]


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_frame_of_an_animation_counts(encode, format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    red, green, blue = pixels(decode(data, PLAIN))[8, 8]
    assert red > 240
    assert max(green, blue) < 15


def test_multi_picture_jpeg(picture, encode):
    data = encode(picture, "MPO", save_all=True, append_images=[picture.rotate(180)])
    assert np.array_equal(pixels(decode(data, PLAIN)), pillow(data))


def test_one_pixel():
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), (3, 4, 5)).save(buffer, "PNG")
    assert decode(buffer.getvalue(), PLAIN).getpixel((0, 0)) == (3, 4, 5)


def test_a_long_strip_is_still_an_image(encode):
    assert decode(encode(Image.new("RGB", (1200, 2)), "PNG"), PLAIN, draft_side=224).width == 1200


@pytest.mark.parametrize("size", [(65_500, 1), (1, 65_500)])
def test_a_line_is_too_narrow_to_be_resized(encode, size):
    data = encode(Image.new("RGB", size), "PNG")
    with pytest.raises(ImageError, match="too narrow"):
        decode(data, PLAIN, draft_side=224)


def png_header_only(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and holds hardly any pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_from_its_header(size):
    with warnings.catch_warnings():
        # Pillow's own warning must not reach the user as noise.
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="more than the limit"):
            decode(png_header_only(*size), PLAIN)


def test_the_pixel_limit_can_be_set(png):
    assert decode(png, DecodeSettings(max_pixels=120 * 90)).size == (120, 90)
    with pytest.raises(ImageError, match="120 x 90"):
        decode(png, DecodeSettings(max_pixels=120 * 90 - 1))
    assert 1_000_000 < default_max_pixels() <= Image.MAX_IMAGE_PIXELS


def test_a_limit_above_pillows_own_is_kept():
    # Both of Pillow's limits are passed; the error is about the missing pixels, not about size.
    with pytest.raises(ImageError, match="truncated"):
        decode(png_header_only(15_000, 13_000), DecodeSettings(max_pixels=200_000_000))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text\n", "text"),
        ("Größe".encode(), "text"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"8BPS\0\1", "Photoshop"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (bytes(range(200, 256)), "not an image"),
        (b"\xff\xd8\xff", "damaged or truncated"),
        (b"\x89PNG\r\n\x1a\n", "damaged or truncated"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data, PLAIN)
    assert "\n" not in str(caught.value)


def test_formats_off_the_list_are_refused(picture, encode):
    for format in ("ICO", "TGA", "EPS", "PDF", "PCX", "SGI"):
        assert format not in FORMATS
        with pytest.raises(ImageError, match="formats read"):
            decode(encode(picture, format), PLAIN)


def test_truncation_leniency_elsewhere_in_the_process_is_refused(monkeypatch, png):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(VloodError, match="LOAD_TRUNCATED_IMAGES") as caught:
        decode(png, PLAIN)
    assert not isinstance(caught.value, ImageError)


@pytest.mark.parametrize("size", [(2000, 1500), (1500, 2000), (460, 450), (300, 200)])
@pytest.mark.parametrize("side", [96, 224])
def test_fast_decoding_keeps_the_short_side(picture, encode, size, side):
    data = encode(picture.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=90)
    fast = decode(data, DecodeSettings(fast=True), draft_side=side)
    short = min(size)
    assert min(side, short) <= min(fast.size) <= short
    if short >= 2 * side:
        assert min(fast.size) < 2 * side + 1
    reduced = decode(data, PLAIN).resize(fast.size, Image.Resampling.BOX)
    assert np.abs(pixels(fast).astype(int) - pixels(reduced)).mean() < 3


def test_fast_decoding_needs_a_side_and_a_jpeg(picture, encode, png):
    fast = DecodeSettings(fast=True)
    assert np.array_equal(pixels(decode(png, fast, draft_side=20)), pixels(picture))
    data = encode(picture, "JPEG")
    assert np.array_equal(pixels(decode(data, fast)), pillow(data))
    assert np.array_equal(pixels(decode(data, PLAIN, draft_side=20)), pillow(data))


def test_fast_decoding_refuses_truncated_jpegs(picture, encode):
    data = encode(picture.resize((1200, 900)), "JPEG", quality=90)
    for share in (0.3, 0.7, 0.99):
        with pytest.raises(ImageError, match="truncated"):
            decode(data[: int(len(data) * share)], DecodeSettings(fast=True), draft_side=100)


def test_descriptions_differ_where_pixels_do():
    described = {
        DecodeSettings().describe(),
        DecodeSettings(fast=True).describe(),
        DecodeSettings(background=(0, 0, 0)).describe(),
    }
    assert len(described) == 3
    assert DecodeSettings(max_pixels=10).describe() == DecodeSettings().describe()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_damaged_bytes_never_give_another_exception(picture, encode, format):
    whole = encode(picture.resize((24, 18)), format)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=8))
    def damage(changes: list[tuple[int, int]]) -> None:
        data = bytearray(whole)
        for place, value in changes:
            data[place] = value
        with warnings.catch_warnings(), contextlib.suppress(ImageError):
            warnings.simplefilter("ignore")
            assert decode(bytes(data), DecodeSettings(max_pixels=10**6)).mode == "RGB"

    run: Callable[[], None] = damage
    run()
