"""The table of every detector of feature space on labelled embeddings, made for `scripts/bench`."""

from __future__ import annotations

import argparse

METHODS = (
    "knn", "mahalanobis", "relative-mahalanobis", "gmm", "gen", "kl-matching", "vim", "residual",
    "react", "ash", "mixoe", "abet", "palm", "tagood", "linear-probe",
)  # fmt: skip
NOISES = (0.0, 0.2, 0.4)
MEMBERS = ("relative-mahalanobis", "gen", "palm", "knn")


def bench_tables(options: argparse.Namespace) -> None:
    """Print AUROC, FPR95 and ID accuracy: the first half of the classes against the others."""
    import numpy as np

    from vlood.backbone.image_features import ImageFeatures
    from vlood.methods import registry
    from vlood.methods.contract import Detector, make_settings
    from vlood.methods.ensemble import EnsembleSettings, combined
    from vlood.prompts.templates import ClassFeatures
    from vlood.training.labelled import LabelledFeatures, with_label_noise

    if options.images is None or not (options.images / "train_features.npy").is_file():
        print(
            "tables: not measured; give --images FOLDER with train_features.npy, train_labels.npy, "
            "test_features.npy and test_labels.npy, and --strange FILE with outliers for mixoe"
        )
        return
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
    print(f"{len(train):,} training rows, {len(inside)} ID and {len(outside)} OOD test rows")

    def fit(name: str, images: LabelledFeatures) -> Detector:
        method = registry.get(name)
        given = {"outliers": str(options.strange[0])} if name == "mixoe" else {}
        return method.fit(classes, make_settings(method, given), 100.0, images=images, seed=0)

    def cells(one: Detector) -> list[str]:
        said, other = registry.score(one, inside), registry.score(one, outside).score
        auroc = (said.score[:, None] > other).mean() + 0.5 * (said.score[:, None] == other).mean()
        # ID positive: 95 % of the ID images reach the threshold.
        threshold = np.sort(said.score)[int(np.floor(0.05 * len(said.score)))]
        fpr = (other >= threshold).mean()
        return [f"{100 * each:.1f}" for each in (auroc, fpr, (said.label == labels).mean())]

    columns = ["method", "AUROC", "FPR95", "ID accuracy"]
    columns += [
        f"{what}, {100 * s:g} % wrong" for s in NOISES[1:] for what in ("AUROC", "accuracy")
    ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in METHODS:
        if name == "mixoe" and not options.strange:
            continue
        row: list[str] = []
        for share in NOISES:
            found = cells(fit(name, with_label_noise(train, share, names, 0)))
            row += found if share == 0 else [found[0], found[2]]
        print(f"| `{name}` | {' | '.join(row)} |")

    held = np.arange(len(train)) % 5 == 0
    ranked = ImageFeatures(train.raw[held])
    members = {name: fit(name, train.rows(np.flatnonzero(~held))) for name in MEMBERS}
    scores = [registry.score(one, ranked).score for one in members.values()]
    print(f"\nfitted to four fifths of the training rows; ranks among the other {held.sum()}:")
    print("| detector | AUROC | FPR95 | ID accuracy |\n|---|---|---|---|")
    for name, one in members.items():
        print(f"| `{name}` | {' | '.join(cells(one))} |")
    for how in ("rank", "probability"):
        one = combined(members, EnsembleSettings(how), scores)
        print(f"| ensemble, {how} | {' | '.join(cells(one))} |")
