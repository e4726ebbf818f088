"""Directories that others can foresee, and make first."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_elastic.services.private_directories import (
    SharedDirectoryError,
    machine_directory,
    make_private,
    make_tree,
    take_notes,
)

NOBODY = 65534


@pytest.fixture
def foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that a run would use, which does not exist."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "tmp" / f"pytest-elastic-things-{os.getuid()}"


def be_somebody_elses(path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to make a directory of another user")
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)


def be_open(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def be_a_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


def lead_nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "not there")


def test_it_is_private_and_stays_the_same(foreseen: Path) -> None:
    assert machine_directory("things") == machine_directory("things") == foreseen
    assert take_notes() == []
    assert stat.S_IMODE(foreseen.stat().st_mode) == 0o700


@pytest.mark.parametrize("was_made", [be_somebody_elses, be_open, be_a_link, lead_nowhere, Path.touch])
def test_one_that_somebody_has_made_before_is_not_used(foreseen: Path, was_made: Callable[[Path], None]) -> None:
    was_made(foreseen)
    before = sorted(foreseen.parent.rglob("*"))
    used = machine_directory("things")
    assert machine_directory("things") == used  # as another run does
    [note] = take_notes()
    assert re.fullmatch(r"cannot use '.*things-\d+' for locks: .*; using '.*' instead", note)
    assert take_notes() == []
    assert used != foreseen
    make_private(used)
    assert used.parent in (Path.home(), Path(f"/run/user/{os.getuid()}"))
    assert sorted(foreseen.parent.rglob("*")) == before
    used.rmdir()


def test_without_any_the_first_is_to_be_refused(foreseen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path(f"/run/user/{os.getuid()}").exists():
        pytest.skip("there always is one on this machine")
    be_open(foreseen)
    Path.home().chmod(0o777)
    assert machine_directory("things") == foreseen
    assert take_notes() == []
    with pytest.raises(OSError, match="with mode 0700, but is drwxrwxrwx of user"):
        make_private(foreseen)


def test_a_tree_is_open_to_nobody_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_tree(tmp_path / "a" / "b" / "c", tmp_path / "a")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a/b/c")]
    assert modes == [0o755, 0o755, 0o700]
    make_tree(tmp_path / "a" / "b" / "c", tmp_path / "a")


@pytest.mark.parametrize("was_made", [be_somebody_elses, be_open, be_a_link, lead_nowhere, Path.touch])
@pytest.mark.parametrize("level", ["b", "b/c"])
def test_a_tree_has_no_level_that_somebody_has_made_before(
    tmp_path: Path, level: str, was_made: Callable[[Path], None]
) -> None:
    top = tmp_path / "a"
    (top / level).parent.mkdir(parents=True)
    top.chmod(0o1777)
    was_made(top / level)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SharedDirectoryError) as error:
        make_tree(top / "b" / "c", top)
    assert re.fullmatch(
        rf"{top / level} is \S{{10}} of user \d+; expected a directory of user \d+ that nobody else can write to: .*",
        str(error.value),
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("mode", "owner", "refused"),
    [
        (0o777, 0, True),
        (0o1777, 0, False),
        (0o1777, NOBODY, True),
        (0o770, NOBODY, True),
        (0o775, 0, False),
        (0o755, NOBODY, False),
    ],
)
def test_a_tree_is_made_only_where_nobody_can_replace_it(tmp_path: Path, mode: int, owner: int, refused: bool) -> None:
    top = tmp_path / "a"
    top.mkdir()
    top.chmod(mode)
    if owner:
        if os.getuid() != 0:
            pytest.skip("needs root, to make a directory of another user")
        os.chown(top, owner, owner)
    if refused:
        with pytest.raises(SharedDirectoryError, match="others could replace what user"):
            make_tree(top / "b" / "c", top)
    else:
        make_tree(top / "b" / "c", top)
    assert (top / "b" / "c").is_dir() is not refused
