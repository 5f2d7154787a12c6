"""Rows of length one, or a sentence that names the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlood.errors import UsageError
from vlood.features.unit_rows import named_unit_rows


@given(st.floats(-30, 30), st.sampled_from(["f4", "f8"]))
def test_rows_of_any_length_become_unit_rows(exponent: float, dtype: str) -> None:
    raw = (np.array([[3.0, -4.0], [0.0, 2.0]]) * 10**exponent).astype(dtype)
    rows = named_unit_rows("class", ["a", "b"], raw)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[0.6, -0.8], [0, 1]], atol=1e-6)


def test_half_precision_is_normalised_in_double() -> None:
    rows = named_unit_rows("class", ["a"], np.full((1, 512), 6e4, np.float16))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_no_name_and_no_row_is_no_row() -> None:
    assert named_unit_rows("negative", [], np.empty((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
@pytest.mark.parametrize("what", ["class", "negative"])
def test_a_row_without_a_direction_is_named(what: str, value: float) -> None:
    raw = np.ones((4, 3))
    raw[2:] = value
    with pytest.raises(
        UsageError,
        match=rf"2 {what} embeddings are NaN, infinite or all zeros, the first is 'c' \(row 2\)",
    ):
        named_unit_rows(what, list("abcd"), raw)


@pytest.mark.parametrize("shape", [(3, 4), (2,), (2, 3, 4)])
def test_rows_and_names_must_be_as_many(shape: Any) -> None:
    with pytest.raises(
        UsageError, match=r"the negative embeddings have shape .*; expected \(2, D\): one row for"
    ):
        named_unit_rows("negative", ["a", "b"], np.ones(shape))
