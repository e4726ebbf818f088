"""What a rank, or the server, does to fail."""

import ctypes
import os
import signal
import sys
import threading

import pytest


class OddError(BaseException):
    """No ``Exception``."""


def act(mode):
    """Fail in one of the ways of the grid."""
    if mode == "raise":
        raise ValueError("on purpose")
    if mode == "base":
        raise OddError("on purpose")
    if mode == "interrupt":
        raise KeyboardInterrupt
    if mode.startswith("sys-exit-"):
        sys.exit(int(mode[-1]))
    if mode.startswith("os-exit-"):
        os._exit(int(mode[-1]))
    if mode == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "sigsegv":
        ctypes.string_at(0)
    if mode == "sigabrt":
        os.abort()
    if mode == "hang":
        threading.Event().wait()
    if mode == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if mode == "skip":
        pytest.skip("not today", allow_module_level=True)
    if mode == "xfail":
        pytest.xfail("a known bug")
    measured = 1
    assert measured == 2
