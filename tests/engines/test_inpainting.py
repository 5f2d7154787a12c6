"""Painting over pictures with a stand-in for a pipeline: choice, masks, prompts, what is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlood.engines.inpainting import (
    Inpainting,
    Painted,
    Source,
    check_mask,
    choose_sources,
    mask_of,
    paint,
    read_contexts,
    write_records,
)
from vlood.engines.synthesis import Pipeline, check_making, load_pipeline
from vlood.errors import UsageError
from vlood.images.decode import DecodeSettings
from vlood.images.item import ImageItem

TAKES = frozenset(
    {"prompt", "generator", "output_type", "image", "mask_image", "strength", "width", "height"}
    | {"num_inference_steps", "guidance_scale"}
)
NAMES = {"cat": "cat", "a dog": "a dog", "dog": "a dog"}


class Painter:
    """Paints noise where the mask is white, and keeps the picture elsewhere."""

    def __init__(self, flagged: str = "") -> None:
        self.calls: list[dict[str, Any]] = []
        self.flagged = flagged

    def __call__(self, **options: Any) -> Any:
        import torch

        self.calls.append(options)
        shape = (options["height"], options["width"], 3)
        noise = torch.randint(256, shape, generator=options["generator"]).numpy().astype(np.uint8)
        picture = Image.composite(Image.fromarray(noise), options["image"], options["mask_image"])
        return SimpleNamespace(
            images=[picture], nsfw_content_detected=[options["prompt"] == self.flagged]
        )


@pytest.fixture
def items(tmp_path: Path) -> list[ImageItem]:
    """Write three pictures of each of two classes, the later the fuller; one that is broken."""
    found = []
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(3):
            pixels = np.zeros((24, 20, 3), np.uint8)
            rng = np.random.default_rng(number)
            pixels[: 8 * number] = rng.integers(0, 256, pixels[: 8 * number].shape)
            path = tmp_path / label / f"{number}.png"
            Image.fromarray(pixels).save(path)
            found.append(ImageItem(str(path), label))
    (tmp_path / "cat" / "bad.png").write_bytes(b"no picture")
    return [*found, ImageItem(str(tmp_path / "cat" / "bad.png"), "cat"), ImageItem("x.png", "cow")]


def chosen(items: list[ImageItem], count: int = 2) -> list[Source]:
    return choose_sources(items, NAMES, count, DecodeSettings())[0]


def painted(items: list[ImageItem], folder: Path, painter: Painter, **how: Any) -> list[Painted]:
    pipeline = Pipeline(painter, "Painter", TAKES, "cpu")
    making = Inpainting("painter", "A photo only remain {}.", **{"width": 16, "height": 8, **how})
    places = {"cat": "cat", "a dog": "a_dog"}
    contexts = {"cat": "a sofa"}
    return list(paint(chosen(items), contexts, places, pipeline, making, folder, DecodeSettings()))


def test_the_fullest_pictures_of_each_class_are_taken(items: list[ImageItem]) -> None:
    sources, unreadable = choose_sources(items, NAMES, 2, DecodeSettings())
    assert [(one.label, one.stem) for one in sources] == [
        ("a dog", "2"),
        ("a dog", "1"),
        ("cat", "2"),
        ("cat", "1"),
    ]
    size = Path(sources[0].item.path).stat().st_size
    assert sources[0].bytes_a_pixel == pytest.approx(size / 480)
    assert [Path(path).name for path in unreadable] == ["bad.png"]
    with pytest.raises(UsageError, match="no image has a label that is a class"):
        choose_sources(items, {"cow bell": "cow bell"}, 2, DecodeSettings())
    with pytest.raises(UsageError, match="none of the 1 images of classes could be read"):
        choose_sources(items[6:7], NAMES, 2, DecodeSettings())


def test_pictures_are_painted_once_with_their_context(
    items: list[ImageItem], tmp_path: Path
) -> None:
    near, painter = tmp_path / "out" / "near", Painter()
    made = painted(items, near, painter, steps=20, guidance=8.0, strength=0.6)
    assert [call["prompt"] for call in painter.calls] == [
        *["A photo only remain the background."] * 2,
        *["A photo only remain a sofa."] * 2,
    ]
    first = painter.calls[0]
    assert (first["strength"], first["num_inference_steps"], first["guidance_scale"]) == (
        0.6,
        20,
        8,
    )
    assert first["image"].size == first["mask_image"].size == (16, 8)
    assert sorted(str(one.path.relative_to(near)) for one in made if one.path) == [
        "a_dog/1_ood.png",
        "a_dog/2_ood.png",
        "cat/1_ood.png",
        "cat/2_ood.png",
    ]
    assert len({one.seed for one in made}) == 4
    # The border of the picture stays, the box inside is new.
    kept, shown = np.asarray(first["image"]), np.asarray(Image.open(str(made[0].path)))
    box = np.asarray(first["mask_image"]) > 0
    assert 0.4 < box.mean() < 0.6
    np.testing.assert_array_equal(shown[~box], kept[~box])
    assert (shown[box] != kept[box]).mean() > 0.9
    bytes_before = {one.path: one.path.read_bytes() for one in made if one.path}
    assert made[3].path is not None
    made[3].path.unlink()
    again = Painter()
    fresh = painted(items, near, again, steps=20, guidance=8.0, strength=0.6)
    assert [one.fresh for one in fresh] == [False, False, False, True]
    assert {one.path: one.path.read_bytes() for one in fresh if one.path} == bytes_before
    write_records(near.parent, fresh)
    assert (
        (near.parent / "near.jsonl")
        .read_text()
        .splitlines()[0]
        .startswith('{"path": "near/a_dog/2_ood.png", "source": ')
    )
    with pytest.raises(UsageError, match=r"strength: 0\.6 then, 0\.9 now"):
        check_making(
            near,
            Inpainting("painter", "A photo only remain {}.", None, 0, 20, 8.0, 16, 8, strength=0.9),
        )


def test_what_is_withheld_is_no_image(items: list[ImageItem], tmp_path: Path) -> None:
    made = painted(items, tmp_path / "near", Painter("A photo only remain a sofa."))
    assert [one.path is None for one in made] == [False, False, True, True]
    painter = Painter()
    painted(items, tmp_path / "near", painter)
    assert not painter.calls


def test_masks(items: list[ImageItem], tmp_path: Path) -> None:
    source = chosen(items)[0]
    assert np.asarray(mask_of("all", source, (6, 4))).min() == 255
    (tmp_path / "masks" / "a dog").mkdir(parents=True)
    half = Image.fromarray(np.repeat([[0, 255]], 2, axis=0).astype(np.uint8))
    half.save(tmp_path / "masks" / "a dog" / "2.png")
    own = np.asarray(mask_of(str(tmp_path / "masks"), source, (2, 2)))
    assert own.tolist() == [[0, 255], [0, 255]]
    with pytest.raises(UsageError, match=r"has no a dog/1\.png and no 1\.png"):
        mask_of(str(tmp_path / "masks"), chosen(items)[1], (2, 2))
    check_mask("centre")
    with pytest.raises(UsageError, match="--mask middle: expected centre, all or a folder"):
        check_mask("middle")


def test_contexts_are_cut_to_what_the_text_tower_holds(tmp_path: Path) -> None:
    file = tmp_path / "contexts.txt"
    file.write_text(f"cat\ta sofa\n\nx/1.png\t{'long ' * 30}\n")
    contexts = read_contexts(file)
    assert contexts["cat"] == "a sofa"
    assert len(contexts["x/1.png"]) == 73
    assert read_contexts(None) == {}
    file.write_text("cat a sofa\n")
    with pytest.raises(UsageError, match="line 1 is 'cat a sofa'; expected a class or a path"):
        read_contexts(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_contexts(tmp_path / "none.txt")


def test_a_pipeline_that_cannot_paint_is_refused(
    items: list[ImageItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TextOnly:
        def __call__(self, prompt: str) -> None: ...

    monkeypatch.setattr("vlood.engines.synthesis._fetched", lambda *given: TextOnly())
    monkeypatch.setattr("vlood.engines.synthesis.check_pipeline", lambda name: None)
    with pytest.raises(UsageError, match="TextOnly does not paint over parts of a picture"):
        load_pipeline("some/name", "cpu", "fp32", inpaint=True)
    pipeline = Pipeline(Painter(), "Painter", TAKES - {"strength"}, "cpu")
    with pytest.raises(UsageError, match="--strength: Painter has no such setting"):
        list(paint(chosen(items), {}, {}, pipeline, Inpainting("p"), tmp_path, DecodeSettings()))
