"""The log of failures, in a directory where others can write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_elastic.controller.failure_log import FailureLog
from pytest_elastic.messages import RankFailed, RankId

NOBODY = 65534
ID = RankId(world="w", rank=0, local_rank=0, node=0, group_rank=0, world_size=1, restart=0)
FAILED = RankFailed(id=ID, time_ns=0, how="raised", type="ValueError", message="no", traceback="")


def be_somebody_elses(path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to make a file of another user")
    path.touch(0o600)
    os.chown(path, NOBODY, NOBODY)


def be_open(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def be_a_link(path: Path) -> None:
    path.symlink_to(path.parent / "victim")


def be_another_name(path: Path) -> None:
    path.hardlink_to(path.parent / "victim")


@pytest.mark.parametrize("was_made", [be_somebody_elses, be_open, be_a_link, be_another_name, os.mkfifo, Path.mkdir])
def test_what_somebody_has_made_before_is_not_written_to(tmp_path: Path, was_made: Callable[[Path], None]) -> None:
    victim, file = tmp_path / "victim", tmp_path / "failures.log"
    victim.touch(0o600)
    was_made(file)
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # for a pipe, somebody waits at the other end
    log = FailureLog(file, "test_it")
    try:
        assert log.note(FAILED).startswith(f"--elastic-log-dir: cannot write to {file}: ")
        assert log.note(FAILED) == ""
        assert victim.stat().st_size == 0
        if not file.is_dir():
            assert os.read(reader, 9) == b""
    finally:
        os.close(reader)


def test_it_is_this_users_alone_and_grows(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for _ in range(2):
            assert FailureLog(tmp_path / "failures.log", "test_it").note(FAILED) == ""
    finally:
        os.umask(before)
    assert (tmp_path / "failures.log").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "failures.log").read_text().count("test_it [rank 0] ValueError: no") == 2
