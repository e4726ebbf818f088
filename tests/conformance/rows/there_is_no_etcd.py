"""etcd cannot start: there is no binary."""

import pytest


@pytest.fixture(autouse=True)
def no_binary(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ETCD_BINARY_PATH", "/nowhere/etcd")


def test_it(etcd_server_factory, failing_now):
    failing_now()
    etcd_server_factory()
