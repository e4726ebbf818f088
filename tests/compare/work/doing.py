"""What a rank does, the same under every harness: it is given a collective, and does the wrong thing."""

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

MODE = os.environ["COMPARE_MODE"]
OWN_LIMIT = float(os.environ["COMPARE_OWN_LIMIT"])
"""Seconds after which a harness ends a test by itself, where it has a setting for that."""


class OddError(BaseException):
    """No ``Exception``."""


class LostError(Exception):
    """It holds what cannot be pickled."""

    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


def is_child():
    """Tell whether this is a process that pytest has spawned: it inherits what pytest, which was first, has noted."""
    return os.environ.setdefault("COMPARE_PYTEST", str(os.getpid())) != str(os.getpid())


def when_imported(*, in_rank):
    """Fail while the test file is imported, in ranks only: pytest itself has collected the test."""
    if MODE == "import-fails" and in_rank:
        import no_such_module  # noqa: F401


def wait_for_ever():
    while True:
        time.sleep(0.1)


def stop_yourself():
    os.kill(os.getpid(), signal.SIGSTOP)


def all_reduce_alone(all_reduce):
    all_reduce()


def act(rank, barrier, all_reduce, skip):
    """Do what goes wrong, as ``rank`` of two.

    ``barrier`` and ``all_reduce`` are collectives of the harness, and ``skip`` is how its users skip.
    """
    barrier()
    culprit = 0 if MODE == "raises-first" else 1
    if MODE == "all-skip" or (MODE == "one-skips" and rank == culprit):
        skip("no data here")
    if MODE == "mismatch":
        return all_reduce_alone(all_reduce) if rank == culprit else barrier()
    if rank == culprit:
        return fail()
    if MODE in ("hangs", "hangs-with-gil", "stopped", "sigkill-alone", "dies-at-exit"):
        return None
    if MODE == "ignores-sigterm":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait_for_ever()
    if not MODE.startswith("leaves") and MODE != "passes":
        barrier()
    return None


def fail():
    """Do what goes wrong, on the rank that does it."""
    if MODE == "assert":
        loss = 7
        assert loss < 1, f"the loss is {loss}"
    if MODE in ("raises", "raises-first"):
        raise ValueError("no more data")
    if MODE == "ignores-sigterm":
        time.sleep(1)  # the other one is going to ignore it by then
        raise ValueError("no more data")
    if MODE == "unpicklable":
        raise LostError("no more data")
    if MODE == "interrupt":
        raise KeyboardInterrupt
    if MODE == "base":
        raise OddError("no more data")
    if MODE.startswith("sys-exit-"):
        sys.exit(int(MODE[-1]))
    if MODE.startswith("os-exit-"):
        os._exit(int(MODE[-1]))
    if MODE in ("sigkill", "sigkill-alone"):
        os.kill(os.getpid(), signal.SIGKILL)
    if MODE == "sigsegv":
        ctypes.string_at(0)
    if MODE == "dies-at-exit":
        atexit.register(os.kill, os.getpid(), signal.SIGKILL)
    if MODE == "hangs":
        wait_for_ever()
    if MODE == "hangs-with-gil":
        wait_for_ever_with_gil()
    if MODE == "stopped":
        stop_yourself()
    if MODE == "leaves-child":
        subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if MODE == "leaves-thread":
        threading.Thread(target=threading.Event().wait).start()


def wait_for_ever_with_gil():
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
