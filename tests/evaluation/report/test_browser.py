"""The page in headless Chromium: it moves, it is quiet, and axe finds nothing serious."""

from __future__ import annotations

import re
import shutil
from importlib import resources

import numpy as np
import pytest

from vlood.evaluation.report.page import write_report_page
from vlood.evaluation.report.standings import balanced_mean

pytestmark = pytest.mark.browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(usual_inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report_page(path, usual_inputs)
    return path.as_uri()


@pytest.fixture(scope="module")
def small_address(make_inputs, tmp_path_factory):
    """Everything once: axe looks at every element, which takes its time."""
    inputs = make_inputs(
        detectors=("neglabel", "mcm", "adaneg"),
        near=("emoji",),
        far=("noise",),
        severities=("fog",),
        shots=(1, 4),
        n_id=30,
        per_set=8,
        resamples=20,
    )
    path = tmp_path_factory.mktemp("report") / "small.html"
    write_report_page(path, inputs)
    return path.as_uri()


@pytest.fixture
def opened(chromium, address):
    """Open the page; it must load nothing else and report no error."""
    contexts, faults = [], []

    def open_page(width=1280, scheme="light", where=address, **options):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or faults.append(request.url)
            ),
        )
        page.goto(where)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def shown_table(page, detector):
    rows = page.locator(f"#d{detector} .accepted tbody tr").all()
    return [
        (row.locator(".count").inner_text(), row.locator(".share").inner_text()) for row in rows
    ]


def counted(inputs, detector, threshold):
    one = inputs.detectors[detector]
    accepted = [int((one.scores[each.name] >= threshold).sum()) for each in inputs.sets]
    return [
        (str(count), f"{100 * count / len(each):.1f}")
        for count, each in zip(accepted, inputs.sets, strict=True)
    ]


def grid_threshold(page, detector):
    return page.evaluate(
        "d => JSON.parse(document.getElementById('data').textContent)[d].thresholds"
        "[document.querySelector(`#d${d}-slider`).value]",
        detector,
    )


@pytest.mark.parametrize("steps", [1, 17, -40])
def test_the_slider_counts_what_python_counts(opened, usual_inputs, steps):
    page = opened()
    one = usual_inputs.detectors[0]
    assert shown_table(page, 0) == counted(usual_inputs, 0, one.threshold)
    slider = page.locator("#d0-slider")
    slider.focus()
    for _ in range(abs(steps)):
        page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
    threshold = grid_threshold(page, 0)
    assert np.sign(threshold - one.threshold) == np.sign(steps)
    assert shown_table(page, 0) == counted(usual_inputs, 0, threshold)

    flipped = {
        each.name: (one.scores[each.name] >= threshold) != (one.scores[each.name] >= one.threshold)
        for each in usual_inputs.sets
    }
    total = sum(int(flips.sum()) for flips in flipped.values())
    assert total
    heading = page.locator("#d0 .flips-heading").inner_text()
    assert heading.startswith(f"{total:,} image")
    assert ("rejected instead" if steps > 0 else "accepted instead") in heading
    cards = page.locator("#d0 .flips .card").all()
    assert len(cards) == min(total, 24)
    paths = {
        each.paths[row] for each in usual_inputs.sets for row in np.flatnonzero(flipped[each.name])
    }
    assert {card.locator(".path").inner_text() for card in cards} <= paths

    shares = {
        each.name: (each.group, float(np.mean(one.scores[each.name] >= threshold)))
        for each in usual_inputs.sets[1:]
    }
    said = slider.get_attribute("aria-valuetext")
    assert said == page.locator("#d0-value").inner_text()
    assert f"and {100 * balanced_mean(shares)[0]:.1f} % of OOD" in said
    inside = float(np.mean(one.scores["world"] >= threshold))
    assert f"accepts {100 * inside:.1f} % of ID" in said

    page.locator("#d0 .reset").click()
    assert shown_table(page, 0) == counted(usual_inputs, 0, one.threshold)
    assert not page.locator("#d0 .flips").is_visible()


def test_the_line_in_the_histogram_follows(opened):
    page = opened()
    mark = page.locator("#d0 .mark-threshold").first
    axis = page.locator("#d0 .panels .chart").first.bounding_box()
    before = mark.bounding_box()["x"]
    slider = page.locator("#d0-slider")
    slider.focus()
    page.keyboard.press("End")
    after = mark.bounding_box()["x"]
    assert before + 10 < after < axis["x"] + axis["width"]
    page.keyboard.press("Home")
    assert axis["x"] < mark.bounding_box()["x"] < before - 10


def test_the_theme_button_changes_and_keeps_the_colours(opened):
    page = opened()
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button = page.locator("#theme")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    dark = page.evaluate(paper)
    assert dark != light
    assert button.get_attribute("aria-pressed") == "true"
    page.reload()
    assert page.evaluate(paper) == dark
    assert opened(scheme="dark").evaluate(paper) == dark


def test_headings_sort_their_table(opened):
    page = opened()
    table = page.locator("#results-table")
    column = table.locator("thead th").nth(3)

    def values():
        cells = table.locator("tbody tr td:nth-child(4)").all()
        return [float(re.match(r"[\d.]+", cell.inner_text()).group()) for cell in cells]

    original = values()
    column.locator("button").focus()
    page.keyboard.press("Enter")
    assert column.get_attribute("aria-sort") == "descending"
    assert values() == sorted(original, reverse=True)
    page.keyboard.press("Enter")
    assert values() == sorted(original)
    page.keyboard.press("Enter")
    assert values() == original
    assert column.get_attribute("aria-sort") is None


def test_one_detector_is_shown_and_chosen_by_keyboard(opened):
    page = opened()
    visible = "[...document.querySelectorAll('.detector')].filter(e => !e.hidden).map(e => e.id)"
    assert page.evaluate(visible) == ["d0"]
    page.locator(".chooser input").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(visible) == ["d1"]


def test_paper_is_light_and_shows_every_detector(opened):
    page = opened(scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for i in range(3):
        assert page.locator(f"#d{i} .gallery .thumb").first.is_visible()
    assert not page.locator("#theme").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0


def test_without_scripts_all_is_shown_but_what_needs_them(opened, usual_inputs):
    page = opened(java_script_enabled=False)
    for i, one in enumerate(usual_inputs.detectors):
        assert page.locator(f"#d{i}-heading").is_visible()
        assert shown_table(page, i) == counted(usual_inputs, i, one.threshold)
    assert not page.locator("#d0-slider").is_visible()
    assert not page.locator("#theme").is_visible()


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_the_page_is_no_wider_than_the_screen(opened, width):
    assert opened(width).evaluate("document.documentElement.scrollWidth") <= width


# Colours do not depend on the width, nor what is where on the colours.
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_axe_finds_nothing_serious(opened, small_address, width, scheme):
    pytest.importorskip("axe_playwright_python")
    axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
    page = opened(width, scheme, small_address)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.locator("#d0-slider").focus()
    page.keyboard.press("End")
    assert page.locator("#d0 .flips .card").first.is_visible()
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (each["id"], each["nodes"][0]["html"][:200], each["nodes"][0]["failureSummary"])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 20, "axe has looked"
