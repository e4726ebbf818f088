"""What a controller does that follows the first one: no pytest session, only agents and ranks at its word."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, TextIO

import pytest

from pytest_elastic.cluster.arguments import arguments_of
from pytest_elastic.cluster.follower import FirstLostError, Follower, RefusedError
from pytest_elastic.cluster.meeting import MeetingError
from pytest_elastic.cluster.member import Membership
from pytest_elastic.controller.run import ElasticRun
from pytest_elastic.options import SETTINGS, Given

LOST: Final = int(pytest.ExitCode.INTERNAL_ERROR)
"""Exit code of a controller whose first one is gone."""


def setting(given: dict[str, Given], name: str) -> Any:
    """Return a setting of the session: what is given, or the default."""
    return given[name].value if name in given else SETTINGS[name].default


def follow(config: pytest.Config, membership: Membership, key: bytes, given: dict[str, Given]) -> int | None:
    """Start and end agents and ranks at the word of the first controller; print nothing.

    There is no pytest session in this process: what it would write, the first one writes. The preloaded server has one,
    a copy of the first one's, as on one machine.

    Returns:
        The first controller's exit code; ``None`` where no test runs on ranks: then this process has a session as well.

    Raises:
        pytest.UsageError: The first controller was not found, or does not want this one.
    """
    log = _open_log(config, membership, given)

    def write(line: str) -> None:
        print(f"elastic: {membership}: {line}", file=log, flush=True)

    follower = Follower(
        membership,
        key,
        arguments=arguments_of(config),
        silence=setting(given, "node_timeout"),
        patience=setting(given, "join_timeout"),
        log=write,
    )
    run = ElasticRun(config, given)
    try:
        write(f"one of {membership.size} ({membership.launcher}), on {socket.gethostname()}, pid {os.getpid()}")
        with _terminated_in_order():
            run.start_early()
            follower.join()
            code = follower.serve(run)
        if code is None:
            return None
        write(f"released with exit code {code}")
        # Once the first one has ended, a launcher may end the others before they do.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        run.close()
        if membership.in_place:
            follower.outlast_first()
    except (MeetingError, RefusedError) as error:
        text = str(error)
        raise pytest.UsageError(text if text.startswith("elastic: ") else f"elastic: {text}") from None
    except FirstLostError as error:
        print(f"elastic: {membership}: {error}", file=sys.__stderr__, flush=True)
        return LOST
    except KeyboardInterrupt:
        return int(pytest.ExitCode.INTERRUPTED)
    finally:
        follower.close()
        run.close()
        log.close()
    return code


def _open_log(config: pytest.Config, membership: Membership, given: dict[str, Given]) -> TextIO:
    directory = given.get("log_dir")
    if directory is not None:
        path = Path(config.invocation_params.dir, str(directory.value))
        with contextlib.suppress(OSError):
            path.mkdir(parents=True, exist_ok=True)
            return (path / f"{str(membership).replace(' ', '-')}.log").open("a", errors="backslashreplace")
    return open(os.devnull, "w")


@contextlib.contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Have SIGTERM of a launcher end this process with nothing left, unless somebody else takes it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise SystemExit(128 + signum)
