"""etcd dies in mid-run."""

import os
import signal
import threading


def train(etcd, failing_now):
    failing_now()
    os.kill(etcd, signal.SIGKILL)
    threading.Event().wait()


def test_it(elastic_launch, etcd_server_factory, failing_now):
    etcd = etcd_server_factory()
    elastic_launch(train, etcd.pid, failing_now, nproc=1, rdzv_backend="etcd", rdzv_endpoint=etcd.endpoint, timeout=60)
