"""What the Tab key offers."""

from __future__ import annotations

import pytest

from vlood.cli import completion


def test_methods_complete_one_by_one_in_a_comma_list() -> None:
    assert completion.methods("gl") == ["gl-mcm"]
    assert "all" in completion.methods("")
    assert completion.methods("mcm,gl") == ["mcm,gl-mcm"]
    assert "mcm,all" not in completion.methods("mcm,")


def test_known_values() -> None:
    assert "world" in completion.classes("")
    assert "tip" in completion.templates("t")
    assert completion.corpora("image") == ["imagenet21k"]
    assert "csp" in completion.presets("")
    assert "world" in completion.suites("w")
    assert "faq" in completion.topics("")
    assert completion.tuned_methods("kn") == ["knn"]


def test_settings_are_those_of_the_methods_on_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "vlood\ntune\nknn\n--set\n")
    assert "k=" in completion.settings("")
    assert "groups=" not in completion.settings("")
    monkeypatch.setenv("COMP_WORDS", "vlood\nscore\n--method\nneglabel\n--set\n")
    assert completion.settings("gr") == ["groups="]


def test_models_are_those_of_open_clip() -> None:
    from open_clip import list_pretrained

    assert list(completion.open_clip_models()) == [":".join(each) for each in list_pretrained()]
    assert completion.models("bund") == ["bundled"]


@pytest.mark.parametrize(("words", "incomplete"), [(":\nop", "op"), (":", "")])
def test_bash_takes_the_tag_for_a_word_of_its_own(
    words: str, incomplete: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_WORDS", f"vlood\nscore\n--model\nViT-B-16\n{words}")
    monkeypatch.setenv("COMP_CWORD", str(4 + words.count("\n")))
    # Undone after the test, though the function sets it.
    monkeypatch.setenv(completion._BEFORE_COLON, "")
    completion._divide_at_colon()
    assert "openai" in completion.models(incomplete)
    assert all(":" not in each for each in completion.models(incomplete))
