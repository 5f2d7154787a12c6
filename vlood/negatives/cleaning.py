"""Make a word list's term the words one would say: what is stray in published lists goes away."""

from __future__ import annotations

import re
import unicodedata

# Quotes and brackets that no class name needs; typographic apostrophes become the plain one.
_TABLE = str.maketrans(
    {**dict.fromkeys('"“”„‟«»[]{}_', " "), **dict.fromkeys("‘’ʼ", "'"), **dict.fromkeys("\u00ad")}
)
# Where WordNet lets an adjective stand: (a) before its noun, (p) after it, (ip) right after it.
_MARKERS = re.compile(r"(?: ?\((?:a|p|ip)\))+$")
_SENSE_NUMBER = re.compile(r"([a-z]{3,})\d{1,2}")
# Format characters that belong to the spelling of some scripts and of emoji.
_JOINERS = "\u200c\u200d"
_UNSEEN = frozenset({"Cc", "Cf", "Cs"})


def clean_term(text: str) -> str:
    """Return a term in lower case without brackets, quotes, markers and sense numbers.

    In this order, until nothing changes: Unicode NFKC; underscores, line breaks and control
    characters become spaces or vanish; double quotes and square or curly brackets go, and round
    ones without a partner; lower case; runs of spaces become one; commas and semicolons at the ends
    and single quotes around the whole go; the adjective markers ``(a)``, ``(p)`` and ``(ip)`` at
    the end go; and the sense number of a WordNet lexicographer file: one or two digits at the end
    of a term of one word, right behind three or more of the letters a-z (``pound1`` is ``pound``;
    ``mp3``, ``7up``, ``catch-22`` and ``vitamin b12`` stay).

    Cleaning what is clean changes nothing. Other scripts and accents survive. The length is not
    limited. Empty text is returned for a term of which nothing is left.
    """
    previous = None
    while text != previous:
        previous, text = text, _one_pass(text)
    return text


def is_usable(term: str) -> bool:
    """Tell whether a cleaned term has anything to say: a letter, a digit or a pictograph."""
    return any(sign.isalnum() or unicodedata.category(sign) == "So" for sign in term)


def _one_pass(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).translate(_TABLE).lower()
    if not text.isprintable():
        text = "".join(map(_visible, text))
    if text.count("(") != text.count(")"):
        text = text.replace("(", " ").replace(")", " ")
    text = " ".join(text.split()).strip(" ,;")
    if len(text) > 2 and text[0] == text[-1] == "'":
        text = text[1:-1].strip(" ,;")
    text = _MARKERS.sub("", text)
    numbered = _SENSE_NUMBER.fullmatch(text)
    return numbered[1] if numbered else text


def _visible(sign: str) -> str:
    if sign.isspace():
        return " "
    return "" if unicodedata.category(sign) in _UNSEEN and sign not in _JOINERS else sign
