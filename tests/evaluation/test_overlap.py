"""Images on both sides: found by place and by content, counted once, told in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.evaluation.overlap import find_overlap, overlap_told


def test_the_defect_of_cookeds_dtd_lists():
    polka = [f"dtd/images/polka-dotted/polka-dotted_{k:04}.jpg" for k in range(40)]
    known = [f"dtd/images/woven/woven_{k:04}.jpg" for k in range(880)] + polka
    other = polka + [f"dtd/images/dotted/dotted_{k:04}.jpg" for k in range(960)]
    found = find_overlap(known, other)
    assert found
    assert (found.count, len(found.paths), found.digests) == (40, 40, ())
    assert found.id_rows == tuple(range(880, 920))
    assert found.ood_rows == tuple(range(40))
    assert found.examples == tuple(polka[:3])
    assert overlap_told(found, id_name="dtd-id", ood_name="dtd-ood") == (
        "40 of 1,000 images of dtd-ood are also images of dtd-id (40 by path; for example "
        "dtd/images/polka-dotted/polka-dotted_0000.jpg, "
        "dtd/images/polka-dotted/polka-dotted_0001.jpg, "
        "dtd/images/polka-dotted/polka-dotted_0002.jpg), and no detector can get both right; "
        "take them out of one side."
    )


def test_no_overlap_is_nothing_to_tell():
    found = find_overlap(["a.png"], ["b.png"], id_digests=[b"1"], ood_digests=[b"2"])
    assert not found
    assert (found.count, found.examples, overlap_told(found)) == (0, (), "")
    assert not find_overlap([], ["b.png"])


def test_other_spellings_of_a_path_and_copies_are_found():
    known = ["set/./a.png", Path("set") / "b.png", "c.png"]
    other = [str(Path("set/a.png").absolute()), "set//x/../b.png", "copy of c.png", "d.png"]
    assert find_overlap(known, other).ood_rows == (0, 1)
    found = find_overlap(
        known, other, id_digests=[b"a", None, b"c"], ood_digests=[b"a", None, b"c", None]
    )
    assert (found.count, found.id_rows, found.ood_rows) == (3, (0, 1, 2), (0, 1, 2))
    assert (len(found.paths), found.digests) == (2, (b"a", b"c"))
    assert found.paths == (other[0], other[1])
    assert "3 of 4 images of OOD are also images of ID (2 by path, 2 by content" in overlap_told(
        found
    )


def test_an_unknown_digest_matches_nothing_and_repeats_are_rows():
    assert not find_overlap(["a"], ["b"], id_digests=[None], ood_digests=[None])
    found = find_overlap(["a", "a"], ["a", "b", "a"], examples=1)
    assert (found.paths, found.id_rows, found.ood_rows) == (("a",), (0, 1), (0, 2))
    assert found.examples == ("a",)


def test_odd_names_stay_on_one_line_and_one_image_is_singular():
    told = overlap_told(find_overlap(["a\nb.png", "\udcff.png"], ["a\nb.png"]))
    assert told.startswith("1 of 1 images of OOD is also")
    assert "\n" not in told
    overlap_told(find_overlap(["\udcff.png"], ["\udcff.png"])).encode()
    assert "example" not in overlap_told(find_overlap(["a"], ["a"], examples=0))


letters = st.lists(st.sampled_from("abcdef"), max_size=8)


@given(letters, letters, st.data())
def test_rows_by_comparing_every_pair(known, other, data):
    marks = st.sampled_from([None, 1, 2, 3, 4, 5, 6])
    held = [[data.draw(marks) for _ in side] for side in (known, other)]
    found = find_overlap(known, other, id_digests=held[0], ood_digests=held[1])

    def same(i, j):
        return known[i] == other[j] or (held[0][i] is not None and held[0][i] == held[1][j])

    rows = range(len(known)), range(len(other))
    assert found.id_rows == tuple(i for i in rows[0] if any(same(i, j) for j in rows[1]))
    assert found.ood_rows == tuple(j for j in rows[1] if any(same(i, j) for i in rows[0]))
    assert (found.n_id, found.n_ood) == (len(known), len(other))


def test_refuses_digests_that_do_not_fit():
    with pytest.raises(UsageError, match="one side only"):
        find_overlap(["a"], ["a"], id_digests=[b"1"])
    with pytest.raises(UsageError, match="1 OOD paths meet 2 digests"):
        find_overlap(["a"], ["a"], id_digests=[b"1"], ood_digests=[b"1", b"2"])
