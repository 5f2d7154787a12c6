"""Draw docs/methods/pictures: each method's score over a half sphere of embeddings.

    PYTHONPATH=scripts:. python -m docs_site.pictures [METHOD...]

The scores are those of the method's own code, fitted to three classes, 60 images and 40 negative
labels in three dimensions. The pictures are the same at every run. Methods that need a model's
towers have none, nor those whose idea needs more than three dimensions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "methods" / "pictures"
SIDE = 240
COLOURS = 48
NAMES = ("left", "right", "front")
_CLASSES = ((-0.55, 0.25, 0.8), (0.5, 0.4, 0.77), (0.1, -0.6, 0.8))
# Few activations of many are cut off or left out, or few directions of many hold the images.
FLAT = ("ash", "gen", "react", "residual", "vim")
_LOGIT_SCALE = 15.0


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows of length 1."""
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def world() -> dict[str, Any]:
    """Return the class texts [3, 3], images [60, 3] with labels, and negatives [40, 3]."""
    rng = np.random.default_rng(0)
    classes = unit(np.array(_CLASSES))
    labels = np.repeat(np.arange(3), 20)
    images = unit(classes[labels] + rng.normal(scale=0.16, size=(60, 3)))
    # Negative labels lie where no class is: on a ring round the edge.
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn), rng.uniform(0.05, 0.35, 40)], axis=1)
    negatives = unit(ring[(ring @ classes.T).max(axis=1) < 0.72])
    return {"classes": classes, "images": images, "labels": labels, "negatives": negatives}


def fitted(name: str, made: Mapping[str, Any]) -> Any:
    """Fit a method to the little world."""
    from vlood.methods import registry
    from vlood.methods.contract import make_settings
    from vlood.negatives.negative_features import NegativeFeatures
    from vlood.prompts.templates import ClassFeatures
    from vlood.training.labelled import LabelledFeatures

    method = registry.get(name)
    needs = method.record.needs
    given: dict[str, Any] = {}
    if "negatives" in needs:
        rows = made["negatives"]
        words = tuple(f"word {number}" for number in range(len(rows)))
        given["negatives"] = NegativeFeatures(words, rows, np.arange(len(rows)))
    if "images" in needs:
        given["images"] = LabelledFeatures(made["images"], made["labels"])
    settings = make_settings(method, {})
    return method.fit(ClassFeatures(NAMES, made["classes"]), settings, _LOGIT_SCALE, **given)


def picture(name: str) -> Any:
    """Return the picture of a method, a Pillow image with a small palette."""
    from matplotlib import colormaps
    from PIL import Image, ImageDraw

    from vlood.backbone.image_features import ImageFeatures
    from vlood.methods import registry

    made = world()
    detector = fitted(name, made)
    axis = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    x, y = np.meshgrid(axis, -axis)
    inside = x**2 + y**2 < 0.98
    points = np.stack([x, y, np.sqrt(np.maximum(1 - x**2 - y**2, 0))], axis=-1)[inside]
    scores = registry.score(detector, ImageFeatures(unit(points))).score
    low, high = np.quantile(scores, [0.01, 0.99])
    if not high > low:
        raise ValueError(f"{name}: its score is the same everywhere")
    level = np.clip((scores - low) / (high - low), 0, 1)
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    steps = np.round(level * (COLOURS - 1)) / (COLOURS - 1)
    pixels[inside] = (colormaps["viridis"](steps) * 255).astype(np.uint8)
    shown = Image.fromarray(pixels)
    draw = ImageDraw.Draw(shown)
    needs = registry.get(name).record.needs
    if "images" in needs:
        _marks(draw, made["images"], 1.5, fill=(255, 255, 255, 255))
    if "negatives" in needs:
        for px, py in _places(made["negatives"]):
            for sign in (-1, 1):
                draw.line([px - 3, py - 3 * sign, px + 3, py + 3 * sign], (255, 90, 90, 255), 2)
    _marks(draw, made["classes"], 5, outline=(255, 255, 255, 255), width=2)
    return shown


def main() -> None:
    from vlood.methods import registry

    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or registry.names():
        needs = set(registry.get(name).record.needs)
        if name in FLAT or needs - {"classes", "negatives", "images"}:
            continue
        try:
            shown = picture(name)
        except Exception as error:
            print(f"no picture of {name}: {error}", file=sys.stderr)
            continue
        shown.quantize(64, method=2, dither=0).save(FOLDER / f"{name}.png", optimize=True)


def _places(rows: NDArray[np.float32]) -> list[tuple[float, float]]:
    return [((px + 1) / 2 * SIDE, (1 - py) / 2 * SIDE) for px, py, _ in rows.tolist()]


def _marks(draw: Any, rows: NDArray[np.float32], radius: float, **how: Any) -> None:
    for px, py in _places(rows):
        draw.ellipse([px - radius, py - radius, px + radius, py + radius], **how)


if __name__ == "__main__":
    main()
