import socket

import pytest

import pytest_elastic


@pytest_elastic.controller_fixture(scope="session")
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()


@pytest.mark.elastic(nproc=2)
def test_connect(server):
    socket.create_connection(server).close()
