"""The method pages: what the records say, around what is written by hand in docs/methods.

A method's page holds its record, the notes of docs/methods/notes/NAME.md (formula, cost, when to
choose it), its picture, its settings and its arrays. A method without notes still has a page.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .text import escaped

if TYPE_CHECKING:
    from vlood.methods.contract import Method

FOLDER = "methods"
DOCS = Path(__file__).resolve().parents[2] / "docs" / FOLDER
# The families in their order; which one a method is of follows from its record, see family().
FAMILIES = {
    "class-names": "Class names alone",
    "regions": "Regions of an image",
    "negative-labels": "Negative labels",
    "test-time": "Test-time methods",
    "neighbours": "Distances and densities",
    "probes": "Probes on embeddings",
    "prompts": "Learned prompts and towers",
    "ensembles": "Several detectors",
}
_NEEDS = {
    "classes": "class names",
    "local": "regional embeddings (a CLIP ViT or ResNet)",
    "negatives": "negative labels (mined once if none are given)",
    "noise": "noise words",
    "images": "labelled images, or their embeddings",
    "captioned-images": "images with captions, or with labels",
    "text-tower": "the text tower, while it is tuned",
    "detectors": "saved detectors",
    "layers": "embeddings of every layer of the tower",
    "pixels": "the pixels of the training images",
    "view-regions": "regional embeddings of augmented views, while it is tuned",
}
_STREAMS = {
    "order-dependent": "an image's score depends on the images before it",
    "transductive": "an image's score depends on the images beside it",
}


def family(method: Method) -> str:
    """Return which family a method is of, by what it needs and what it stores."""
    needs = set(method.record.needs)
    if method.record.stream:
        return "test-time"
    if "detectors" in needs:
        return "ensembles"
    if "text-tower" in needs:
        return "prompts"
    if "images" in needs or "captioned-images" in needs or method.record.trains:
        return "probes" if {"weight", "bias"} <= set(method.arrays) else "neighbours"
    if "negatives" in needs:
        return "negative-labels"
    return "regions" if "local" in needs else "class-names"


def families() -> dict[str, list[Method]]:
    """Return the methods of each family, both in their order."""
    from vlood.methods import registry

    found: dict[str, list[Method]] = {name: [] for name in FAMILIES}
    for method in registry.all_methods():
        found[family(method)].append(method)
    return {name: methods for name, methods in found.items() if methods}


def nav() -> list[Any]:
    """Return the pages in their order."""
    return [
        f"{FOLDER}/index.md",
        *(
            {
                FAMILIES[name]: [
                    {"Overview": f"{FOLDER}/family-{name}.md"},
                    *({each.record.title: f"{FOLDER}/{each.name}.md"} for each in methods),
                ]
            }
            for name, methods in families().items()
        ),
    ]


def method_pages() -> dict[str, str]:
    """Return the pages by their file: of all methods, of the families, and of each method."""
    found = families()
    pages = {f"{FOLDER}/index.md": _index(found)}
    for name, methods in found.items():
        prose = _written(f"families/{name}.md") or f"# {FAMILIES[name]}"
        pages[f"{FOLDER}/family-{name}.md"] = f"{prose}\n\n## The methods\n\n{_table(methods)}\n"
        for method in methods:
            pages[f"{FOLDER}/{method.name}.md"] = method_page(method)
    return pages


def method_page(method: Method) -> str:
    """Return the page of a method."""
    record = method.record
    parts = [f"# {record.title}", _sentence(record.summary), _facts(method)]
    picture = DOCS / "pictures" / f"{method.name}.png"
    if picture.exists():
        parts.append(
            f"![Where on the sphere of embeddings {record.title} scores high]"
            f"(pictures/{picture.name}){{ .sphere width=240 }}\n\n"
            "Its score on a sphere of three-dimensional embeddings: yellow is in-distribution. "
            "[How to read it](index.md#the-pictures).\n{ .caption }"
        )
    parts += [
        _written(f"notes/{method.name}.md") or f"## Formula\n\n{escaped(record.score_note)}",
        f"## Use it\n\n```sh\n{_commands(method)}\n```",
        _settings(method),
        _arrays(method),
    ]
    return "\n\n".join(each for each in parts if each) + "\n"


def _index(found: dict[str, list[Method]]) -> str:
    parts = [_written("families/all.md") or "# Methods"]
    for name, methods in found.items():
        parts += [f"## [{FAMILIES[name]}](family-{name}.md)", _table(methods)]
    return "\n\n".join(parts) + "\n"


def _table(methods: list[Method]) -> str:
    rows = ["| method | score | needs |", "|---|---|---|"]
    for method in methods:
        record = method.record
        mark = f" **{record.stream}**" if record.stream else ""
        rows.append(
            f"| [`{method.name}`]({method.name}.md) | {escaped(record.summary)}{mark} | "
            f"{', '.join(record.needs)} |"
        )
    return "\n".join(rows)


def _facts(method: Method) -> str:
    record = method.record
    rows = [
        ("`--method`", f"`{method.name}`"),
        ("Score", escaped(record.score_note)),
        ("Needs", "; ".join(_NEEDS.get(each, each) for each in record.needs)),
        ("Learns", "yes, with [`vlood tune`](../commands/tune.md)" if record.trains else "no"),
    ]
    if record.stream:
        rows.append((record.stream.capitalize(), _STREAMS[record.stream]))
    if record.template:
        rows.append(("Template", f"`{record.template}`, unless `--template` says otherwise"))
    rows += [
        ("Paper", f"[{escaped(record.paper)}]({record.url}), {record.venue} {record.year}"),
        ("Reference code", escaped(record.licence)),
    ]
    body = "\n".join(f"| {name} | {value} |" for name, value in rows if value != "-")
    return f"| | |\n|---|---|\n{body}"


def _commands(method: Method) -> str:
    """Return the lines that try it, fit it, and compare it."""
    name, needs = method.name, method.record.needs
    if "captioned-images" in needs:
        train = "--captions 'shards-{000..331}.tar' "
    elif "images" in needs:
        train = "--train train/ "
    else:
        train = ""
    bank = "--negatives bank " if "negatives" in needs else ""
    if "detectors" in needs:
        return (
            f"vlood tune {name} my-regions my-neighbours --id known-good/ -o together\n"
            "vlood score photos/ --detector together"
        )
    if method.record.trains:
        return (
            f"vlood tune {name} --classes classes.txt {bank}{train}-o my-detector\n"
            "vlood calibrate my-detector --id known-good/\n"
            "vlood score photos/ --detector my-detector"
        )
    compare = f"{name},mcm" if name != "mcm" else "mcm,energy"
    lines = [f"vlood score photos/ --classes classes.txt --method {name} -o scores.jsonl"]
    if bank:
        lines.insert(0, "vlood mine --classes classes.txt -o bank")
        lines[1] = lines[1].replace(f"--method {name}", f"--method {name} {bank}".strip())
    lines.append(
        f"vlood eval --classes classes.txt --method {compare} --id known-good/ --ood strange/ "
        "-o report"
    )
    return "\n".join(lines)


def _settings(method: Method) -> str:
    fields = dataclasses.fields(method.settings)
    parts = ["## Settings"]
    if not fields:
        return "## Settings\n\nIt has none."
    parts.append("Give them with `--set NAME=VALUE`, once for each.")
    if method.presets:
        names = ", ".join(f"`{each}`" for each in method.presets)
        parts.append(f"`preset`\n:   Settings of a published recipe: {names}.")
    for each in fields:
        meta = each.metadata
        notes = [f"Default: `{each.default}`."]
        if meta.get("unit", "-") != "-":
            notes.append(f"Unit: {escaped(meta['unit'])}.")
        if meta.get("source", "-") != "-":
            notes.append(f"From: {escaped(meta['source'])}.")
        parts.append(f"`{each.name}`\n:   {_sentence(meta.get('help', ''))} {' '.join(notes)}")
    return "\n\n".join(parts)


def _arrays(method: Method) -> str:
    rows = ["| array | shape |", "|---|---|"]
    for name, shape in method.arrays.items():
        rows.append(f"| `{name}` | [{', '.join(shape.split())}] |")
    return (
        "## What is stored\n\nIn `tensors.safetensors` of [the detector's folder]"
        "(../detector-folder.md): K classes, M negatives, D numbers an embedding.\n\n"
        + "\n".join(rows)
    )


def _sentence(text: str) -> str:
    text = escaped(text)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _written(name: str) -> str:
    path = DOCS / name
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
