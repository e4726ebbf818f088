"""The rendezvous never completes: a node is missing."""


def train():
    return 1


def test_it(elastic_launch):
    elastic_launch(train, nnodes=2, agents=1, nproc=1)
