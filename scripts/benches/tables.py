"""Every detector of feature space on labelled embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from benches.measuring import BenchError, Measured, percent

METHODS = (
    "knn", "mahalanobis", "relative-mahalanobis", "gmm", "gen", "kl-matching", "vim", "residual",
    "react", "ash", "mixoe", "abet", "palm", "tagood", "linear-probe",
)  # fmt: skip
NOISES = (0.0, 0.2, 0.4)
MEMBERS = ("relative-mahalanobis", "gen", "palm", "knn")


def tables(options: argparse.Namespace) -> Iterator[Measured]:
    """AUROC, FPR95 and ID accuracy: the first half of the classes against the others."""
    import numpy as np

    from vlood.backbone.image_features import ImageFeatures
    from vlood.methods import registry
    from vlood.methods.contract import Detector, make_settings
    from vlood.methods.ensemble import EnsembleSettings, combined
    from vlood.prompts.templates import ClassFeatures
    from vlood.training.labelled import LabelledFeatures, with_label_noise

    if options.images is None or not (options.images / "train_features.npy").is_file():
        raise BenchError(
            "give --images FOLDER with train_features.npy, train_labels.npy, "
            "test_features.npy and test_labels.npy, and --strange FILE with outliers for mixoe"
        )
    read = {
        name: np.load(options.images / f"{name}.npy", allow_pickle=False)
        for name in ("train_features", "train_labels", "test_features", "test_labels")
    }
    count = (int(read["train_labels"].max()) + 1) // 2
    known = read["train_labels"] < count
    train = LabelledFeatures(
        read["train_features"][known].astype("f4"), read["train_labels"][known].astype(np.int64)
    )
    of_classes = read["test_labels"] < count
    inside, outside = (
        ImageFeatures(read["test_features"][rows].astype("f4"))
        for rows in (of_classes, ~of_classes)
    )
    labels = read["test_labels"][of_classes]
    names = tuple(f"c{row}" for row in range(count))
    classes = ClassFeatures(names, np.zeros((count, 0), "f4"))

    def fit(name: str, images: LabelledFeatures) -> Detector:
        method = registry.get(name)
        given = {"outliers": str(options.strange[0])} if name == "mixoe" else {}
        return method.fit(classes, make_settings(method, given), 100.0, images=images, seed=0)

    def cells(one: Detector) -> list[float]:
        said, other = registry.score(one, inside), registry.score(one, outside).score
        auroc = (said.score[:, None] > other).mean() + 0.5 * (said.score[:, None] == other).mean()
        # ID positive: 95 % of the ID images reach the threshold.
        threshold = np.sort(said.score)[int(np.floor(0.05 * len(said.score)))]
        fpr = (other >= threshold).mean()
        return [percent(each, 1) for each in (auroc, fpr, (said.label == labels).mean())]

    columns = ["AUROC", "FPR95", "ID accuracy"]
    columns += [
        f"{what}, {100 * s:g} % wrong" for s in NOISES[1:] for what in ("AUROC", "accuracy")
    ]
    rows = []
    for name in METHODS:
        if name == "mixoe" and not options.strange:
            continue
        row: list[float] = []
        for share in NOISES:
            found = cells(fit(name, with_label_noise(train, share, names, 0)))
            row += found if share == 0 else [found[0], found[2]]
        rows.append((f"`{name}`", *row))
    yield Measured(
        *("embeddings-methods", "methods"),
        ("method", *((one, 1) for one in columns)),
        tuple(rows),
    )

    held = np.arange(len(train)) % 5 == 0
    ranked = ImageFeatures(train.raw[held])
    members = {name: fit(name, train.rows(np.flatnonzero(~held))) for name in MEMBERS}
    scores = [registry.score(one, ranked).score for one in members.values()]
    fitted = [(f"`{name}`", *cells(one)) for name, one in members.items()]
    for how, shown in (("rank", "rank"), ("probability", "probability (p-values)")):
        one = combined(members, EnsembleSettings(how), scores)
        fitted.append((f"`ensemble`, {shown}", *cells(one)))
    yield Measured(
        *("embeddings-methods", "ensemble"),
        ("detector", *((one, 1) for one in columns[:3])),
        tuple(fitted),
    )
