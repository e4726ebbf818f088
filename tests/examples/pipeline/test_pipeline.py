import copy

import pytest
import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.functional import mse_loss

CHUNKS = 4


@pytest.mark.elastic(nproc=2, backend="gloo", isolation="module")
@pytest.mark.parametrize("schedule", [ScheduleGPipe, Schedule1F1B])
def test_pipeline_is_one_process(schedule, rank, world_size):
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(world_size)]
    inputs, targets = torch.randn(8, 4), torch.randn(8, 4)
    alone = copy.deepcopy(nn.Sequential(*layers))
    expected = alone(inputs)
    mse_loss(expected, targets).backward()

    stage = PipelineStage(layers[rank], rank, world_size, torch.device("cpu"))
    pipeline = schedule(stage, CHUNKS, loss_fn=mse_loss)
    losses = []
    if rank == 0:
        pipeline.step(inputs)
    else:
        actual = pipeline.step(target=targets, losses=losses)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.stack(losses).mean(), mse_loss(expected, targets))

    # Each rank has its stage, and compares the gradients of that.
    for parameter, other in zip(layers[rank].parameters(), alone[rank].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
