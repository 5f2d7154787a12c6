"""The Python reference: the names of `vlood.__all__`, by the room they live in."""

from __future__ import annotations

import inspect

FOLDER = "python"
# What a room is for, in the order a reader meets them; a room that is not named here comes last.
ROOMS = {
    "engines": "Score and fit",
    "detector": "Thresholds",
    "methods": "Detectors and methods",
    "backbone": "Models",
    "features": "Embeddings",
    "images": "Images",
    "prompts": "Classes and prompts",
    "training": "Training data",
    "evaluation": "Evaluation",
    "errors": "Errors",
}

_START = """# Python

Everything the command line does is a few calls of the library. `import vlood` costs nothing: each
name is loaded when it is first used.

```python
import vlood

detector = vlood.load("my-detector")
result = detector.score(["photos/"])  # or PIL images, or an array of embeddings
print(result.ood, result.p_value)
```

Or without a saved detector:

```python
import vlood

backbone = vlood.load_backbone("bundled")
classes = vlood.classes_from_texts(
    vlood.read_classes("world"), ["a photo of a {}."], backbone, None
)
detectors = vlood.fit_zero_shot(["mcm", "energy"], classes, backbone.logit_scale)
for batch in vlood.score_images(
    vlood.find_images(["photos/"]), backbone, detectors, vlood.StreamSettings()
):
    print(batch.ids, batch.scores[0].score)
```

Scores are oriented: **higher = more in-distribution**. What a user can get wrong raises
`vlood.UsageError`, one sentence that says what to do.
"""


def by_room() -> dict[str, list[str]]:
    """Return the public names of each room."""
    import vlood

    found: dict[str, list[str]] = {room: [] for room in ROOMS}
    for name, home in vlood._HOMES.items():
        found.setdefault(home.split(".")[0], []).append(name)
    return {room: names for room, names in found.items() if names}


def title(room: str) -> str:
    """Return what a room is called in the documentation."""
    return ROOMS.get(room, room.capitalize())


def nav() -> list[object]:
    """Return the pages in their order."""
    return [f"{FOLDER}/index.md", *({title(room): f"{FOLDER}/{room}.md"} for room in by_room())]


def python_pages() -> dict[str, str]:
    """Return the pages by their file."""
    import vlood

    pages = {}
    index = [_START]
    for room, names in by_room().items():
        blocks = [f"::: vlood.{vlood._HOMES[name]}.{name}" for name in sorted(names)]
        pages[f"{FOLDER}/{room}.md"] = "\n\n".join([f"# {title(room)}", *blocks]) + "\n"
        index += [f"## {title(room)}", "| name | |\n|---|---|"]
        for name in sorted(names):
            first = (inspect.getdoc(getattr(vlood, name)) or "").split("\n\n")[0]
            anchor = f"vlood.{vlood._HOMES[name]}.{name}"
            index[-1] += f"\n| [`vlood.{name}`]({room}.md#{anchor}) | {' '.join(first.split())} |"
    pages[f"{FOLDER}/index.md"] = "\n\n".join(index) + "\n"
    return pages
