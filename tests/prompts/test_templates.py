from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vlood.errors import UsageError, VloodError
from vlood.prompts import library_files, templates
from vlood.prompts.classes import ClassName
from vlood.prompts.templates import (
    DEFAULT_TEMPLATE,
    ClassFeatures,
    class_features,
    fill,
    read_no_templates,
    read_templates,
    template_names,
)

CLASSES = tuple(ClassName.of(name) for name in ("dog", "hot_dog", "cat"))


def encode(texts: list[str]) -> NDArray[np.float32]:
    """Give each text a direction and a length of its own."""
    rows = [np.random.default_rng(list(text.encode())).normal(size=8) for text in texts]
    return (np.stack(rows) * 5).astype(np.float32)


def unit(rows: NDArray[Any]) -> NDArray[Any]:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_a_literal_is_itself() -> None:
    assert read_templates("a {} in {x}, {}") == ("a {} in {x}, {}",)
    assert fill("a {} in {x}, {}", "{0} dog") == "a {0} dog in {x}, {0} dog"


def test_library_sets() -> None:
    assert read_templates("plain") == (DEFAULT_TEMPLATE,)
    assert read_templates("nice") == ("the nice {}",)
    assert {"plain", "nice", "openai-80"} <= set(template_names())


def test_openai_80_come_from_open_clip() -> None:
    pytest.importorskip("open_clip")
    found = read_templates("openai-80")
    assert len(set(found)) == 80
    assert all(template.count("{}") == 1 for template in found)


def test_a_file_holds_one_template_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# mine\na {}\n\n the {} \n")
    assert read_templates(str(path)) == ("a {}", "the {}")
    path.write_text("a {}\na photo\n")
    with pytest.raises(UsageError, match=r"line 2: 'a photo' has no \{\}"):
        read_templates(str(path))
    path.write_text("# nothing\n")
    with pytest.raises(UsageError, match="holds no template"):
        read_templates(str(path))


def test_an_unknown_template_is_explained() -> None:
    with pytest.raises(UsageError, match=r"did you mean nice\?"):
        read_templates("nise")
    with pytest.raises(UsageError, match=r"has no \{\} for the class name"):
        read_templates("a photo")


def test_no_templates_are_pairs(tmp_path: Path) -> None:
    pairs = read_no_templates()
    assert len(pairs) >= 10
    assert len({no for _, no in pairs}) == len({yes for yes, _ in pairs}) == len(pairs)
    assert all("{}" in yes and "{}" in no and yes != no for yes, no in pairs)
    path = tmp_path / "pairs.txt"
    for text, reason in (
        ("a {}\n", "expected a template, a tab"),
        ("a {}\tno dog\n", r"has no \{\}"),
        ("", "holds no pair"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=reason):
            read_no_templates(str(path))


def test_one_template_gives_unit_features() -> None:
    found = class_features(encode, CLASSES, ["a {}"])
    expected = unit(encode(["a dog", "a hot dog", "a cat"]))
    assert found.names == ("dog", "hot_dog", "cat")
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(found.features, expected, atol=1e-6)


def test_templates_are_averaged_as_unit_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.stack(
        [
            unit(unit(encode([f"a {each.prompt}", f"the {each.prompt}!"])).mean(axis=0))
            for each in CLASSES
        ]
    )
    whole = class_features(encode, CLASSES, ["a {}", "the {}!"])
    np.testing.assert_allclose(whole.features, expected, atol=1e-6)
    monkeypatch.setattr(templates, "_TEXTS_AT_ONCE", 3)
    pieces = class_features(encode, CLASSES, ["a {}", "the {}!"])
    np.testing.assert_array_equal(pieces.features, whole.features)


def test_nothing_to_encode_is_refused() -> None:
    for classes, some in (((), ["a {}"]), (CLASSES, [])):
        with pytest.raises(UsageError, match="at least one class and one template"):
            class_features(encode, classes, some)


def test_given_class_features_are_checked() -> None:
    found = ClassFeatures.of(["a", "b"], np.array([[3.0, 4.0], [0.0, -2.0]], np.float16))
    np.testing.assert_allclose(found.features, [[0.6, 0.8], [0.0, -1.0]], atol=1e-6)
    assert len(found) == 2
    with pytest.raises(UsageError, match=r"shape \(2, 2\); expected \(1, D\)"):
        ClassFeatures.of(["a"], np.ones((2, 2)))
    with pytest.raises(UsageError, match=r"expected \(2, D\)"):
        ClassFeatures.of(["a", "b"], np.ones(2))
    for bad in (np.nan, np.inf):
        with pytest.raises(UsageError, match=r"1 class embeddings are NaN.*'b' \(row 1\)"):
            ClassFeatures.of(["a", "b"], np.array([[1.0, 0.0], [bad, 1.0]]))
    with pytest.raises(UsageError, match="2 class embeddings"):
        ClassFeatures.of(["a", "b"], np.zeros((2, 2)))


def test_a_lost_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_files, "__file__", str(tmp_path / "vlood" / "prompts" / "x.py"))
    with pytest.raises(VloodError, match="prompt library is missing"):
        library_files.library_folder()


def test_every_kind_has_a_readme() -> None:
    folder = library_files.library_folder()
    for kind in library_files.KINDS:
        assert (folder / kind / "README.md").is_file()
        assert library_files.library_names(kind)
