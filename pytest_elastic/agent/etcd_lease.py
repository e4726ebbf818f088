"""Keeps one known exception of torch's ``etcd`` rendezvous with etcd 3.5 out of everybody's sight.

Its lease thread refreshes a *directory*, which etcd 3.5 refuses ("Not a file"): the thread dies at each launch. Nothing
depends on it: the leases of ranks, which are files, are another thread's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


def is_the_known_one(args: threading.ExceptHookArgs) -> bool:
    """Tell the one exception from every other."""
    return (
        args.exc_type.__module__.partition(".")[0] == "etcd"
        and args.exc_type.__name__ == "EtcdException"
        and "Not a file" in str(args.exc_value)
        and "lease_worker" in (args.thread.name if args.thread is not None else "")
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Swallow exactly that exception while the block runs; all others go where they went before."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not is_the_known_one(args):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        if threading.excepthook is hook:
            threading.excepthook = before
