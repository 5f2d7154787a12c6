"""Making images with a stand-in for a pipeline: seeds, options, what is made again and what not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlood.engines.synthesis import (
    Made,
    Making,
    Pipeline,
    check_installed,
    check_making,
    check_pipeline,
    image_seed,
    load_pipeline,
    make_images,
)
from vlood.errors import UsageError, VloodError

TAKES = frozenset({"prompt", "generator", "output_type", "num_inference_steps"})
LABELS = [(0, "cat", "cat", "cat"), (1, "n02", "young dog", "n02")]


class Painter:
    """Paints the noise that it is given a generator for."""

    def __init__(self, flagged: str = "") -> None:
        self.calls: list[dict[str, Any]] = []
        self.flagged = flagged

    def __call__(self, **options: Any) -> Any:
        import torch

        self.calls.append(options)
        noise = torch.randint(256, (4, 4, 3), generator=options["generator"]).numpy()
        picture = Image.fromarray(noise.astype(np.uint8))
        flags = [options["prompt"] == self.flagged]
        return SimpleNamespace(images=[picture], nsfw_content_detected=flags)


def make(folder: Path, count: int, painter: Painter, **settings: Any) -> list[Made]:
    pipeline = Pipeline(painter, "Painter", TAKES, "cpu")
    making = Making("painter", **settings)
    return list(make_images(LABELS, count, pipeline, making, folder))


def test_an_image_is_made_once_and_does_not_depend_on_the_others(tmp_path: Path) -> None:
    first, second, third = Painter(), Painter(), Painter()
    made = make(tmp_path / "a", 2, first, steps=3, prompt="a drawing of {}")
    assert [call["prompt"] for call in first.calls][::2] == [
        "a drawing of cat",
        "a drawing of young dog",
    ]
    assert {call["num_inference_steps"] for call in first.calls} == {3}
    assert "guidance_scale" not in first.calls[0]
    assert [one.seed for one in made] == [
        image_seed(0, name, number) for name in ("cat", "n02") for number in (1, 2)
    ]
    assert len({one.seed for one in made}) == 4
    make(tmp_path / "a", 3, second, steps=3, prompt="a drawing of {}")
    assert len(second.calls) == 2
    make(tmp_path / "b", 3, third, steps=3, prompt="a drawing of {}")
    for one in tmp_path.glob("b/*/*.png"):
        assert one.read_bytes() == (tmp_path / "a" / one.relative_to(tmp_path / "b")).read_bytes()


def test_what_the_safety_checker_withholds_is_no_image_and_not_made_again(tmp_path: Path) -> None:
    made = make(tmp_path, 1, Painter("cat"))
    assert [one.path is None for one in made] == [True, False]
    painter = Painter("cat")
    again = make(tmp_path, 1, painter)
    assert not painter.calls
    assert [one.path for one in again] == [one.path for one in made]


def test_images_made_otherwise_are_not_mixed(tmp_path: Path) -> None:
    make(tmp_path, 1, Painter(), steps=2)
    check_making(tmp_path, Making("painter", steps=2))
    check_making(tmp_path / "new", Making("painter"))
    with pytest.raises(UsageError, match=r"steps: 2 then, 5 now"):
        check_making(tmp_path, Making("painter", steps=5))
    (tmp_path / "making.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        check_making(tmp_path, Making("painter"))


def test_an_option_the_pipeline_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--guidance: Painter has no such setting"):
        make(tmp_path, 1, Painter(), guidance=3.0)

    class Picky(Painter):
        def __call__(self, **options: Any) -> Any:
            raise ValueError("`height` must be divisible by 8")

    with pytest.raises(UsageError, match="divisible by 8"):
        make(tmp_path, 1, Picky())


def test_what_is_no_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"has no model_index\.json"):
        check_pipeline(str(tmp_path))
    for name in ("nothing", "./a/b", "a/b/c"):
        with pytest.raises(UsageError, match="is no folder and no name on the hub"):
            check_pipeline(name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(VloodError, match=r"pip install 'vlood\[synth\]'"):
        load_pipeline("some/name", "cpu", "fp32")
    with pytest.raises(VloodError, match=r"pip install 'vlood\[synth\]'"):
        check_installed()
