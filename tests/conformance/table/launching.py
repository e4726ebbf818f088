"""Launches by ``elastic_launch``, their rendezvous and their etcd."""

from __future__ import annotations

from .row import GRACE, PROMPTLY, Row

_WORKER = "pytest_elastic.worker_failed.WorkerFailedError"
_TIMEOUT = "pytest_elastic.errors.ElasticTimeoutError"
_AGENT = "pytest_elastic.errors.AgentFailedError"

LAUNCHING = (
    Row(
        file="launch_fails",
        outcome="failed",
        message=f"{_WORKER}: [rank 1] ValueError: wrong shape",
        words=(
            f"E       {_WORKER}: [rank 1] ValueError: wrong shape",
            "E       train failed on rank 1 after * s; rank 0 lost a peer",
            "E         File *launch_fails.py*, line 11, in train",
        ),
        within=PROMPTLY,
    ),
    Row(
        file="launch_exits_0",
        outcome="failed",
        message=f"{_WORKER}: [rank 1] exited with code 0 before the function ended",
    ),
    Row(
        file="launch_dies",
        outcome="failed",
        message=f"{_WORKER}: [rank 1] killed by SIGSEGV",
        words=(
            f"E       {_WORKER}: [rank 1] killed by SIGSEGV",
            "E       Fatal Python error: Segmentation fault",
            'E         File "*launch_dies.py", line 9 in train',
        ),
    ),
    Row(
        file="launch_hangs",
        outcome="failed",
        message=f"{_TIMEOUT}: timed out after {{timeout}} s: train",
        words=("E       rank 0: finished", "E       rank 1: in wait at launch_hangs.py:9"),
        within=GRACE,
        since="deadline",
        session="hangs",
    ),
    Row(
        file="returns_what_does_not_pickle",
        outcome="failed",
        message=f"{_WORKER}: [rank 1] returned a value of type 'lock' that cannot be pickled: "
        "TypeError: cannot pickle '_thread.lock' object",
    ),
    Row(file="others_keep_their_values", outcome="passed"),
    Row(file="launch_raises_what_does_not_pickle", outcome="passed"),
    Row(
        file="a_node_is_missing",
        outcome="failed",
        message=f"{_TIMEOUT}: timed out after {{timeout}} s: train",
        words=("E       the rendezvous never completed: 1 agent came (node 0), 1 did not (node 1)",),
        within=GRACE,
        since="deadline",
        session="hangs",
    ),
    Row(
        file="etcd_dies",
        outcome="failed",
        message=f"{_AGENT}: agent 0 failed: EtcdConnectionFailed: *",
        within=GRACE,
    ),
    Row(
        file="etcd_v2_dies",
        outcome="failed",
        message=f"{_AGENT}: agent 0 failed: RendezvousConnectionError: The connection to etcd has failed.*",
        within=GRACE,
    ),
    Row(
        file="there_is_no_etcd",
        outcome="failed",
        message="pytest_elastic.errors.EtcdServerError: no etcd to use; looked at TORCHELASTIC_ETCD_BINARY_PATH "
        "('/nowhere/etcd': No such file or directory); install one that has the v2 API, *",
        within=GRACE,
    ),
    Row(
        file="rendezvous_cannot_be_shut_down",
        outcome="failed",
        message=f"{_WORKER}: [rank 0] ValueError: wrong shape",
    ),
)
