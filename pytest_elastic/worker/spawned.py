"""A process that is forked where a fresh interpreter was asked for: what can be as in a fresh one is made so."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import weakref
from multiprocessing import forkserver, process, resource_tracker, spawn, util
from typing import Any, NoReturn

import torch

from pytest_elastic import kernel
from pytest_elastic.messages import SpawnOrder
from pytest_elastic.worker import server_state
from pytest_elastic.worker.leaving import exitcode_of
from pytest_elastic.worker.stacks import STACK_SIGNAL
from pytest_elastic.worker.surroundings import apply_to_torch

_of_the_server: list[object] = []


def run(order: SpawnOrder, parent_sentinel: int) -> NoReturn:
    """Run the process that the order holds, and end as an interpreter does, with its exit code."""
    code = 1
    try:
        _take_streams(order)
        _take_surroundings(order)
        _forget_the_server()
        code = _work(order, parent_sentinel)
    except SystemExit as error:  # while modules were imported; multiprocessing takes those of the work itself
        code = exitcode_of(error)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(kernel.own_pid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 (the interpreter that this stands for prints it and ends with 1)
        traceback.print_exc()
    _leave(code)


def _work(order: SpawnOrder, parent_sentinel: int) -> int:
    current: Any = process.current_process()
    current._inheriting = True
    try:
        spawn.prepare(pickle.loads(order.preparation))
        work = pickle.loads(order.process)
    finally:
        del current._inheriting
    return int(work._bootstrap(parent_sentinel))


def _leave(code: int) -> NoReturn:
    """End without the interpreter's own end, as ranks do: with torch loaded that takes half a second of CPU."""
    _flush()
    with contextlib.suppress(BaseException):  # nobody is left whom an exit code could tell of it
        atexit._run_exitfuncs()
    _flush()
    kernel.flush_c_streams()
    os._exit(code & 0xFF)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # whatever the work has put or left there
            stream.flush()


def _take_streams(order: SpawnOrder) -> None:
    """Write where the parent writes at this moment, which pytest's capture may have turned anywhere."""
    inherited: Any = forkserver.get_inherited_fds()
    server_stdin = sys.stdin.fileno()
    for fd, (name, index) in enumerate(zip(("stdin", "stdout", "stderr"), order.streams, strict=True)):
        if index is None:
            os.close(fd)
            setattr(sys, name, None)
        else:
            os.dup2(inherited[index], fd)
            os.close(inherited[index])
    if sys.stdin is not None:
        # multiprocessing closes this object before the work begins; what is imported until then may read it.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 (it lives as long as the process)
    if server_stdin > 2:
        os.close(server_stdin)
    stdout: Any = sys.stdout
    with contextlib.suppress(OSError, AttributeError):
        if os.isatty(1):
            stdout.reconfigure(line_buffering=True)


def _take_surroundings(order: SpawnOrder) -> None:
    """Take over what the kernel and the interpreter hand from parent to child when a program is started."""
    os.environ.clear()
    os.environ.update(order.environ)
    if order.umask is not None:
        os.umask(order.umask)
    for what, limits in order.limits.items():
        if resource.getrlimit(what) != limits:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(what, limits)
    if order.cpus is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, order.cpus)
    _reset_signals(order)


def _reset_signals(order: SpawnOrder) -> None:
    by_python = {signal.SIGPIPE: signal.SIG_IGN, signal.SIGXFSZ: signal.SIG_IGN}
    for signum in signal.valid_signals():
        wanted: Any = signal.SIG_IGN if signum in order.ignored else by_python.get(signum, signal.SIG_DFL)
        if signum == signal.SIGINT and wanted is signal.SIG_DFL:
            wanted = signal.default_int_handler
        if signal.getsignal(signum) is not wanted:
            with contextlib.suppress(OSError, ValueError):  # SIGKILL and SIGSTOP, and those of the C library
                signal.signal(signum, wanted)
    signal.pthread_sigmask(signal.SIG_SETMASK, order.blocked)


def _forget_the_server() -> None:
    """Leave behind what belongs to the server and a fresh interpreter has not."""
    faulthandler.unregister(STACK_SIGNAL)
    if os.environ.get("PYTHONFAULTHANDLER") or "faulthandler" in sys._xoptions or sys.flags.dev_mode:
        faulthandler.enable()
    else:
        faulthandler.disable()
    state, server_state.state = server_state.state, None
    if state is not None and state.tracker_fd is not None:
        os.close(state.tracker_fd)
    tracker: Any = resource_tracker._resource_tracker
    tracker._pid = None  # it is the parent's child
    own: Any = forkserver._forkserver
    if own._forkserver_alive_fd is not None:
        os.close(own._forkserver_alive_fd)
    own._forkserver_address = own._forkserver_alive_fd = None
    util._finalizer_registry.clear()  # type: ignore[attr-defined]
    util._run_after_forkers()  # type: ignore[attr-defined]
    # Temporary directories that modules made when the server imported them are not this process's to remove.
    # Kept, since to take thousands of them apart takes milliseconds.
    finalize: Any = weakref.finalize
    _of_the_server.append(finalize._registry)
    finalize._registry = {}
    mine = [entry for entry in warnings.filters if "forkserver: waitpid" in getattr(entry[1], "pattern", "")]
    for entry in mine:
        warnings.filters.remove(entry)  # type: ignore[attr-defined]
    importlib.invalidate_caches()
    tempfile.tempdir = None  # found anew by TMPDIR
    time.tzset()
    random.seed()
    torch.default_generator.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    apply_to_torch()
