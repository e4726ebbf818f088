"""Training that goes on after a restart, on however many ranks there are then.

The batch of a step depends on the step alone, and the ranks divide it among themselves. So do they with the momentum,
which a checkpoint brings to another number of ranks: whatever the sizes of the worlds, the weights come out alike.
"""

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector

BATCH = 16  # of all ranks together
SAVE_EVERY = 2


class ShardedSGD:
    """SGD with momentum, of which every rank holds its share only."""

    def __init__(self, parameters, lr=0.1, momentum=0.9):
        self.parameters = list(parameters)
        self.lr, self.momentum = lr, momentum
        self.mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        self.velocity = self.shard(torch.zeros_like(parameters_to_vector(self.parameters)))

    def shard(self, tensor):
        # Every rank has the whole tensor already: nothing needs to be sent.
        return distribute_tensor(tensor.detach(), self.mesh, [Shard(0)], src_data_rank=None)

    @torch.no_grad()
    def step(self):
        gradient = parameters_to_vector(parameter.grad for parameter in self.parameters)
        self.velocity.mul_(self.momentum).add_(self.shard(gradient))
        update = self.velocity.full_tensor().split([parameter.numel() for parameter in self.parameters])
        for parameter, change in zip(self.parameters, update, strict=True):
            parameter.sub_(self.lr * change.view_as(parameter))


def batch(step):
    inputs = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(step))
    return inputs, inputs.sum(dim=1, keepdim=True).sin()


def save(state, directory, step):
    partial = Path(directory, f"partial-{step}")
    dcp.save(state, checkpoint_id=partial)
    # Rank 0 comes here when every rank has written its part: what is called step-4 is complete, whoever dies when.
    if dist.get_rank() == 0:
        partial.rename(Path(directory, f"step-{step}"))


def load_newest(state, directory):
    newest = [max((int(path.name.removeprefix("step-")) for path in Path(directory).glob("step-*")), default=0)]
    dist.broadcast_object_list(newest)  # all ranks load the same, whatever each of them has seen
    if newest[0] > 0:
        dcp.load(state, checkpoint_id=Path(directory, f"step-{newest[0]}"))
    return newest[0]


def train(directory, steps, after_step=None):
    # A peer's death now and then leaves gloo waiting for it: the group's timeout ends that.
    dist.init_process_group("gloo", timeout=timedelta(seconds=10))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))
    optimizer = ShardedSGD(model.parameters())

    state = {"model": model.module.state_dict(), "velocity": optimizer.velocity}
    done = load_newest(state, directory)
    share, whole = optimizer.velocity.to_local().numel(), optimizer.velocity.numel()
    print(f"rank {rank} of {world_size} begins after step {done} with {share} of {whole} velocities", flush=True)

    for step in range(done + 1, steps + 1):
        inputs, targets = batch(step)
        mine = slice(rank, None, world_size)
        model.zero_grad()
        mse_loss(model(inputs[mine]), targets[mine]).backward()
        optimizer.step()
        print(f"step {step}", flush=True)
        if after_step is not None:
            after_step(step)
        if step % SAVE_EVERY == 0:
            save(state, directory, step)

    dist.destroy_process_group()
    return parameters_to_vector(model.parameters()).detach()
