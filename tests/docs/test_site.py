"""The documentation builds; no link in it is dead, and it loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder


class _Page(HTMLParser):
    """What a page refers to, what it loads, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attributes if value}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found["href"])
        elif "src" in found:
            self.loaded.append(found["src"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Page]:
    return {path: _Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


@pytest.mark.slow
def test_no_link_is_dead(site: Path, pages: dict[Path, _Page]) -> None:
    assert len(pages) > 90
    dead = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                dead.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target in pages:
                known = pages[target].anchors
                if unquote(parts.fragment) not in known and parts.fragment != "__skip":
                    dead.append(f"{path.relative_to(site)}: {link} (no such anchor)")
    assert not dead, "\n".join(dead[:20])


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, _Page]) -> None:
    for path, page in pages.items():
        far = [each for each in page.loaded if urlsplit(each).netloc]
        assert not far, f"{path.relative_to(site)} loads {far}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text()), sheet


@pytest.mark.slow
def test_every_command_method_and_public_name_has_its_place(site: Path) -> None:
    import vlood
    from vlood.methods import registry

    for name in registry.names():
        assert "<math" in (site / "methods" / f"{name}.html").read_text(), name
    python = "".join(path.read_text() for path in (site / "python").glob("*.html"))
    for name, home in vlood._HOMES.items():
        assert f'id="vlood.{home}.{name}"' in python, name
    score = (site / "commands" / "score.html").read_text()
    assert "--fail-on-ood" in score
    assert "Default: <code>32</code>" in score


def test_every_method_of_our_own_has_notes() -> None:
    from vlood.methods import registry

    for entry in registry.BUILT_INS:
        path = ROOT / "docs" / "methods" / "notes" / f"{entry.name}.md"
        assert path.exists(), f"write {path.relative_to(ROOT)}: formula, cost, when to choose it"
        titles = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
        assert titles == ["Formula", "Cost", "When to choose it"], entry.name
