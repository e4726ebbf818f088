"""Fit a line, on however many ranks there are, and go on from a checkpoint if there is one."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from .data import share_of


def train(data, directory, steps, after_step=None):
    """Train in the process group that is there, and return the weights.

    Rank 0 saves after each step; a worker that is started again goes on behind the last step that was saved.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    points = torch.load(data)
    mine = points[list(share_of(rank, world_size, len(points)))]
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    done = _load(model, Path(directory))
    together = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(together.parameters(), lr=0.5)
    for step in range(done + 1, steps + 1):
        optimizer.zero_grad()
        # DDP averages over ranks; they may have other numbers of samples.
        loss = mse_loss(together(mine[:, :1]), mine[:, 1:]) * len(mine) * world_size / len(points)
        loss.backward()
        optimizer.step()
        _save(model, Path(directory), step)
        print(f"step {step}", flush=True)
        if after_step is not None:
            after_step(step)
    return [model.weight.item(), model.bias.item()]


def _save(model, directory, step):
    if dist.get_rank() == 0:
        torch.save({"step": step, "model": model.state_dict()}, directory / "partial.pt")
        (directory / "partial.pt").rename(directory / "checkpoint.pt")
    dist.barrier()


def _load(model, directory):
    if not (directory / "checkpoint.pt").exists():
        return 0
    checkpoint = torch.load(directory / "checkpoint.pt")
    model.load_state_dict(checkpoint["model"])
    return checkpoint["step"]
