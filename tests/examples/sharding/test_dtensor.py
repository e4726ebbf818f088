import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

pytestmark = pytest.mark.elastic(nproc=2, backend="gloo", isolation="module")


@pytest.fixture
def mesh(world_size):
    return init_device_mesh("cpu", (world_size,))


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()], ids=str)
def test_product_is_that_of_whole_tensors(mesh, placement):
    left, right = torch.randn(4, 6), torch.randn(6, 2)
    product = distribute_tensor(left, mesh, [placement]) @ distribute_tensor(right, mesh, [Replicate()])
    torch.testing.assert_close(product.full_tensor(), left @ right)


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, inputs):
        return self.down(torch.relu(self.up(inputs)))


def test_tensor_parallel_is_one_process(mesh, rank):
    inputs = torch.randn(3, 4)
    model = FeedForward()
    alone = copy.deepcopy(model)
    expected = alone(inputs)
    expected.sum().backward()

    parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    actual = model(inputs)
    actual.sum().backward()

    torch.testing.assert_close(actual, expected)
    assert model.up.weight.to_local().shape == (4, 4)
    for parameter, other in zip(model.parameters(), alone.parameters(), strict=True):
        gradient = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
        torch.testing.assert_close(gradient, other.grad)
