"""A WordNet of a dozen synsets, in the format of Princeton's dict folder."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTICE = "  1 A dictionary made up for a test.  \n"

# Key: lexicographer file, type, words, pointers (sign, key).
NOUNS = {
    "entity": (3, "n", ("entity",), (("~", "animal"), ("~", "thing"), ("~", "place"))),
    "thing": (6, "n", ("thing",), (("@", "entity"), ("~", "crane2"), ("~", "pound"))),
    "animal": (5, "n", ("animal", "animate_being"), (("@", "entity"), ("~", "dog"), ("~", "bird"))),
    "dog": (5, "n", ("dog", "domestic_dog", "Canis_familiaris"), (("@", "animal"), ("~", "pug"))),
    "pug": (5, "n", ("pug", "pug-dog"), (("@", "dog"),)),
    "bird": (5, "n", ("bird",), (("@", "animal"), ("~", "crane1"))),
    "crane1": (5, "n", ("crane",), (("@", "bird"),)),
    "crane2": (6, "n", ("crane", "hoist"), (("@", "thing"),)),
    "pound": (6, "n", ("pound", "dog_pound"), (("@", "thing"),)),
    "place": (15, "n", ("place",), (("@", "entity"), ("~i", "paris"))),
    "paris": (15, "n", ("Paris", "City_of_Light"), (("@i", "place"),)),
    "pizza": (13, "n", ("pizza", "pizza_pie"), (("@", "entity"),)),
}
ADJECTIVES = {
    "able": (0, "a", ("able", "capable"), (("&", "apt"),)),
    "apt": (0, "s", ("apt", "running(a)"), (("&", "able"),)),
    "lunar": (1, "a", ("lunar",), ()),
    "worn": (44, "a", ("worn",), ()),
    "fast": (0, "a", ("dog",), ()),
}
PART = {"noun": "n", "adj": "a"}


def _line(synsets: dict, key: str, offsets: dict[str, int], part: str) -> str:
    lex_file, kind, words, pointers = synsets[key]
    names = " ".join(f"{word} 0" for word in words)
    links = "".join(f"{sign} {offsets[to]:08d} {part} 0000 " for sign, to in pointers)
    return (
        f"{offsets[key]:08d} {lex_file:02d} {kind} {len(words):02x} {names} "
        f"{len(pointers):03d} {links}| what {key} is  \n"
    )


def _write_part(folder: Path, name: str, synsets: dict) -> None:
    part = PART[name]
    unknown = dict.fromkeys(synsets, 0)
    offsets, at = {}, len(NOTICE)
    for key in synsets:
        offsets[key] = at
        at += len(_line(synsets, key, unknown, part))
    data = NOTICE + "".join(_line(synsets, key, offsets, part) for key in synsets)
    (folder / f"data.{name}").write_text(data, encoding="ascii")
    senses: dict[str, list[int]] = {}
    for key, (_, _, words, _) in synsets.items():
        for word in words:
            senses.setdefault(word.split("(")[0].lower(), []).append(offsets[key])
    rows = [
        f"{word} {part} {len(at)} 0 {len(at)} 0 {' '.join(f'{one:08d}' for one in at)}  \n"
        for word, at in sorted(senses.items())
    ]
    (folder / f"index.{name}").write_text(NOTICE + "".join(rows), encoding="ascii")


def write_wordnet(folder: Path) -> Path:
    """Write the folder without lexnames, verbs, adverbs and exceptions."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_part(folder, "noun", NOUNS)
    _write_part(folder, "adj", ADJECTIVES)
    return folder


@pytest.fixture
def wordnet_folder(tmp_path: Path) -> Path:
    return write_wordnet(tmp_path / "wn")
