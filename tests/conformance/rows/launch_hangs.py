"""A launched function hangs."""

import os
import threading


def train():
    if os.environ["RANK"] == "1":
        threading.Event().wait()


def test_it(elastic_launch):
    elastic_launch(train, nproc=2)
