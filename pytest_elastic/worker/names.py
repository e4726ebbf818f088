"""Keep c10d from asking DNS for names that only its log wants.

On each connect and accept c10d looks up the name of its peer, ``::ffff:127.0.0.1`` on one machine. That name is in no
hosts file, so DNS is asked, and where it drops the question the connect stalls for 5 s. When a look-up fails for a
passing reason, torch (2.9 and later) stops doing it for the life of the process. :func:`stop_reverse_lookups` makes one
look-up fail so, in a thread whose resolver has no tries left: name resolution of the process itself stays as it is.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading

from pytest_elastic.loopback_store import host_store


def stop_reverse_lookups() -> None:
    """Make c10d of this process, and of what it forks, stop looking up the names of its peers. Takes 4 ms."""
    if sys.platform != "linux":
        return
    thread = threading.Thread(target=_fail_one_lookup, name="elastic-names")
    thread.start()
    thread.join()


def _fail_one_lookup() -> None:
    libc = ctypes.CDLL(None)
    try:
        init, state = libc.__res_init, libc.__res_state
    except AttributeError:
        return  # Another C library than glibc: nothing to do it with.
    init()
    state.restype = ctypes.POINTER(ctypes.c_int)
    state()[1] = 0  # struct __res_state { int retrans; int retry; ... } of this thread only
    # torch warns of the failed look-up, once per process, on the descriptor itself.
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        host_store(0)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
