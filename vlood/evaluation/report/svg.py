"""Turn a matplotlib figure into SVG that belongs to a page.

The page's policy forbids style attributes and its colours change between light and dark, so the
figure is drawn in sentinel colours, which become classes the page's style sheet colours; other
styles become attributes. Ids are kept only where something refers to them, with a prefix of the
figure's own.
"""

from __future__ import annotations

import io
import re
import threading
from typing import Any
from xml.etree import ElementTree as ET

SERIES = 7
"""Colours of series the style sheet has."""

INK = "#010100"
MUTED = "#010200"
RULE = "#010300"
ID_FILL = "#010400"
MARK = "#010500"

_CLASSES = {INK: "ink", MUTED: "muted", RULE: "rule", ID_FILL: "id", MARK: "mark"}
_DROPPED = {"metadata", "style", "title"}
_FONT_SIZE = re.compile(r"([\d.]+)px")
_DECIMALS = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
_REFERENCE = re.compile(r"#([\w.-]+)")
_LOCK = threading.Lock()


def series_colour(i: int) -> str:
    """Return the sentinel colour of the i-th series."""
    return f"#0102{i % SERIES + 1:02x}"


_CLASSES.update({series_colour(i): f"c{i}" for i in range(SERIES)})


def svg_of(figure: Any, prefix: str, label: str) -> str:
    """Draw a figure and return it as an ``<svg role="img">`` element.

    Args:
        figure: a matplotlib Figure.
        prefix: of its ids; unique in the page.
        label: what it shows, for those who do not see it; "" hides it from them.
    """
    root = ET.fromstring(_drawn(figure))
    _clean(root)
    _rename_ids(root, prefix)
    size = root.get("viewBox", "")
    root.attrib.clear()
    said = {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    root.attrib.update({"viewBox": size, "class": "chart", **said})
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def _drawn(figure: Any) -> bytes:
    from matplotlib import rc_context

    svg = io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    # Text as text has no other switch than this setting of the whole process; it is put back at
    # once, and only one figure is drawn meanwhile.
    with _LOCK, rc_context({"svg.fonttype": "none", "svg.hashsalt": "vlood"}):
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
    return svg.getvalue()


def _clean(element: ET.Element) -> None:
    element.tag = element.tag.rpartition("}")[2]
    for name in [name for name in element.attrib if name.startswith("{")]:
        value = element.attrib.pop(name)
        if name.endswith("}href"):
            element.set("href", value)
    _style_to_attributes(element)
    for name in ("d", "x", "y", "transform", "width", "height", "stroke-width"):
        if name in element.attrib:
            element.set(name, _DECIMALS.sub(_short, element.attrib[name]).replace("\n", ""))
    if element.text and not element.text.strip():
        element.text = None
    for child in list(element):
        child.tail = None
        _clean(child)
        empty = child.tag in ("g", "defs") and not len(child)
        if child.tag in _DROPPED or empty:
            element.remove(child)


def _style_to_attributes(element: ET.Element) -> None:
    classes = []
    gid = element.get("id", "")
    if gid.startswith("mark-"):
        classes.append(gid)
    declared = dict(
        [part.strip() for part in declaration.split(":", 1)]
        for declaration in element.attrib.pop("style", "").split(";")
        if ":" in declaration
    )
    for name in ("fill", "stroke"):
        value = declared.get(name) or element.get(name, "")
        if value in _CLASSES:
            classes.append(f"{name[0]}-{_CLASSES[value]}")
            declared.pop(name, None)
            element.attrib.pop(name, None)
    if "font" in declared and (size := _FONT_SIZE.search(declared.pop("font"))):
        declared["font-size"] = size.group(1)
    for name, value in declared.items():
        element.set(name, value)
    if classes:
        element.set("class", " ".join(classes))


def _rename_ids(root: ET.Element, prefix: str) -> None:
    """Keep the ids that are referred to, numbered in their order."""
    used: dict[str, str] = {}
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in ("href", "clip-path"):
                for old in _REFERENCE.findall(value):
                    used.setdefault(old, f"{prefix}-{len(used)}")
    for element in root.iter():
        old = element.attrib.pop("id", None)
        if old in used:
            element.set("id", used[old])
        for name in ("href", "clip-path"):
            if name in element.attrib:
                element.set(
                    name,
                    _REFERENCE.sub(lambda match: f"#{used[match.group(1)]}", element.attrib[name]),
                )


def _short(match: re.Match[str]) -> str:
    text = f"{float(match.group()):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
