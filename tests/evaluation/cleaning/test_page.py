"""The page: escaped, self-contained, limited."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from vlood.evaluation.cleaning.page import Card, Section, clean_page, data_uri


def test_every_text_is_escaped_and_nothing_is_fetched() -> None:
    bad = "<script>alert('x')</script>\"&"
    card = Card(bad, bad, bad, bad, None, (bad, None), conflict=True)
    sections = [Section("duplicate", bad, bad, [card], 0)]
    page = clean_page(bad, [(bad, bad)], sections, [(bad, bad)])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_empty_sections_are_left_out_and_the_rest_is_counted() -> None:
    card = Card("a.jpg", "cat", "cat", "", None)
    sections = [
        Section("mislabelled", "Labels", "about labels", [card], 1234),
        Section("ood", "Strange", "about strange", [], 0),
    ]
    page = clean_page("t", [], sections, [("b.jpg", "broken")], 7)
    assert "and 1,234 more" in page
    assert "1,235" in page
    assert "about strange" not in page
    assert "and 7 more" in page
    assert "Nothing is suspect" in clean_page("t", [], [], [])


def test_pictures_are_small_jpegs() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    uri = data_uri(Image.fromarray(noise))
    assert len(uri) < 20_000
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (176, 132)
