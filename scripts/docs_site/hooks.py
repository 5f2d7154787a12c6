"""What mkdocs calls while it builds: add the generated pages, and write formulas as MathML.

Formulas are turned into MathML here, which every browser draws by itself: no script, no font, no
network.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "scripts"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from docs_site import commands, methods, python_api, topics  # noqa: E402

# Pages of the repository that are pages of the site too.
COPIED = {"benchmarks.md": "BENCHMARKS.md", "changelog.md": "CHANGELOG.md"}
COPIED |= {"contributing.md": "CONTRIBUTING.md", "mutants.md": "tests/MUTANTS.md"}
APART = ("faq", "glossary")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages in the navigation."""
    nav: list[Any] = list(config.nav or [])
    place = next(number for number, each in enumerate(nav) if "Formats" in each)
    nav[place:place] = [
        {"Guide": topics.nav(leave_out=APART)},
        {"Methods": methods.nav()},
        {"Commands": commands.nav()},
        {"Python": python_api.nav()},
    ]
    nav[-1]["About"] += list(COPIED)
    nav.append({"FAQ": topics.nav("faq")[0]})
    nav.append({"Glossary": topics.nav("glossary")[0]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    made = commands.command_pages() | methods.method_pages() | python_api.python_pages()
    made |= topics.topic_pages()
    for page, source in COPIED.items():
        made[page] = _moved((ROOT / source).read_text(encoding="utf-8"))
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Write formulas as MathML, and keep each option of a command on one line."""
    content = re.sub(
        r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', _formula, content, flags=re.S
    )
    return re.sub(r"(<code\b[^>]*>)(.*?)(</code>)", _whole_options, content, flags=re.S)


def _whole_options(found: re.Match[str]) -> str:
    """Mark the options of some code: a browser would break a line between its dashes."""
    option = r"(?<![\w<!-])(--?[a-z][\w-]*)(?![^<]*>)"
    marked = re.sub(option, r'<span class="option">\1</span>', found[2])
    return found[1] + marked + found[3]


def _formula(found: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    block = found[2] == "["
    made = convert(html.unescape(found[3]).strip(), display="block" if block else "inline")
    return f'<div class="formula">{made}</div>' if block else made


def _moved(text: str) -> str:
    """Point the links of a page of the repository's root at the pages of the site."""
    text = text.replace("](docs/", "](")
    for page, source in COPIED.items():
        text = text.replace(f"]({source})", f"]({page})")
    return text.replace("<!-- end -->", "")
