"""Made-up evaluations of pictogram-world pictures, small and large."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from vlood.evaluation.deployed import at_threshold
from vlood.evaluation.evaluate import evaluate
from vlood.evaluation.metrics import threshold_at_tpr
from vlood.evaluation.report.inputs import NearestWords, ReportDetector, ReportInputs, ReportSet
from vlood.evaluation.results import ResultRow
from vlood.evaluation.severity import severity_row
from vlood.evaluation.significance import paired_rows
from vlood.images import world


@cache
def world_pictures():
    """Return a pool of pictures by group, with their labels."""
    inside = list(world.id_images("test", 6))
    near = list(world.near_images(1))[:60]
    far = list(world.far_images(4))
    return {"id": inside, "near": near, "far": far}


def made_inputs(
    *,
    detectors=("neglabel", "mcm", "energy", "adaneg"),
    near=("pictograms", "emoji"),
    far=("letters", "textures", "noise"),
    per_set=300,
    n_id=600,
    severities=("blur", "noise", "contrast"),
    shots=(1, 2, 4, 8, 16),
    seed=0,
    resamples=100,
    pictures=True,
):
    """Return a plausible evaluation: better detectors first, near OOD harder than far."""
    rng = np.random.default_rng(seed)
    classes = world.ID_CLASSES
    pool = world_pictures()
    groups = {"world": "id", **dict.fromkeys(near, "near"), **dict.fromkeys(far, "far")}
    sizes = {name: n_id if group == "id" else per_set for name, group in groups.items()}
    opened = {}

    def one_set(name, group):
        images = pool[group]
        picked = [images[int(i)] for i in rng.integers(len(images), size=sizes[name])]
        opened[name] = [image.image for image in picked]
        return ReportSet(
            name=name,
            group=group,
            paths=[f"{name}/{p.label.replace(' ', '_')}/{i:05d}.png" for i, p in enumerate(picked)],
            labels=[p.label for p in picked],
        )

    sets = [one_set(name, group) for name, group in groups.items()]
    own = np.array([classes.index(label) for label in sets[0].labels])
    hardness = {name: rng.normal(scale=0.5, size=sizes[name]) for name in groups}
    built, pairs, rows = [], {}, []
    for k, name in enumerate(detectors):
        skill = 2.6 - 0.35 * k
        scores, predicted = {}, {}
        for place, (set_name, group) in enumerate(groups.items()):
            shift = {"id": 0.0, "near": 0.55 * skill, "far": skill}[group] + 0.12 * (place % 3)
            raw = hardness[set_name] + rng.normal(scale=0.8, size=sizes[set_name])
            scores[set_name] = 1 / (1 + np.exp(shift + raw - 1.5))
            predicted[set_name] = rng.integers(len(classes), size=sizes[set_name])
        right = rng.random(n_id) < 0.9 - 0.03 * k
        predicted["world"] = np.where(right, own, predicted["world"])
        threshold = threshold_at_tpr(scores["world"]) if k else 0.655
        accuracy = float(np.mean(predicted["world"] == own))
        stream = "order-dependent" if name == "adaneg" else ""
        built.append(
            ReportDetector(
                name=name,
                method=name,
                class_names=classes,
                threshold=threshold,
                threshold_note="keeps 95 % of the ID images of this report"
                if k
                else "was set by calibration on 500 other images",
                scores=scores,
                predicted=predicted,
                stream=stream,
            )
        )
        for set_name, group in list(groups.items())[1:]:
            metrics = evaluate(
                scores["world"],
                scores[set_name],
                id_correct=(scores["world"], predicted["world"] == own),
                resamples=resamples,
            )
            if k == 0:
                found = at_threshold(scores["world"], scores[set_name], threshold)
                metrics = type(metrics)(
                    **{
                        **metrics.__dict__,
                        "oscr": metrics.auroc * accuracy,
                        "threshold": threshold,
                        "tpr": found.tpr.value,
                        "tpr_ci_low": found.tpr.low,
                        "tpr_ci_high": found.tpr.high,
                        "fpr": found.fpr.value,
                        "fpr_ci_low": found.fpr.low,
                        "fpr_ci_high": found.fpr.high,
                    }
                )
            rows.append(ResultRow(name, name, "world", set_name, group, metrics, stream=stream))
        if not stream:
            pairs[name] = {n: (scores["world"], scores[n]) for n in list(groups)[1:]}
    severity = []
    for k, detector in enumerate(built):
        for shift in severities:
            for level in range(6):
                worse = detector.scores["world"] * (1 - 0.05 * level - 0.01 * k)
                severity.append(
                    severity_row(
                        detector.name,
                        shift,
                        level,
                        worse,
                        [detector.scores[n] for n in list(groups)[1:]],
                        float(np.mean(worse >= detector.threshold)),
                        0.9 - 0.06 * level,
                    )
                )
    full = [
        ResultRow(
            row.detector, row.method, "world", row.ood, row.group, row.metrics, spectrum="full"
        )
        for row in rows
        if severities
    ]
    curve = []
    for fitted, gain in (("linear-probe", 0.02), ("local-prompt", 0.015)):
        for shot in shots:
            for draw in range(3):
                for set_name, group in list(groups.items())[1:]:
                    base = rng.normal(size=200)
                    lead = 0.8 + gain * 20 * np.log2(2 * shot) + (group == "far")
                    inside = base + lead + rng.normal(scale=0.1)
                    right = rng.random(200) < 0.7 + gain * np.log2(2 * shot)
                    metrics = evaluate(
                        inside, rng.normal(size=200), id_correct=(inside, right), resamples=0
                    )
                    curve.append(
                        ResultRow(
                            fitted, fitted, "world", set_name, group, metrics, seed=draw, shots=shot
                        )
                    )
    words = ("bandage", "trumpet", "volcano", "lighthouse", "pretzel", "kite")
    nearest = NearestWords(
        names=words,
        index={n: rng.integers(len(words), size=(sizes[n], 3)) for n in groups},
        similarity={
            n: np.sort(rng.uniform(0.15, 0.3, (sizes[n], 3)).astype(np.float32))[:, ::-1]
            for n in groups
        },
    )
    return ReportInputs(
        title="Pictogram world",
        sets=sets,
        detectors=built,
        rows=[*rows, *full, *curve],
        comparisons=paired_rows("world", pairs),
        severity=severity,
        nearest=nearest,
        picture=(lambda name, row: opened[name][row]) if pictures else (lambda _name, _row: None),
        provenance={
            "Run": {"command": "vlood eval --method neglabel …", "date": "2026-11-25"},
            "Software": {"vlood": "0.1", "torch": "2.10.0"},
        },
        notes=("3 images could not be read and are left out.",),
    )


@pytest.fixture(scope="session")
def make_inputs():
    return made_inputs


@pytest.fixture(scope="session")
def usual_inputs():
    """Return an evaluation with everything in it and little of each: axe looks at every element."""
    return made_inputs(
        detectors=("neglabel", "mcm", "adaneg"),
        far=("letters", "noise"),
        severities=("fog",),
        shots=(1, 4),
        n_id=300,
        per_set=200,
    )
