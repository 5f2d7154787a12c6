"""The pictogram world: a procedural data set that needs no download and no licence.

Every image is a 64 x 64 picture of one named pictogram in a random colour, place, size and rotation
on a random background, with occlusion, blur and noise. Twelve names are in-distribution (ID); the
other names are near-OOD; letters of other scripts, textures and plain noise are far-OOD; ID images
degraded at five severities are covariate-shifted ID. The same seed gives the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vlood.images.pictograms import Pictogram, covered_codepoints, glyph_mask, pictograms

SIZE = 64

ID_CLASSES = (
    "airplane",
    "anchor",
    "cat face",
    "chess knight",
    "gear",
    "heart",
    "hot beverage",
    "keyboard",
    "scissors",
    "snowman",
    "telephone",
    "umbrella",
)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (240, 215, 40),
    "green": (44, 160, 60),
    "cyan": (40, 200, 210),
    "blue": (40, 90, 215),
    "purple": (140, 70, 180),
    "pink": (240, 130, 190),
    "brown": (130, 85, 50),
    "grey": (128, 128, 128),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}

CAPTIONS = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a {}.",
    "{}",
    "the {}.",
    "the nice {}.",
    "an image of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "a photo of one {}.",
    "this is a {} photo.",
    "a good photo of a {}.",
)

SCRIPTS: dict[str, tuple[int, int]] = {
    "armenian": (0x0531, 0x0556),
    "georgian": (0x10D0, 0x10F0),
    "cyrillic": (0x0410, 0x044F),
    "greek": (0x03B1, 0x03C9),
    "arabic": (0x0621, 0x064A),
    "canadian syllabics": (0x1401, 0x1470),
}
TEXTURES = ("stripes", "checks", "dots", "clouds", "waves")
NOISES = ("gaussian noise", "uniform noise", "salt and pepper noise")
SHIFTS = ("blur", "noise", "contrast")
SEVERITIES = (1, 2, 3, 4, 5)
_CONTRAST = 50.0


@dataclass(frozen=True)
class Look:
    """How one picture is drawn. Lengths are fractions of the image side, angles degrees."""

    colour: str
    background: str
    backdrop: str
    size: float
    angle: float
    x: float
    y: float
    occlusion: float
    blur: float
    noise: float


def random_look(rng: np.random.Generator, difficulty: float = 0.5) -> Look:
    """Draw a look; ``difficulty`` in [0, 1] scales shrinking, turning, hiding, blur and noise."""
    colour = str(rng.choice(list(COLOURS)))
    background = str(rng.choice(_visible_on(colour)))
    smallest = 0.85 - 0.4 * difficulty
    size = float(rng.uniform(smallest, 0.95))
    room = (1 - size) / 2 + 0.08 * difficulty
    return Look(
        colour=colour,
        background=background,
        backdrop=str(
            rng.choice(["plain", "gradient", "clouds", "stripes"], p=[0.4, 0.25, 0.2, 0.15])
        ),
        size=size,
        angle=float(rng.uniform(-40, 40) * difficulty),
        x=0.5 + float(rng.uniform(-room, room)),
        y=0.5 + float(rng.uniform(-room, room)),
        occlusion=float(rng.uniform(0, 0.3) * difficulty) if rng.random() < 0.5 else 0.0,
        blur=float(rng.uniform(0, 2.2) * difficulty) if rng.random() < 0.5 else 0.0,
        noise=float(rng.uniform(0, 50) * difficulty) if rng.random() < 0.5 else 0.0,
    )


def _visible_on(colour: str) -> list[str]:
    """Return the colours that stand out from ``colour`` by their brightness."""

    def brightness(name: str) -> float:
        red, green, blue = COLOURS[name]
        return 0.299 * red + 0.587 * green + 0.114 * blue

    return [name for name in COLOURS if abs(brightness(name) - brightness(colour)) >= _CONTRAST]


def draw(codepoint: int, look: Look, rng: np.random.Generator) -> Image.Image:
    """Draw one glyph as a 64 x 64 RGB picture with the given look."""
    ink = _jitter(COLOURS[look.colour], rng)
    canvas = _backdrop(look, rng)
    mask = np.asarray(_placed_mask(codepoint, look), np.float32)[..., None] / 255
    pixels = (canvas * (1 - mask) + ink * mask).astype(np.float32)
    if look.occlusion > 0:
        _occlude(pixels, look.occlusion, rng)
    return _degrade(pixels, look.blur, look.noise, rng)


def caption(name: str, look: Look, rng: np.random.Generator) -> str:
    """Describe a picture in words: a template, and sometimes what can be seen of its look."""
    words = name
    if rng.random() < 0.35:
        words = f"{look.colour} {words}"
    if rng.random() < 0.15:
        words = f"{words} on a {look.background} background"
    looks = [
        word
        for word, seen in (
            ("blurry", look.blur > 0.7),
            ("noisy", look.noise > 20),
            ("small", look.size < 0.6),
            ("large", look.size > 0.85),
            ("rotated", abs(look.angle) > 20),
            ("partly hidden", look.occlusion > 0.15),
        )
        if seen
    ]
    if looks and rng.random() < 0.35:
        return f"a {rng.choice(looks)} photo of a {words}."
    return str(rng.choice(CAPTIONS)).format(words)


def far_names() -> dict[str, str]:
    """Return what each kind of far-OOD picture is called in a caption."""
    letters = {script: f"{script} letter" for script in SCRIPTS}
    patterns = {texture: f"pattern of {texture}" for texture in TEXTURES}
    return {**letters, **patterns, **{noise: noise for noise in NOISES}}


def vocabulary() -> tuple[str, ...]:
    """Return every name the bundled model was shown: the words to mine negatives from."""
    return (*(pictogram.name for pictogram in pictograms()), *far_names().values())


def id_pictograms() -> tuple[Pictogram, ...]:
    """Return the twelve in-distribution classes, in alphabetical order."""
    by_name = {pictogram.name: pictogram for pictogram in pictograms()}
    return tuple(by_name[name] for name in ID_CLASSES)


def near_pictograms() -> tuple[Pictogram, ...]:
    """Return every pictogram that is not in-distribution."""
    return tuple(pictogram for pictogram in pictograms() if pictogram.name not in ID_CLASSES)


@dataclass(frozen=True)
class WorldImage:
    """One picture of a split, with the folder it belongs in."""

    split: str
    label: str
    index: int
    image: Image.Image

    @property
    def path(self) -> Path:
        """Return where the picture lies below the world's folder."""
        label = self.label.replace(" ", "_")
        return Path(self.split) / label / f"{self.index:04d}.png"


_SPLIT_SEEDS = {
    "id/train": 1,
    "id/test": 2,
    "near": 3,
    "far": 4,
    "shifted": 5,
    "id/calibration": 6,
}
_DIFFICULTY = 0.5


def id_images(split: str, per_class: int, seed: int = 0) -> Iterator[WorldImage]:
    """Yield ID pictures of ``split`` (train, test or calibration), ``per_class`` of each class."""
    yield from _pictures(f"id/{split}", id_pictograms(), per_class, seed)


def near_images(per_class: int, seed: int = 0) -> Iterator[WorldImage]:
    """Yield near-OOD pictures: every pictogram that is not ID, ``per_class`` of each."""
    yield from _pictures("near", near_pictograms(), per_class, seed)


def far_images(per_kind: int, seed: int = 0) -> Iterator[WorldImage]:
    """Yield far-OOD pictures: letters of other scripts, textures and noise."""
    for kind, label in enumerate([*SCRIPTS, *TEXTURES, *NOISES]):
        for index in range(per_kind):
            rng = np.random.default_rng([seed, _SPLIT_SEEDS["far"], kind, index])
            yield WorldImage("far", label, index, far_image(label, rng))


def shifted_images(
    shift: str, severity: int, per_class: int, seed: int = 0
) -> Iterator[WorldImage]:
    """Yield the ID test pictures degraded by ``shift`` at ``severity`` 1 to 5."""
    for picture in id_images("test", per_class, seed):
        rng = np.random.default_rng([seed, _SPLIT_SEEDS["shifted"], severity, picture.index])
        image = _shift(picture.image, shift, severity, rng)
        yield WorldImage(f"shifted/{shift}-{severity}", picture.label, picture.index, image)


def _pictures(
    split: str, classes: tuple[Pictogram, ...], per_class: int, seed: int
) -> Iterator[WorldImage]:
    for number, pictogram in enumerate(classes):
        for index in range(per_class):
            rng = np.random.default_rng([seed, _SPLIT_SEEDS[split], number, index])
            look = random_look(rng, _DIFFICULTY)
            glyph = int(rng.choice(pictogram.glyphs))
            yield WorldImage(split, pictogram.name, index, draw(glyph, look, rng))


def _placed_mask(codepoint: int, look: Look) -> Image.Image:
    side = max(4, round(look.size * SIZE))
    mask = glyph_mask(codepoint, side)
    if look.angle:
        mask = mask.rotate(look.angle, Image.Resampling.BILINEAR, expand=True)
    placed = Image.new("L", (SIZE, SIZE), 0)
    corner = (round(look.x * SIZE - mask.width / 2), round(look.y * SIZE - mask.height / 2))
    placed.paste(mask, corner)
    return placed


def _jitter(colour: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.clip(np.asarray(colour) + rng.normal(0, 10, 3), 0, 255).astype(np.float32)


def _backdrop(look: Look, rng: np.random.Generator) -> NDArray[np.float32]:
    base = _jitter(COLOURS[look.background], rng)
    pixels = np.broadcast_to(base, (SIZE, SIZE, 3)).copy()
    if look.backdrop != "plain":
        pattern = _gradient(rng) if look.backdrop == "gradient" else _texture(look.backdrop, rng)
        pixels += (pattern[..., None] - 0.5) * np.float32(rng.uniform(20, 70))
    return np.asarray(np.clip(pixels, 0, 255), np.float32)


def _grid() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    axis = np.linspace(0, 1, SIZE, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def _gradient(rng: np.random.Generator) -> NDArray[np.float32]:
    x, y = _grid()
    turn = rng.uniform(0, 2 * np.pi)
    ramp = x * np.cos(turn) + y * np.sin(turn)
    return np.asarray((ramp - ramp.min()) / np.ptp(ramp), np.float32)


def _texture(kind: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a 64 x 64 pattern in [0, 1]."""
    x, y = _grid()
    turn, scale = rng.uniform(0, np.pi), rng.uniform(4, 12)
    u = x * np.cos(turn) + y * np.sin(turn)
    v = y * np.cos(turn) - x * np.sin(turn)
    match kind:
        case "stripes":
            pattern = np.sin(2 * np.pi * scale * u) > 0
        case "checks":
            pattern = (np.sin(2 * np.pi * scale * u) > 0) ^ (np.sin(2 * np.pi * scale * v) > 0)
        case "dots":
            pattern = (u * scale % 1 - 0.5) ** 2 + (v * scale % 1 - 0.5) ** 2 < 0.1
        case "waves":
            pattern = 0.5 + 0.5 * np.sin(2 * np.pi * (scale * u + np.sin(2 * np.pi * 3 * v)))
        case "clouds":
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
            smooth = coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            pattern = np.asarray(smooth, np.float32) / 255
        case _:
            raise ValueError(f"no texture named {kind!r}; there are: {', '.join(TEXTURES)}")
    return np.asarray(pattern, np.float32)


def _occlude(pixels: NDArray[np.float32], share: float, rng: np.random.Generator) -> None:
    width = rng.uniform(0.5, 2) * np.sqrt(share) * SIZE
    height = share * SIZE * SIZE / width
    left, top = rng.uniform(0, SIZE - min(width, SIZE)), rng.uniform(0, SIZE - min(height, SIZE))
    rows, columns = slice(int(top), int(top + height) + 1), slice(int(left), int(left + width) + 1)
    pixels[rows, columns] = _jitter(COLOURS[str(rng.choice(list(COLOURS)))], rng)


def _degrade(
    pixels: NDArray[np.float32], blur: float, noise: float, rng: np.random.Generator
) -> Image.Image:
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    if noise > 0:
        noisy = np.asarray(image, np.float32) + rng.normal(0, noise, (SIZE, SIZE, 3))
        image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return image


def far_image(label: str, rng: np.random.Generator) -> Image.Image:
    """Draw one far-OOD picture of a kind: a letter, a texture or noise."""
    if label in SCRIPTS:
        letters = _letters(label)
        return draw(int(rng.choice(letters)), random_look(rng, _DIFFICULTY), rng)
    if label in TEXTURES:
        one, two = rng.choice(list(COLOURS), size=2, replace=False)
        pattern = _texture(label, rng)[..., None]
        pixels = _jitter(COLOURS[one], rng) * pattern + _jitter(COLOURS[two], rng) * (1 - pattern)
        return _degrade(pixels.astype(np.float32), 0.0, float(rng.uniform(0, 20)), rng)
    return Image.fromarray(_noise_field(label, rng))


@lru_cache(maxsize=16)
def _letters(script: str) -> tuple[int, ...]:
    first, last = SCRIPTS[script]
    return tuple(point for point in covered_codepoints() if first <= point <= last)


def _noise_field(kind: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    shape = (SIZE, SIZE, 3)
    match kind:
        case "gaussian noise":
            field = rng.normal(rng.uniform(60, 190, 3), rng.uniform(20, 80), shape)
        case "uniform noise":
            field = rng.uniform(0, 255, shape)
        case _:
            field = np.where(rng.random((SIZE, SIZE, 1)) < rng.uniform(0.2, 0.8), 255.0, 0.0)
            field = np.broadcast_to(field, shape)
    return np.clip(field, 0, 255).astype(np.uint8)


def _shift(image: Image.Image, shift: str, severity: int, rng: np.random.Generator) -> Image.Image:
    apply: dict[str, Callable[[], Image.Image]] = {
        "blur": lambda: image.filter(ImageFilter.GaussianBlur(0.5 * severity)),
        "noise": lambda: _degrade(np.asarray(image, np.float32), 0.0, 14.0 * severity, rng),
        "contrast": lambda: Image.blend(
            Image.new("RGB", image.size, (128, 128, 128)), image, 1 - 0.17 * severity
        ),
    }
    if shift not in apply:
        raise ValueError(f"no shift named {shift!r}; there are: {', '.join(apply)}")
    return apply[shift]()
