"""A launched function raises an exception that does not pickle: a stand-in says so."""

import threading

import pytest

from pytest_elastic import WorkerFailedError


class LostError(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


def train():
    raise LostError("the socket is gone")


def test_it(elastic_launch):
    with pytest.raises(WorkerFailedError, match="the socket is gone") as caught:
        elastic_launch(train, nproc=1, timeout=60)
    assert "in train" in caught.value.first.traceback
    assert not isinstance(caught.value.first.exception, LostError)
    assert "could not be sent" in str(caught.value.first.exception)
