"""What the documentation's examples name, in a tiny form: folders of pictures, lists, checkpoints.

`write_props` makes what a reader is supposed to have; what examples make themselves is not here.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = {"cat": (200, 60, 40), "dog": (40, 170, 60), "bird": (50, 70, 200)}
WORDS = "moss\nsand\nsteel\ncoal\nmilk\nbrick\ncopper\nrubber\nvelvet\nmarble\nchalk\ntar\n"
LABELLED = {
    "train": 16,
    "photos": 3,
    **dict.fromkeys(("test", "known-good", "known", "held-out", "id"), 8),
    **dict.fromkeys(("good", "mine", "more", "inbox", "archive", "big", "monday", "tuesday"), 2),
}
STRANGE = ("strange", "noise", "bad", "other", "tin", "dtd", "x", "cats")
WIDTH = 32  # of the tiny model


def write_props(folder: Path, tiny: str, write_wordnet: Callable[[Path], Path]) -> None:
    """Write them all."""
    rng = np.random.default_rng(0)
    for name, count in LABELLED.items():
        for label, colour in CLASSES.items():
            for number in range(count):
                _picture(folder / name / label / f"{number}.jpg", rng, colour)
    for name in STRANGE:
        for number in range(8):
            _picture(folder / name / f"{number}.jpg", rng, tuple(rng.integers(0, 256, 3)), 90)
    for label, colour in CLASSES.items():
        for number in range(4):
            _picture(folder / "made/near" / label / f"{number}.jpg", rng, colour, 90)
    (folder / "found").mkdir()
    found = (f"{path}\t{path.parent.name}\n" for path in sorted((folder / "train").glob("*/*")))
    (folder / "found/collected.txt").write_text("".join(found))
    for name in ("a.jpg", "photo.jpg"):
        _picture(folder / name, rng, CLASSES["cat"])
    _write_lists(folder)
    _write_shards(folder, rng)
    _write_arrays(folder, rng)
    _write_checkpoints(folder, Path(tiny.removeprefix("local-dir:")))
    (folder / "my-clip").symlink_to(tiny.removeprefix("local-dir:"))
    write_wordnet(folder / "dict")
    (folder / "last").touch()
    os.utime(folder / "last", (0, 0))  # every picture is newer
    (folder / "data").mkdir()
    (folder / ".zfunc").mkdir()
    (folder / ".config/fish/completions").mkdir(parents=True)


def _picture(path: Path, rng: np.random.Generator, colour: Any, spread: float = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(np.asarray(colour) + rng.normal(0, spread, (40, 40, 3)), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


def _write_lists(folder: Path) -> None:
    classes = "".join(f"{name}\n" for name in CLASSES)
    texts = {
        **dict.fromkeys(("classes.txt", "c.txt"), classes),
        "other.txt": "horse\nship\nlorry\n",
        "my-words.txt": WORDS,
        "words.txt": WORDS,
        "contexts.txt": "grass\nsnow\n",
        "list.txt": f"{folder}/photos/cat/0.jpg\n{folder}/photos/dog/0.jpg\n",
        "all.txt": "".join(
            f"{folder}/photos/{name}/{number}.jpg\n" for name in CLASSES for number in range(3)
        ),
        "part-00.txt": f"{folder}/photos/cat/0.jpg\n",
        **dict.fromkeys(("selected.txt", "selected_neg_labels_in1k_10k.txt"), WORDS),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


def _write_shards(folder: Path, rng: np.random.Generator) -> None:
    (folder / "shards").mkdir()
    for path in (folder / "shards-000.tar", folder / "cc3m-000.tar", folder / "shards/0.tar"):
        with tarfile.open(path, "w") as archive:
            for number, (label, colour) in enumerate([*CLASSES.items()] * 4):
                pixels = np.clip(colour + rng.normal(0, 30, (40, 40, 3)), 0, 255).astype(np.uint8)
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "JPEG")
                caption = f"picture {number} of a {label}".encode()
                for name, held in ((f"{number}.jpg", data.getvalue()), (f"{number}.txt", caption)):
                    member = tarfile.TarInfo(name)
                    member.size = len(held)
                    archive.addfile(member, io.BytesIO(held))


def _write_arrays(folder: Path, rng: np.random.Generator) -> None:
    def rows(count: int) -> Any:
        return rng.normal(size=(count, WIDTH)).astype(np.float32)

    for name in ("classes", "names"):
        np.save(folder / f"{name}.npy", rows(3))
    np.save(folder / "words.npy", rows(12))
    (folder / "names.txt").write_text("\n".join(CLASSES))
    labels = np.arange(24) % 3
    for name in ("x", "a", "b"):
        np.save(folder / f"{name}.npy", rows(24))
    for name in ("y", "labels"):
        np.save(folder / f"{name}.npy", labels)


def _write_checkpoints(folder: Path, model: Path) -> None:
    import torch
    from safetensors.torch import load_file

    made = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made)

    torch.save({"state_dict": {"ctx": normal(4, WIDTH)}, "epoch": 50}, folder / "model.pth.tar-50")
    learner = {"ctx": normal(4, WIDTH), "ood_ctx": normal(4, WIDTH)}
    lapt = {f"model.prompt_learner.{name}": tensor for name, tensor in learner.items()}
    torch.save({"state_dict": lapt}, folder / "best.ckpt")
    weights = load_file(model / "open_clip_model.safetensors")
    state = {f"module.{name}": tensor for name, tensor in weights.items()}
    torch.save({"epoch": 1, "model_state_dict": state}, folder / "checkpoint.pt")
    halves = (
        *("token_embedding", "positional_embedding", "transformer", "ln_final"),
        "text_projection",
    )
    no = {
        f"module.{head}_no{dot}{rest}": tensor + 0.05 * normal(*tensor.shape)
        for head, dot, rest, tensor in (
            (*name.partition("."), tensor) for name, tensor in weights.items()
        )
        if head in halves
    }
    no["module.prompt_no"] = normal(16, 77, WIDTH)
    torch.save(
        {"epoch": 10, "state_dict": OrderedDict({**state, **no})},
        folder / "CLIPN_ATD_Repeat2_epoch_10.pt",
    )
