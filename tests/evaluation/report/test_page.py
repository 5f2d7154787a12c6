"""The page is one safe, bounded file that says everything without a script."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vlood.errors import ImageError
from vlood.evaluation.metrics import roc_curve
from vlood.evaluation.report.charts import ROC_POINTS, thinned
from vlood.evaluation.report.page import report_page, script_json, write_report_page
from vlood.evaluation.report.thumbnails import Thumbnails

HOSTILE = (
    '"><script>alert(1)</script>',
    "</script><!--<script>",
    "bad\udcffbyte",
    "line\nbreak\t{{ 7*7 }}",
    "$x^2_",
    "long" * 400,
)


@pytest.fixture(scope="module")
def page(usual_inputs):
    return report_page(usual_inputs)


class Elements(HTMLParser):
    """Collects scripts, ids and visible text."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.ids, self.tags, self.words, self.inside = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.inside = tag
        self.tags.append((tag, given))
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.words.append(data)


def hostile(inputs):
    """Rename everything that has a name."""
    sets = {each.name: f"{each.name}{HOSTILE[i % 6]}" for i, each in enumerate(inputs.sets)}
    detectors = {
        each.name: f"{each.name}{HOSTILE[i % 6]}" for i, each in enumerate(inputs.detectors)
    }
    return replace(
        inputs,
        title=HOSTILE[0],
        sets=[
            replace(
                each,
                name=sets[each.name],
                paths=[HOSTILE[i % 6] + path for i, path in enumerate(each.paths)],
                labels=[HOSTILE[i % 6] for i in range(len(each))],
            )
            for each in inputs.sets
        ],
        detectors=[
            replace(
                each,
                name=detectors[each.name],
                class_names=tuple(f"{c}{HOSTILE[i % 6]}" for i, c in enumerate(each.class_names)),
                threshold_note=HOSTILE[1],
                scores={sets[n]: s for n, s in each.scores.items()},
                predicted={sets[n]: p for n, p in each.predicted.items()},
            )
            for each in inputs.detectors
        ],
        rows=[
            replace(row, detector=detectors.get(row.detector, HOSTILE[0]), ood=sets[row.ood])
            for row in inputs.rows
        ],
        comparisons=[
            replace(
                row,
                ood=sets.get(row.ood, row.ood),
                first=detectors[row.first],
                second=detectors[row.second],
            )
            for row in inputs.comparisons
        ],
        severity=[
            replace(row, detector=detectors[row.detector], shift=HOSTILE[0] + row.shift)
            for row in inputs.severity
        ],
        nearest=replace(
            inputs.nearest,
            names=HOSTILE,
            index={sets[n]: v for n, v in inputs.nearest.index.items()},
            similarity={sets[n]: v for n, v in inputs.nearest.similarity.items()},
        ),
        picture=lambda _name, _row: None,
        provenance={HOSTILE[0]: {HOSTILE[1]: HOSTILE[2]}},
        notes=HOSTILE,
    )


def test_hostile_names_stay_text(make_inputs):
    inputs = hostile(make_inputs(per_set=60, n_id=80, resamples=0, severities=("fog",)))
    text = report_page(inputs)
    text.encode("utf-8")
    found = Elements(text)
    assert len(found.scripts) == 2, "only the data and the page's own script"
    json.loads(found.scripts[0])
    assert not [tag for tag, given in found.tags if any(name.startswith("on") for name in given)]
    assert "alert(1)" in "".join(found.words)
    assert "49" not in "".join(word for word in found.words if "line break" in word)
    assert len("long" * 400) > 1500
    assert "long" * 100 not in text


def test_data_cannot_end_its_script():
    text = script_json([*HOSTILE[:2], "&amp;"])
    assert not set("<>&") & set(text)
    assert json.loads(text)[0] == HOSTILE[0]


def test_nothing_is_loaded_from_elsewhere(page):
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "http-equiv" in page
    assert "default-src &#39;none&#39;" in page
    assert ' style="' not in page, "the policy forbids style attributes"


def test_ids_are_unique_and_references_lead_somewhere(page):
    found = Elements(page)
    assert len(found.ids) == len(set(found.ids))
    known = set(found.ids)
    for tag, given in found.tags:
        for name in ("aria-labelledby", "for"):
            if name in given:
                assert given[name] in known, (tag, given)
        if given.get("href", "").startswith("#"):
            assert given["href"][1:] in known
        if "clip-path" in given:
            assert given["clip-path"][5:-1] in known


def test_everything_is_there_without_a_script(page, usual_inputs):
    text = " ".join(" ".join(Elements(page).words).split())
    for words in ("neglabel is best", "order-dependent", "Full spectrum", "Learning curves",
                  "As pictures get worse", "OOD images accepted", "ID images rejected",
                  "wrong class", "Class by class", "FPR95 OOD+", "Provenance", "torch",
                  "3 images could not be read", "Holm"):  # fmt: skip
        assert words in text, words
    first = usual_inputs.detectors[0]
    for each in usual_inputs.sets:
        count = int((first.scores[each.name] >= first.threshold).sum())
        assert re.search(rf"{each.name} (ID|near OOD|far OOD) {count} of {len(each)} ", text)
    assert page.count("<details") == page.count("</details>")


def test_headings_never_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in Elements(page).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_same_inputs_give_the_same_bytes(make_inputs, tmp_path):
    for name in ("a.html", "b.html"):
        write_report_page(
            tmp_path / name, make_inputs(detectors=("mcm",), per_set=50, n_id=60, resamples=0)
        )
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_each_picture_is_embedded_once_and_within_the_budget(usual_inputs):
    text = report_page(usual_inputs, picture_budget=60_000)
    uris = re.findall(r"data:image/webp;base64,[^)]+", text)
    assert uris
    assert len(text) - len(re.sub(r"data:image/webp;base64,[^)]+", "", text)) <= 60_000
    rules = re.findall(r"\.(t\d+)\{", text)
    assert len(rules) == len(set(rules)) == len(uris)
    assert re.search(r"[\d,]+ more images listed here are shown by their paths only", text)


def test_every_detector_gets_pictures_of_a_small_budget(usual_inputs):
    text = report_page(usual_inputs, picture_budget=60_000)
    for i in range(len(usual_inputs.detectors)):
        start = text.index(f'<article class="detector" id="d{i}"')
        assert 'class="thumb t' in text[start : text.index("</article>", start)]


def test_an_unreadable_picture_leaves_its_path(usual_inputs):
    def broken(_name, _row):
        raise ImageError("gone")

    text = report_page(replace(usual_inputs, picture=broken))
    assert "data:image" not in text
    assert "no picture" in text
    assert "pictograms/" in text


def test_thumbnails_are_small_and_kept_once():
    calls = []

    def picture(name, row):
        calls.append((name, row))
        return Image.effect_noise((400, 180), 60).convert("P") if row else None

    store = Thumbnails(picture, 20_000)
    assert store.add("a", 1) == store.add("a", 1) == "t0"
    assert store.add("a", 0) == ""
    assert len(calls) == 2
    assert 0 < len(store.css()) < 20_000
    for row in range(2, 60):
        store.add("a", row)
    assert store.left_out > 0
    assert len(store.css()) <= 20_000


def test_a_large_evaluation_stays_below_eight_megabytes(make_inputs):
    inputs = make_inputs(
        near=[f"near-{i}" for i in range(6)], far=[f"far-{i}" for i in range(6)],
        per_set=1500, n_id=2000, resamples=0,
    )  # fmt: skip
    noise = np.random.default_rng(0)

    def picture(_name, _row):
        # Noise is the hardest to compress.
        return Image.fromarray(noise.integers(0, 255, (200, 200, 3), dtype=np.uint8))

    text = report_page(replace(inputs, picture=picture))
    assert len(text.encode()) < 8_000_000


def test_few_sets_detectors_and_facts_make_a_page_too(make_inputs):
    inputs = make_inputs(
        detectors=("mcm",), near=(), far=("far",), severities=(), shots=(), per_set=3, n_id=4,
        resamples=0, pictures=False,
    )  # fmt: skip
    text = report_page(replace(inputs, nearest=None, provenance={}, notes=()))
    for absent in ('id="severity"', 'id="curves"', 'id="full"', 'id="provenance"', "<fieldset"):
        assert absent not in text
    assert "Few images" in text


def test_constant_scores_and_a_threshold_beyond_them_are_drawn(make_inputs):
    inputs = make_inputs(detectors=("mcm",), per_set=20, n_id=20, resamples=0, severities=())
    (one,) = inputs.detectors
    flat = {name: np.zeros_like(scores) for name, scores in one.scores.items()}
    assert "mark-threshold" in report_page(
        replace(inputs, detectors=[replace(one, scores=flat, threshold=3.0)])
    )


def test_a_thinned_curve_looks_the_same():
    rng = np.random.default_rng(0)
    curve = roc_curve(rng.normal(1, 1, 20_000), rng.normal(size=30_000))
    x, y = thinned(curve)
    assert len(x) <= ROC_POINTS
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.abs(np.interp(curve.fpr, x, y) - curve.tpr).max() < 0.01
    small = roc_curve([3.0, 1.0], [2.0, 0.0])
    assert thinned(small)[0].tolist() == [0, 0, 0.5, 0.5, 1]
