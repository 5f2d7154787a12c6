"""The table under the cache: what is added is found, whatever happens to its files."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlood.features import keyed_rows
from vlood.features.keyed_rows import KeyedRows, list_parts

DIM = 3
FLOAT = np.dtype(np.float32)


def key(number: int) -> bytes:
    return blake2b(str(number).encode(), digest_size=16).digest()


def rows_of(numbers: Sequence[int]) -> np.ndarray:
    return np.array([[n, n + 0.25, -n] for n in numbers], dtype=np.float32).reshape(-1, DIM)


def table(folder: Path, **options: int) -> KeyedRows:
    return KeyedRows(folder, DIM, FLOAT, **options)


def fill(rows: KeyedRows, numbers: Sequence[int]) -> None:
    rows.add([key(n) for n in numbers], rows_of(numbers))


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    with table(tmp_path) as rows:
        fill(rows, [1, 2, 3])
        rows.commit()
        fill(rows, [4])
        wanted = [4, 2, 2, 1]
        np.testing.assert_array_equal(rows.get([key(n) for n in wanted]), rows_of(wanted))
        assert rows.get([]).shape == (0, DIM)
        assert len(rows) == 4
    reopened = table(tmp_path)
    np.testing.assert_array_equal(reopened.get([key(4), key(3)]), rows_of([4, 3]))
    row = reopened.row(key(2))
    assert row is not None
    np.testing.assert_array_equal(row, rows_of([2])[0])
    assert reopened.row(key(9)) is None


def test_an_absent_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=key(1).hex()):
        table(tmp_path).get([key(1)])


@pytest.mark.parametrize("name", [bytes(16), b"a" + bytes(15), bytes(15) + b"a", b"\xff" * 16])
def test_keys_with_zero_bytes_are_told_apart(tmp_path: Path, name: bytes) -> None:
    other = b"ab" + bytes(14)
    with table(tmp_path) as rows:
        rows.add([name, other], rows_of([1, 2]))
    reopened = table(tmp_path)
    np.testing.assert_array_equal(reopened.get([other, name]), rows_of([2, 1]))
    assert b"b" + bytes(15) not in reopened
    assert bytes(15) + b"b" not in reopened


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows = table(tmp_path)
    with pytest.raises(ValueError, match="for 1 keys of 3"):
        rows.add([key(1)], np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="16 bytes"):
        rows.add([b"short"], np.zeros((1, 3), np.float32))


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.lists(st.integers(0, 40), min_size=1, max_size=8),
            st.sampled_from(["commit", "reopen"]),
        ),
        max_size=25,
    )
)
def test_any_sequence_of_writes_reads_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[int] | str]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = table(folder, merge_at=3)
    held: set[int] = set()
    for step in steps:
        if step == "commit":
            rows.commit()
        elif step == "reopen":
            rows.close()
            rows = table(folder, merge_at=3)
        else:
            assert isinstance(step, list)
            fill(rows, step)
            held.update(step)
    for number in range(41):
        assert (key(number) in rows) == (number in held)
    order = sorted(held, reverse=True)
    np.testing.assert_array_equal(rows.get([key(n) for n in order]), rows_of(order))
    assert len(rows) == len(held)
    assert len(list_parts(folder)) <= 3
    rows.close()


def test_merging_keeps_every_row_once(tmp_path: Path) -> None:
    # Two writers that do not see each other commit the same keys.
    one, two = table(tmp_path, merge_at=4), table(tmp_path)
    fill(one, range(5))
    fill(two, range(3, 8))
    one.commit()
    two.commit()
    third = table(tmp_path, merge_at=3)
    fill(third, [8])
    third.commit()
    assert len(list_parts(tmp_path)) == 1
    reopened = table(tmp_path)
    np.testing.assert_array_equal(reopened.get([key(n) for n in range(9)]), rows_of(range(9)))
    # The older writers still read what they had mapped.
    np.testing.assert_array_equal(one.get([key(4)]), rows_of([4]))
    np.testing.assert_array_equal(two.get([key(7)]), rows_of([7]))


@pytest.mark.parametrize("where", ["header", "keys", "rows", "end"])
def test_a_damaged_part_is_dropped_with_a_warning(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    for numbers in (range(10), range(10, 20)):
        rows = table(tmp_path)
        fill(rows, numbers)
        rows.close()
    damaged = list_parts(tmp_path)[0]
    data = bytearray(damaged.read_bytes())
    if where == "end":
        del data[-5:]
    else:
        data[{"header": 13, "keys": 70, "rows": len(data) - 3}[where]] ^= 0x40
    damaged.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        rows = table(tmp_path)
        assert not any(key(n) in rows for n in range(10))
    assert len(caplog.records) == 1
    assert damaged.name in caplog.text
    assert not damaged.exists()
    np.testing.assert_array_equal(rows.get([key(n) for n in range(10, 20)]), rows_of(range(10, 20)))
    fill(rows, range(10))
    rows.close()
    assert all(key(n) in table(tmp_path) for n in range(20))


def test_every_truncation_of_a_part_reads_as_absent(tmp_path: Path) -> None:
    rows = table(tmp_path)
    fill(rows, [1, 2])
    rows.close()
    (part,) = list_parts(tmp_path)
    data = part.read_bytes()
    for length in range(0, len(data), 7):
        part.write_bytes(data[:length])
        assert key(1) not in table(tmp_path)


def test_partial_files_of_other_writers_are_not_read(tmp_path: Path) -> None:
    (tmp_path / ".x.part.abc.partial").write_bytes(b"half")
    rows = table(tmp_path)
    fill(rows, [1])
    rows.commit()
    assert (tmp_path / ".x.part.abc.partial").exists()
    assert len(rows) == 1


def test_a_folder_that_cannot_be_written_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    rows = table(blocked / "rows")
    for start in range(0, 30, 10):
        fill(rows, range(start, start + 10))
        rows.commit()
        # A run counts on reading what it has just added.
        np.testing.assert_array_equal(rows.get([key(start)]), rows_of([start]))
    rows.close()
    assert len(caplog.records) == 1
    assert "no longer written to" in caplog.text


def test_a_folder_that_cannot_be_looked_into_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(size: int) -> str | None:
        raise PermissionError(13, "Permission denied")

    rows = KeyedRows(tmp_path / "rows", DIM, FLOAT, before_write=denied)
    fill(rows, [1])
    rows.commit()
    np.testing.assert_array_equal(rows.get([key(1)]), rows_of([1]))
    assert [record.getMessage().count("Permission denied") for record in caplog.records] == [1]


def test_memory_stays_bounded_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = 16 + DIM * 4
    monkeypatch.setattr(keyed_rows, "_COMMIT_BYTES", 10 * row_bytes)
    rows = KeyedRows(tmp_path / "rows", DIM, FLOAT, before_write=lambda size: "no room")
    for number in range(100):
        fill(rows, [number])
        assert len(rows) <= 10
        before = max(0, number - 8)
        np.testing.assert_array_equal(rows.get([key(before)]), rows_of([before]))
    assert not (tmp_path / "rows").exists()


def test_a_large_buffer_commits_itself_and_fresh_keys_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed_rows, "_COMMIT_BYTES", 500)
    monkeypatch.setattr(keyed_rows, "_FOLD_AT", 40)
    rows = table(tmp_path)
    for number in range(100):
        fill(rows, [number])
    assert len(list_parts(tmp_path)) >= 5
    np.testing.assert_array_equal(rows.get([key(n) for n in range(100)]), rows_of(range(100)))


def test_threads_may_look_up_while_rows_are_added(tmp_path: Path) -> None:
    rows = table(tmp_path, merge_at=4)
    failures: list[BaseException] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                for number in range(0, 200, 7):
                    if key(number) in rows:
                        np.testing.assert_array_equal(rows.get([key(number)]), rows_of([number]))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(0, 200, 10):
        fill(rows, range(start, start + 10))
        rows.commit()
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(rows) == 200
