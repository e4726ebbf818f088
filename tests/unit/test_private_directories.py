"""Directories that others can foresee, and make first."""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_elastic.services.private_directories import machine_directory, make_private, make_tree
from pytest_elastic.warning import ElasticWarning

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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert machine_directory("things") == machine_directory("things") == foreseen
    assert stat.S_IMODE(foreseen.stat().st_mode) == 0o700


@pytest.mark.parametrize("was_made", [be_somebody_elses, be_open, be_a_link, lead_nowhere, Path.touch])
def test_one_that_somebody_has_made_before_is_not_used(foreseen: Path, was_made: Callable[[Path], None]) -> None:
    was_made(foreseen)
    before = sorted(foreseen.parent.rglob("*"))
    with pytest.warns(ElasticWarning, match=r"^cannot use '.*things-\d+' for locks: .*; using '.*' instead$"):
        used = machine_directory("things")
    with pytest.warns(ElasticWarning):
        assert machine_directory("things") == used  # as another run does
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert machine_directory("things") == foreseen
    with pytest.raises(OSError, match="with mode 0700, but is drwxrwxrwx of user"):
        make_private(foreseen)


def test_a_tree_is_open_to_nobody_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_tree(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a/b/c")]
    assert modes == [0o755, 0o755, 0o700]
    make_tree(tmp_path / "a" / "b" / "c")
