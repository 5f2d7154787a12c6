from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.negatives.published import (
    PublishedLabel,
    parse_cma_npy,
    parse_neglabel_txt,
    split_template,
)


def test_neglabels_selection(tmp_path: Path) -> None:
    lines = [f"the nice noun {n}" for n in range(8578)]
    lines += [f"This is a adjective {n} photo" for n in range(1921)]
    path = tmp_path / "selected.txt"
    path.write_text("\n".join(lines) + "\n")
    labels = parse_neglabel_txt(path)
    assert Counter(label.part for label in labels) == {"noun": 8578, "adj": 1921}
    assert len({(label.term, label.part) for label in labels}) == 10_499
    assert labels[0] == PublishedLabel("noun 0", "noun", "the nice {}")
    assert labels[-1] == PublishedLabel("adjective 1920", "adj", "This is a {} photo")
    assert [label.prompt for label in labels] == lines
    assert parse_neglabel_txt(lines) == labels


def test_cmas_selection(tmp_path: Path) -> None:
    texts = [f"This is a adjective {n} photo" for n in range(1500)]
    texts += [f"The nice noun {n % 8000}" for n in range(8500)]
    path = tmp_path / "neg_label_10000.npy"
    np.save(path, np.array(texts, dtype="U80"))
    labels = parse_cma_npy(path)
    assert Counter(label.part for label in labels) == {"adj": 1500, "noun": 8500}
    assert len({(label.term, label.part) for label in labels}) == 9500
    assert labels[0].part == "adj"
    assert labels[-1] == PublishedLabel("noun 499", "noun", "The nice {}")
    assert [label.prompt for label in labels] == texts


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("THE NICE Dog", ("Dog", "noun", "THE NICE {}")),
        ("the nice the nice x", ("the nice x", "noun", "the nice {}")),
        ("this is a red  photo", ("red", "adj", "this is a {} photo")),
        ("This is an able photo.", ("able", "adj", "This is an {} photo.")),
        ("this is a photo", ("this is a photo", "", "{}")),
        ("the nice", ("the nice", "", "{}")),
        (" goldfish \r\n", ("goldfish", "", "{}")),
        ("the nice {}", ("{}", "noun", "the nice {}")),
        ("the nicest dog", ("the nicest dog", "", "{}")),
        ("This is a this is a x photo photo", ("this is a x photo", "adj", "This is a {} photo")),
    ],
)
def test_one_template_goes(line: str, label: tuple[str, str, str]) -> None:
    found = split_template(line)
    assert (found.term, found.part) == label[:2]
    assert found.template.split() == label[2].split()


@given(st.sampled_from(["the nice ", "The nice ", "this is a ", ""]), st.text(), st.booleans())
def test_the_published_text_comes_back(start: str, term: str, photo: bool) -> None:
    line = start + term + (" photo" if photo else "")
    found = split_template(line)
    assert found.template.count("{}") == 1
    assert found.prompt.split() == line.split()


def test_bad_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for content, told in [
        (b"", "holds no label"),
        (b"\n \n", "holds no label"),
        (b"the nice dog\nthe nice d\0g\n", "line 2: has a NUL"),
        (b"the nice " + b"dog " * 100, "line 1: has 408 characters"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UsageError, match=told):
            parse_neglabel_txt(path)
    with pytest.raises(UsageError, match="cannot be read"):
        parse_neglabel_txt(tmp_path / "missing.txt")


def test_bad_arrays(tmp_path: Path) -> None:
    path = tmp_path / "labels.npy"
    for array, told in [
        (np.zeros(3), r"holds float64 of shape 3"),
        (np.array([["a"], ["b"]]), r"holds <U1 of shape 2 x 1"),
        (np.array("a"), "of shape scalar"),
        (np.array([], "U5"), "holds no label"),
        (np.array(["the nice dog", "x" * 300]), "entry 2: has 300 characters"),
    ]:
        np.save(path, array)
        with pytest.raises(UsageError, match=told):
            parse_cma_npy(path)
    np.save(path, np.array(["a", None], object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"one of pickled objects; expected"):
        parse_cma_npy(path)
    for content in (b"", b"\x93NUMPY", pickle.dumps(["a"]), b"rubbish"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"is no \.npy file"):
            parse_cma_npy(path)
    np.save(path, np.array(["a"] * 100, "U80"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"is no \.npy file"):
        parse_cma_npy(path)
    path.write_bytes(path.read_bytes()[:128] + b"\xff" * 32_000)
    with pytest.raises(UsageError, match="bytes that are no text"):
        parse_cma_npy(path)
    np.savez(tmp_path / "labels.npz", a=np.array(["a"]))
    with pytest.raises(UsageError, match="an archive of several arrays"):
        parse_cma_npy(tmp_path / "labels.npz")
    with pytest.raises(UsageError, match="cannot be read"):
        parse_cma_npy(tmp_path / "missing.npy")
