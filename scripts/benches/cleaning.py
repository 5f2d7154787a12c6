"""What vlood clean finds again in a folder spoiled on purpose."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benches.measuring import Measured, percent


def clean(options: argparse.Namespace) -> Iterator[Measured]:
    """Spoil a labelled folder on purpose and count what is found: means of three seeds."""
    import numpy as np

    from vlood.backbone.load import load_backbone
    from vlood.engines.cleaning import CleaningSettings, read_images
    from vlood.engines.cleaning import clean as cleaned
    from vlood.engines.text_side import classes_from_texts
    from vlood.features.cache import FeatureCache
    from vlood.features.stream import StreamSettings
    from vlood.images.decode import DecodeSettings
    from vlood.images.sources import find_images
    from vlood.prompts.classes import ClassName

    backbone = load_backbone(options.model, device=options.device)
    settings = StreamSettings(64, os.cpu_count() or 1)
    figures: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        cache = FeatureCache(Path(scratch) / "cache")
        known, strange = options.images, options.strange
        if known is None:
            known, strange = world_folders(Path(scratch) / "world", options.count or 100)
        for seed in range(3):
            folder = Path(scratch) / f"spoiled-{seed}"
            spoil(known, strange, folder, np.random.default_rng(seed))
            items = list(find_images([str(folder)]))
            names = sorted({item.label for item in items})
            index = {name: number for number, name in enumerate(names)}
            prompts = [ClassName.of(name) for name in names]
            text = classes_from_texts(prompts, ["a photo of a {}."], backbone, cache).features
            data = read_images(items, index, backbone, settings, cache=cache)
            nonsense = np.random.default_rng(seed).normal(size=text.shape).astype(np.float32)
            nonsense /= np.linalg.norm(nonsense, axis=1, keepdims=True)
            for name, by, words in (
                ("images", "images", None),
                ("names", "names", text),
                ("both", "both", text),
                ("both, random vectors for names", "both", nonsense),
            ):
                found = cleaned(
                    *(data, names, CleaningSettings(by)),
                    text=words,
                    decoding=DecodeSettings(),
                    workers=settings.workers,
                )
                figures.setdefault(name, []).append(found_again(found))
    where = set_name(options.images)
    shown = f"{where} ({known_images(known):,}), {options.model.rsplit('/', 1)[-1]}"
    means = {
        by: {key: percent(np.nanmean([run[key] for run in runs]), 1) for key in runs[0]}
        for by, runs in figures.items()
    }
    bundled = options.model == "bundled"
    yield Measured(
        *("clean", f"found-{where}"),
        ("set, model", "by", *((name, 1) for name in FOUND)),
        tuple((shown, by, *(mean[key] for key in FOUND)) for by, mean in means.items()),
        keys=2,
        bundled=bundled,
    )
    yield Measured(
        *("clean", f"duplicates-{where}"),
        ("duplicates found", *((name, 1) for name in ("precision", *COPY_KINDS))),
        ((shown, *(means["images"][key] for key in ("duplicates precision", *COPY_KINDS))),),
        bundled=bundled,
    )


def set_name(folder: Path | None) -> str:
    """Return what a table calls a set: its folder's name, above train/ or test/."""
    if folder is None:
        return "pictograms"
    return folder.parent.name if folder.name in ("train", "test") else folder.name


def known_images(folder: Path) -> int:
    from vlood.images.sources import find_images

    return len(list(find_images([str(folder)])))


def world_folders(folder: Path, per_class: int) -> tuple[Path, list[Path]]:
    """Draw the pictograms of the bundled model's world: known ones, and two strange sets."""
    from vlood.images import world

    for one in (*world.id_images("test", per_class), *world.near_images(1), *world.far_images(8)):
        path = folder / one.path
        path.parent.mkdir(parents=True, exist_ok=True)
        one.image.save(path)
    return folder / "id" / "test", [folder / "near", folder / "far"]


def spoil(known: Path, strange: list[Path], folder: Path, rng: Any) -> None:
    """Copy a labelled folder; the file names say what was done.

    A tenth of the images get another label. As many as a twentieth of them are added from the
    strange sets under any label, and twice as many altered copies, each beside its picture.
    """
    import shutil

    from PIL import Image

    from vlood.images.sources import find_images

    items = list(find_images([str(known)]))
    names = sorted({item.label for item in items})
    wrong = set(rng.choice(len(items), len(items) // 10, replace=False).tolist())
    copied = set(rng.choice(len(items), len(items) // 10, replace=False).tolist())
    for name in names:
        (folder / name).mkdir(parents=True)
    kinds = list(COPY_KINDS)
    for number, item in enumerate(items):
        label, mark = item.label, "good"
        if number in wrong:
            label, mark = str(rng.choice([name for name in names if name != label])), "wrong"
        suffix = Path(item.path).suffix
        target = folder / label / f"{mark}-{number:06d}{suffix}"
        shutil.copy(item.path, target)
        if number in copied:
            kind = kinds[int(rng.integers(len(kinds)))]
            with Image.open(item.path) as image:
                altered = COPY_KINDS[kind](image.convert("RGB"))
            altered.save(target.with_name(f"{kind}-{number:06d}.jpg"), quality=40)
    per_set = len(items) // 20 // len(strange)
    for place in strange:
        others = list(find_images([str(place)]))
        for number in rng.choice(len(others), min(per_set, len(others)), replace=False).tolist():
            other, name = Path(others[number].path), str(rng.choice(names))
            shutil.copy(other, folder / name / f"ood-{place.name}-{number:06d}{other.suffix}")


def _cropped(image: Any, share: float) -> Any:
    across, down = int(image.width * share / 2), int(image.height * share / 2)
    return image.crop((across, down, image.width - across, image.height - down))


FOUND = (
    *("wrong labels AUROC", "wrong labels AP", "wrong labels precision", "wrong labels recall"),
    *("OOD AUROC", "OOD AP", "OOD precision", "OOD recall"),
)
COPY_KINDS = {
    "recompressed": lambda image: image,
    "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "mirrored": lambda image: image.transpose(0),
    "cropped 6 %": lambda image: _cropped(image, 0.06),
}


def found_again(found: Any) -> dict[str, float]:
    """Compare what was found with what was done, by the names of the files."""
    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    names = [Path(path).stem for path in found.data.paths]
    mark = np.array([name.split("-")[0] for name in names])
    number = np.array([name.rsplit("-", 1)[1] for name in names])
    of_wrong = set(number[mark == "wrong"].tolist())
    copied = np.isin(mark, list(COPY_KINDS))
    wrong = (mark == "wrong") | (copied & np.isin(number, list(of_wrong)))
    ood = mark == "ood"
    says = {name: np.zeros(len(names), bool) for name in ("mislabelled", "ood", "duplicate")}
    right_copies = 0
    for one in found.suspects:
        for problem in one.problems:
            if problem in says:
                says[problem][one.row] = True
        if "duplicate" in one.problems:
            right_copies += number[one.row] == number[one.duplicate_of]
    doubt, strange = -found.doubt.ratio, -found.outliers.best
    figures = {
        "wrong labels AUROC": roc_auc_score(wrong[~ood], doubt[~ood]),
        "wrong labels AP": average_precision_score(wrong[~ood], doubt[~ood]),
        "wrong labels precision": (says["mislabelled"] & wrong).sum()
        / max(1, says["mislabelled"].sum()),
        "wrong labels recall": (says["mislabelled"] & wrong).sum() / wrong.sum(),
        "OOD AUROC": roc_auc_score(ood[~wrong], strange[~wrong]),
        "OOD AP": average_precision_score(ood, strange),
        "OOD precision": (says["ood"] & ood).sum() / max(1, says["ood"].sum()),
        "OOD recall": (says["ood"] & ood).sum() / ood.sum(),
        "duplicates precision": right_copies / max(1, says["duplicate"].sum()),
    }
    for kind in COPY_KINDS:
        pairs = (mark == kind).sum()
        hit = np.unique(number[says["duplicate"] & np.isin(number, number[mark == kind])])
        figures[kind] = len(hit) / pairs if pairs else float("nan")
    return figures
