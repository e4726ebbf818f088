import os


def train():
    return int(os.environ["WORLD_SIZE"])


def test_two_nodes_meet_through_etcd(elastic_launch, etcd_server):
    result = elastic_launch(train, nnodes=2, nproc=2, rdzv_backend="etcd-v2")
    assert result.world_size == 4
