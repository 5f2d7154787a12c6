"""The texts of `vlood help`: all there, in order, and true about the commands they name."""

from __future__ import annotations

import re

import pytest

from vlood.cli import topics


def test_the_order_names_every_topic_once() -> None:
    assert topics.names()[0] == "start"
    assert sorted(topics.names()) == sorted(set(topics._ORDER))


@pytest.mark.parametrize("name", topics.names())
def test_a_topic_has_a_title_and_a_summary(name: str) -> None:
    text = topics.read(name)
    assert text.startswith("# ")
    assert topics.summary(name).endswith(".")
    for asked in re.findall(r"`vlood help ([a-z-]+)`", text):
        assert asked in topics.names()


def test_no_such_topic() -> None:
    with pytest.raises(KeyError):
        topics.read("nonsense")
