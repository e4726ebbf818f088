import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def sharded_model():
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def train(model, optimizer, steps):
    inputs = torch.ones(2, 4)  # the same on all ranks, so that their number does not matter
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return model(inputs).detach()


def train_and_save(directory):
    model, optimizer = sharded_model()
    train(model, optimizer, 3)
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=directory)
    return train(model, optimizer, 2)


def load_and_train(directory):
    model, optimizer = sharded_model()
    weights, moments = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=directory)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    return train(model, optimizer, 2)


def test_four_ranks_save_two_go_on(elastic_launch, tmp_path):
    four = elastic_launch(train_and_save, tmp_path, nproc=4)
    two = elastic_launch(load_and_train, tmp_path, nproc=2)
    torch.testing.assert_close(two[0], four[0])
