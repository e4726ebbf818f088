"""A conftest that fails on the ranks only."""

import pytest_elastic


def pytest_configure(config):
    if pytest_elastic.role(config) != "controller":
        raise LookupError("no licence for ranks")
