"""The run's etcd is reached from another host."""

from __future__ import annotations

from pathlib import Path

import pytest

from .hosts import Host
from .launching import by_options, left_on, started

TEXT = """
import os
import socket
import pytest

@pytest.mark.elastic(nnodes=2, nproc=1, rdzv_backend="etcd-v2", timeout=60)
def test_it(rank, elastic_gather, etcd_server):
    assert sorted(elastic_gather(socket.gethostname())) == ["host0", "host1"]
    assert etcd_server.host == "10.77.0.1"
    etcd_server.client.write(f"/of-a-test/{rank}", str(rank))
    assert etcd_server.client.read(f"/of-a-test/{rank}").value == str(rank)
"""


@pytest.mark.soak
def test_etcd_is_reached_from_another_host(two_hosts: list[Host], tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text(TEXT)
    (tests / "pytest.ini").write_text("[pytest]\n")
    with started(by_options(two_hosts, "test_it.py"), tmp_path / "session", cwd=tests) as running:
        session = running.finish()
    assert session.output.count(" 1 passed in ") == 1, session.output
    assert [left_on(host) for host in two_hosts] == [[], []]
