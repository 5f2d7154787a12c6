from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.negatives.cleaning import clean_term, is_usable


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[rhizoidal", "rhizoidal"),
        ('"foo', "foo"),
        ("pound1", "pound"),
        ("pound12", "pound"),
        ("golden_retriever", "golden retriever"),
        ("running(a)", "running"),
        ("alone(p)", "alone"),
        ("galore (ip)", "galore"),
        ("Samoyed", "samoyed"),
        ("  hot \t dog\r\n", "hot dog"),
        ("under\x00stood\x07", "understood"),
        ("understood,", "understood"),
        ("“quoted”", "quoted"),
        ("'quoted'", "quoted"),
        ("jack-o’-lantern", "jack-o'-lantern"),
        ("ﬁg", "fig"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("soft\u00adhyphen", "softhyphen"),
        ("zero\u200bwidth", "zerowidth"),
        ("open (bracket", "open bracket"),
        ("(a)", ""),
        ("[", ""),
        ("___", ""),
        ("", ""),
    ],
)
def test_what_is_stray_goes(before: str, after: str) -> None:
    assert clean_term(before) == after


@pytest.mark.parametrize(
    "term",
    [
        *("7up", "u-2", "catch-22", "mp3", "k2", "24/7", "3.0", "b-52"),
        *("vitamin b12", "war of 1812", "plutonium 239", "blink182", "'tween decks"),
        *("crane (bird)", "read/write head", "dr.", "naïve", "señor", "犬", "собака", "כלב"),
        *("می\u200cخواهم", "हिन्दी", "👩\u200d🚀"),
    ],
)
def test_what_belongs_to_a_term_stays(term: str) -> None:
    assert clean_term(term) == term
    assert is_usable(term)


def test_five_hundred_words_are_a_term() -> None:
    text = "_".join(["Word"] * 500)
    assert clean_term(text) == " ".join(["word"] * 500)


@pytest.mark.parametrize("term", ["", "-", "...", "' '", "\u0301"])
def test_signs_alone_are_no_term(term: str) -> None:
    assert not is_usable(term)


TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="abcAİß1230'\"[](){}_ ,;ip\t\n\u00ad\u200b\u200d\u0301\ud800", max_size=30),
    st.from_regex(re.compile(r"[a-z]{1,5}\d{0,3}(\((a|p|ip)\)){0,3}"), fullmatch=True),
)


@given(TEXTS)
def test_cleaning_is_tidy_and_stable(text: str) -> None:
    term = clean_term(text)
    assert clean_term(term) == term
    assert term == " ".join(term.split())
    assert not set(term) & set('"[]{}_')
    assert not any(unicodedata.category(sign) in {"Cc", "Cs"} for sign in term)
    is_usable(term)
