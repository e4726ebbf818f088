import pytest
import torch
import torch.distributed as dist

pytestmark = pytest.mark.elastic(nproc=4, backend="gloo", isolation="module")


@pytest.fixture(scope="module")
def model(rank):
    torch.manual_seed(rank)
    return torch.nn.Linear(100, 100)


def test_parameters_differ(model, elastic_gather):
    assert len(set(elastic_gather(model.weight.sum().item()))) == 4


def test_broadcast(model, elastic_gather):
    for parameter in model.parameters():
        dist.broadcast(parameter.data, src=0)
    assert len(set(elastic_gather(model.weight.sum().item()))) == 1
