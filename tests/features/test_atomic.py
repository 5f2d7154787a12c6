"""Folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlood.features.atomic import atomic_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, *files: str) -> None:
    with atomic_folder(path) as folder:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{path.name}/{name}")


class StopError(Exception):
    """Something goes wrong while a folder is written."""


def interrupted(path: Path) -> None:
    with atomic_folder(path) as folder:
        (folder / "new").write_text("half")
        raise StopError


def test_a_new_folder_appears_with_its_parents(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "bank", "a", "sub/b")
    assert names(tmp_path) == ["deep"]
    assert names(tmp_path / "deep") == ["bank"]
    assert (tmp_path / "deep" / "bank" / "sub" / "b").read_text() == "bank/sub/b"


def test_nothing_is_seen_under_the_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("x")
        assert not path.exists()
        assert folder.parent == tmp_path
    assert names(tmp_path) == ["bank"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "bank", "a", "old")
    write(tmp_path / "bank", "a", "new")
    assert names(tmp_path / "bank") == ["a", "new"]
    assert names(tmp_path) == ["bank"]


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    write(tmp_path / "bank", "a")
    assert names(tmp_path / "bank") == ["a"]
    assert names(tmp_path) == ["bank"]


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_keeps_the_old_and_leaves_nothing(tmp_path: Path, there: bool) -> None:
    if there:
        write(tmp_path / "bank", "a")
    with pytest.raises(StopError):
        interrupted(tmp_path / "bank")
    assert names(tmp_path) == (["bank"] if there else [])
    if there:
        assert names(tmp_path / "bank") == ["a"]


def test_a_rename_that_fails_in_the_last_moment_brings_the_old_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "bank", "a")
    rename, calls = Path.rename, []

    def second_fails(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path / "bank", "new")
    assert names(tmp_path) == ["bank"]
    assert names(tmp_path / "bank") == ["a"]


def test_a_place_below_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"file"):
        write(tmp_path / "file" / "bank", "a")
    assert names(tmp_path) == ["file"]
