"""37 tests on ranks, of many sizes and with many outcomes, for several workers on one machine; others launch."""

import os
import signal
import socket
import threading

import pytest
import torch
import torch.distributed as dist

SIZES = [1, 2, 3, 4]
pytestmark = pytest.mark.elastic(timeout=120)
sized = pytest.mark.parametrize("nproc", SIZES)


@sized
@pytest.mark.elastic(backend="gloo")
def test_reduces(rank, world_size, nproc, own):
    with own(rank, ports=[int(os.environ["MASTER_PORT"])]):
        total = torch.tensor(rank)
        dist.all_reduce(total)
        assert total.item() == sum(range(world_size))


@sized
def test_listens(rank, nproc, own, free_port, elastic_barrier):
    with own(rank, ports=[free_port], given=[free_port]):
        if rank == 0:
            with socket.create_server(("127.0.0.1", free_port)):
                elastic_barrier()
        else:
            elastic_barrier()


@sized
@pytest.mark.elastic(device="cuda")
def test_has_devices(rank, world_size, nproc, own, device, elastic_barrier):
    visible = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0,1,2,3").split(",")
    with own(rank, devices=visible):
        assert device.index == rank
        assert len(visible) == world_size
        elastic_barrier()


@sized
@pytest.mark.elastic(backend="gloo")
def test_fails_on_the_last(rank, world_size, nproc):
    assert rank != world_size - 1
    dist.barrier()


@sized
def test_is_killed(rank, nproc):
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)


@sized
def test_skips(nproc):
    pytest.skip("never here")


@sized
@pytest.mark.xfail(strict=True)
def test_is_expected_to_fail(rank, nproc):
    assert rank != 0


@sized
@pytest.mark.elastic(isolation="module", backend="gloo")
def test_is_kept(rank, nproc, own, elastic_gather):
    with own(rank, ports=[int(os.environ["MASTER_PORT"])]):
        pids = elastic_gather(os.getpid())
        assert len(set(pids)) == nproc


@pytest.mark.parametrize("nnodes", [1, 2])
@pytest.mark.parametrize("n", range(2))
def test_nodes(rank, world_size, nnodes, n, elastic_gather):
    assert elastic_gather(rank) == list(range(world_size))


@pytest.mark.elastic(timeout=2)
@pytest.mark.parametrize("nproc", [3])
def test_hangs(rank, nproc):
    if rank == 0:
        threading.Event().wait()
