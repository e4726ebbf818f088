"""What the ranks of one test have in common: values, a directory, and a fixture that is set up once."""

import sqlite3
from contextlib import closing

import pytest

import pytest_elastic


@pytest_elastic.controller_fixture(scope="session")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "db.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table seen (rank integer)")
    return path


@pytest.mark.elastic(nproc=4)
def test_every_rank_writes(database, rank, elastic_gather):
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute("insert into seen values (?)", [rank])
    assert elastic_gather(str(database)) == [str(database)] * 4


def test_what_they_wrote(database):
    with closing(sqlite3.connect(database)) as connection:
        assert sorted(connection.execute("select rank from seen")) == [(0,), (1,), (2,), (3,)]
