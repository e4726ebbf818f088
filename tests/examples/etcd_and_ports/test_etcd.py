import os

import pytest


def rank():
    return int(os.environ["RANK"])


@pytest.mark.parametrize("rdzv_backend", ["etcd", "etcd-v2"])
def test_etcd(elastic_launch, etcd_server, rdzv_backend):
    result = elastic_launch(rank, nnodes=2, nproc=1, rdzv_backend=rdzv_backend)
    assert result == {0: 0, 1: 1}
    etcd_server.client.write("/my-test/seen", "yes")
    assert etcd_server.client.read("/my-test/seen").value == "yes"


def test_etcd_comes_back(etcd_server_factory):
    server = etcd_server_factory()
    server.client.write("/step", "7")
    server.kill()
    assert not server.alive
    server.restart()
    assert server.client.read("/step").value == "7"
