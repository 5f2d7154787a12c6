"""The story that ``vlood demo`` tells: steps, each some commands that a user could type."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlood.evaluation.report_files import printable

OTHER_CLASSES = (
    "skull and crossbones",
    "yin yang",
    "house",
    "envelope",
    "crossed swords",
    "radioactive",
)
_MODEL = ("--classes", "world", "--model", "bundled")
_FULL_METHODS = ("mcm", "energy", "neglabel", "knn")
_QUICK_METHODS = ("mcm", "energy", "neglabel")


@dataclass(frozen=True)
class Step:
    """One step of the story.

    Attributes:
        title: what is done, in a few words.
        before: why, in one or two sentences.
        commands: the arguments of each ``vlood`` command.
        after: what came of it, from what each command wrote to stdout.
    """

    title: str
    before: str
    commands: Sequence[Sequence[str]]
    after: Callable[[Sequence[str]], str]


def story(out: Path, *, quick: bool, seed: int, device: str) -> list[Step]:
    """Return the steps of the demo; all that they write lies below ``out``."""
    where = Places(out)
    methods = _QUICK_METHODS if quick else _FULL_METHODS
    own = ("--device", device) if device != "auto" else ()
    seeded = ("--seed", str(seed)) if seed else ()
    return [
        Step(
            "Score",
            "A CLIP model answers for any picture, even one of something it was never told about. "
            "A score says how sure one can be; MCM is the simplest. Its threshold keeps 95 % of "
            "known pictures that were set apart.",
            [
                [
                    *("score", where.test, where.near, *_MODEL, "--calibrate-on"),
                    *(where.calibration, "-o", where.scores, *own),
                ]
            ],
            lambda _: where.called_ood(),
        ),
        Step(
            "Mine negative labels",
            "Words that are far from every class are witnesses: a picture that looks more like one "
            "of them than like a class is probably none of yours.",
            [["mine", *_MODEL, "-o", where.negatives, *own]],
            _mined,
        ),
        Step(
            "Tune",
            "Prompts can be learned instead of written. LAPT learns one for the classes and one "
            "for the negatives, from a few labelled pictures of each class. The others below need "
            "no training worth the name.",
            [
                [
                    *("tune", "lapt", *_MODEL, "--negatives", where.negatives),
                    *("--train", where.train, "--shots", "8" if quick else "16"),
                    *("--set", f"epochs={2 if quick else 4}", "--set", "train_negatives=48"),
                    *("-o", where.detector("lapt"), *seeded, *own),
                ],
                *(_plain_tune(method, where, own) for method in methods),
            ],
            lambda _: (
                f"{1 + len(methods)} detectors, each a small folder: `vlood show "
                f"{where.detector('lapt')}` says what one holds."
            ),
        ),
        Step(
            "Calibrate",
            "Scores of different methods do not compare, and none says where to draw the line. "
            "Known pictures that no detector has seen set a threshold, and p-values.",
            [
                ["calibrate", where.detector(method), "--id", where.calibration, *own]
                for method in ("lapt", *methods)
            ],
            _calibrated,
        ),
        Step(
            "Evaluate",
            "How well does each tell the known classes from other pictograms (near), and from "
            "letters, textures and noise (far)? Each picture is encoded once for all of them. "
            "AUROC is the chance that a known picture scores above one that is not: 100 is "
            "perfect, 50 is guessing.",
            [
                [
                    "eval",
                    *(
                        part
                        for method in (*methods, "lapt")
                        for part in ("--detector", where.detector(method))
                    ),
                    *("--id", where.test, "--ood", f"near:pictograms={where.near}"),
                    *("--ood", f"far:letters={where.far}", "--resamples", "200"),
                    *("--title", "The demo's pictograms"),
                    *("-o", where.report, *seeded, *own),
                ]
            ],
            _compared,
        ),
        Step(
            "Explain",
            "Why was a picture refused? The nearest negative label says what it looks like "
            "instead, and a heat map shows where in the picture classes were seen (yellow) or not "
            "(violet).",
            [
                [
                    *("score", *where.pictures_of(OTHER_CLASSES[:3])),
                    *("--detector", where.detector("neglabel"), "--explain"),
                    *("--heatmap", where.maps, "-o", where.explained, *own),
                ]
            ],
            lambda _: where.explanations(),
        ),
        Step(
            "Export",
            "A detector is a few small arrays and a formula, so other tools can have it: this file "
            "comes with the lines of Python that score with open_clip alone.",
            [["export", where.detector("lapt"), "-o", where.exported]],
            lambda _: f"{where.exported}: {Path(where.exported).stat().st_size / 1024:.0f} KB",
        ),
        Step(
            "Apply to other classes",
            "What was learned holds for other class names too. Six of the pictograms that were "
            "unknown become the classes, without training.",
            [
                [
                    *("apply", where.detector("lapt"), "--classes", ",".join(OTHER_CLASSES)),
                    *("-o", where.detector("lapt-other-classes"), *own),
                ],
                [
                    *("score", *where.pictures_of(OTHER_CLASSES)),
                    *("--detector", where.detector("lapt-other-classes")),
                    *("-o", where.other, *own),
                ],
            ],
            lambda _: where.relabelled(),
        ),
    ]


def _plain_tune(method: str, where: Places, own: Sequence[str]) -> list[str]:
    given = {
        "neglabel": ("--negatives", where.negatives),
        "knn": ("--train", where.train),
    }.get(method, ())
    return ["tune", method, *_MODEL, *given, "-o", where.detector(method), *own]


@dataclass(frozen=True)
class Places:
    """Where everything lies below the demo's folder, and what the files there say."""

    out: Path

    def __getattr__(self, name: str) -> str:
        """Return a place by its name, as it is typed."""
        if name not in _PLACES:
            raise AttributeError(name)
        return str(self.out / _PLACES[name])

    def detector(self, method: str) -> str:
        """Return the folder of a detector."""
        return str(self.out / "detectors" / method)

    def pictures_of(self, names: Sequence[str]) -> list[str]:
        """Return the folders of pictures that are none of the classes."""
        return [str(self.out / "world" / "near" / name.replace(" ", "_")) for name in names]

    def called_ood(self) -> str:
        """Say how many of the known and of the other pictures the first step refused."""
        counts = {"near": [0, 0], "id": [0, 0]}
        near = str(Path(self.near))
        for record in _records(self.scores):
            side = counts["near" if str(record["path"]).startswith(near) else "id"]
            side[0] += bool(record["ood"])
            side[1] += 1
        (refused, others), (wrong, known) = counts["near"], counts["id"]
        return (
            f"Refused: {refused} of {others} pictures of other things ({refused / others:.0%}), "
            f"and {wrong} of {known} known ones ({wrong / known:.0%}). Not good enough yet."
            if refused < 0.8 * others
            else f"Refused: {refused} of {others} pictures of other things, and {wrong} of {known} "
            "known ones."
        )

    def explanations(self) -> str:
        """Say of one picture of each kind what it was taken for, and what it looks like instead."""
        shown: dict[str, str] = {}
        for record in _records(self.explained):
            path = Path(str(record["path"]))
            decided = "refused" if record["ood"] else "accepted"
            shown.setdefault(
                path.parent.name,
                f"  {path.parent.name}/{path.name}: {decided}; "
                f"{printable(str(record['explanation']))}",
            )
        return "\n".join(shown.values())

    def relabelled(self) -> str:
        """Say how many of the other pictures were given their new names."""
        records = _records(self.other)
        right = sum(
            str(record["label"]) == Path(str(record["path"])).parent.name.replace("_", " ")
            for record in records
        )
        return f"{right} of {len(records)} pictures of them were given their right names."


_PLACES = {
    "train": "world/id/train",
    "calibration": "world/id/calibration",
    "test": "world/id/test",
    "near": "world/near",
    "far": "world/far",
    "scores": "scores.jsonl",
    "negatives": "negatives",
    "report": "report",
    "maps": "maps",
    "explained": "explained.jsonl",
    "exported": "lapt.safetensors",
    "other": "other-classes.jsonl",
}


def _records(path: str) -> list[dict[str, object]]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _mined(said: Sequence[str]) -> str:
    bank = json.loads(said[0])
    return (
        f"{bank['negatives']:,} negatives from {bank['corpus_terms']:,} words, in {bank['bank']}/."
    )


def _compared(said: Sequence[str]) -> str:
    """Say which is best on the near set, and whether learning has helped, as the intervals do."""
    rows = [json.loads(line) for line in said[0].splitlines()]
    near = {row["detector"]: row for row in rows if row["group"] == "near"}
    best = max(near.values(), key=lambda row: float(row["auroc"]))
    learned, written = near["lapt"], near["neglabel"]
    if learned["auroc_ci_low"] > written["auroc_ci_high"]:
        helped = "Learned prompts (lapt) beat written ones (neglabel)."
    elif learned["auroc_ci_high"] < written["auroc_ci_low"]:
        helped = (
            "Learned prompts (lapt) are worse here than written ones (neglabel): so short a "
            "training of so small a model proves nothing but that one has to measure."
        )
    else:
        helped = (
            "Learned prompts (lapt) and written ones (neglabel) are not told apart by so few "
            "pictures: one has to measure, and `vlood pick` does."
        )
    return f"Best on other pictograms: {best['detector']}. {helped}"


def _calibrated(said: Sequence[str]) -> str:
    facts = json.loads(said[0])
    return (
        f"LAPT's threshold is {facts['threshold']:.3f}, from {facts['n']:,} pictures: it keeps "
        f"between {facts['tpr_low']:.0%} and {facts['tpr_high']:.0%} of new known ones."
    )
