"""What is said where something is scarce, and what is not lost for want of it."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path

import pytest

from pytest_elastic import kernel
from pytest_elastic.controller.failure_log import FailureLog
from pytest_elastic.controller.steady_thread import SteadyThread
from pytest_elastic.errors import ElasticError
from pytest_elastic.messages import RankFailed, RankId
from pytest_elastic.result import Output
from pytest_elastic.scarcity import Scarcity, remedy, remedy_in


def test_descriptors_and_processes_are_told_with_their_limit() -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert f"{files} files; raise `ulimit -n`" in remedy(OSError(errno.EMFILE, "Too many open files"))
    assert "raise `ulimit -u`" in remedy(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
    assert "raise `ulimit -u`" in remedy(RuntimeError("can't start new thread"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_places_to_write_to_are_told_with_the_settings_that_choose_another(number: int) -> None:
    assert "TMPDIR or --elastic-log-dir" in remedy(OSError(number, os.strerror(number), "file"))


@pytest.mark.parametrize(
    "error", [OSError("no number"), OSError(errno.ECONNREFUSED, ""), RuntimeError("another"), ValueError()], ids=repr
)
def test_of_other_errors_nothing_is_said(error: Exception) -> None:
    assert remedy(error) == ""
    with pytest.raises(type(error)), Scarcity("the launch"):
        raise error


def test_a_missing_file_is_no_matter_of_semaphores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_elastic.scarcity._SEMAPHORES", "/nowhere")
    assert "semaphores need /nowhere" in remedy(OSError(errno.ENOENT, "No such file or directory"))
    assert remedy(FileNotFoundError(errno.ENOENT, "No such file or directory", "file")) == ""


def test_the_last_error_of_a_text_counts() -> None:
    text = "Traceback ...\nBlockingIOError: [Errno 11] Resource temporarily unavailable\n"
    assert "ulimit -u" in remedy_in(text)
    assert "ulimit -n" in remedy_in(f"{text}OSError: [Errno 24] Too many open files\nbye")
    assert remedy_in("all is well") == ""


def test_what_is_scarce_is_one_line() -> None:
    with pytest.raises(ElasticError) as raised, Scarcity("the launch could not start"):
        raise RuntimeError("can't start new thread")
    assert str(raised.value).startswith("the launch could not start: RuntimeError: can't start new thread (this user")
    assert "\n" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_log_of_failures_that_cannot_be_written_is_told_once() -> None:
    log = FailureLog(Path("/dev/full"), "test_it")
    id = RankId(world="w", rank=0, local_rank=0, node=0, group_rank=0, world_size=1, restart=0)  # noqa: A001
    failed = RankFailed(id=id, time_ns=0, how="raised", type="ValueError", message="no", traceback="")
    assert log.note(failed) == "--elastic-log-dir: cannot write to /dev/full: No space left on device"
    assert log.note(failed) == ""


def test_a_rank_that_ended_before_it_could_write_has_an_empty_output(tmp_path: Path) -> None:
    output = Output({0: tmp_path / "missing"})
    assert 0 in output
    assert dict(output) == {0: ""}


def test_a_process_is_held_by_its_id_where_descriptors_have_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_more)
    handle = kernel.ProcessHandle(os.getpid())
    assert handle.fd is None
    assert handle.alive()
    handle.close()


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = SteadyThread()
    results: list[object] = []

    def ask() -> None:
        for _ in range(2):
            try:
                results.append(steady.call(threading.get_ident))
            except RuntimeError as error:
                results.append(str(error))
                monkeypatch.undo()

    asker = threading.Thread(target=ask)
    begin = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name == "elastic-starter":
            raise RuntimeError("can't start new thread")
        begin(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    asker.start()
    asker.join(10)
    steady.end()
    assert results[0] == "can't start new thread"
    assert isinstance(results[1], int)
