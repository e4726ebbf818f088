"""Fails, and then the shutdown of the rendezvous fails."""

from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler


def train():
    raise ValueError("wrong shape")


def refuse(self):
    raise ConnectionError("the store is gone")


def test_it(elastic_launch, monkeypatch):
    monkeypatch.setattr(DynamicRendezvousHandler, "shutdown", refuse)
    elastic_launch(train, nproc=1, rdzv_backend="c10d", agent="inline", timeout=60)
