"""Returns something that does not pickle."""

import os
import threading


def train():
    return threading.Lock() if os.environ["RANK"] == "1" else 5


def test_it(elastic_launch):
    elastic_launch(train, nproc=2, timeout=60)
