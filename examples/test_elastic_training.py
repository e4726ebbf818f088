"""Training loses a worker, loses a node, gains a node, and comes to the weights of a run that nothing happened to."""

import os
import threading
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemWriter
from torch.testing import assert_close
from train_elastic import train

from pytest_elastic import KillRank

STEPS = 6


def train_until_it_happens(directory):
    """Train; the first time, the last rank goes no further than step 3, and the others wait for it in step 4."""
    first_time = not list(Path(directory).glob("step-*"))

    def stay(step):
        if first_time and step == 3 and dist.get_rank() == dist.get_world_size() - 1:
            threading.Event().wait()

    return train(directory, STEPS, after_step=stay)


def test_a_lost_worker(elastic_launch, tmp_path):
    undisturbed = elastic_launch(train, tmp_path / "undisturbed", STEPS, nproc=2)
    result = elastic_launch(
        train_until_it_happens,
        tmp_path / "disturbed",
        nproc=2,
        max_restarts=1,
        faults=[KillRank(1, when_output="step 3")],
    )

    result.assert_restarted(1)
    assert result.worlds == [2, 2]
    assert "rank 1 of 2 begins after step 2 " in result.stdout[1]
    assert torch.equal(result[0], undisturbed[0])
    assert torch.equal(result[1], undisturbed[1])


def train_until_it_saves(directory):
    """Train; the first time, rank 1 does not come to write its part of the checkpoint of step 4."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        write = FileSystemWriter.write_data

        def stay(writer, *args):
            if writer.path.name == "partial-4":
                print("saves step 4", flush=True)
                threading.Event().wait()
            return write(writer, *args)

        FileSystemWriter.write_data = stay
    return train(directory, STEPS)


def test_a_worker_lost_while_it_saves(elastic_launch, tmp_path):
    undisturbed = elastic_launch(train, tmp_path / "undisturbed", STEPS, nproc=2)
    result = elastic_launch(
        train_until_it_saves,
        tmp_path / "disturbed",
        nproc=2,
        max_restarts=1,
        faults=[KillRank(1, when_output="saves step 4")],
    )

    result.assert_restarted(1)
    assert result.worlds == [2, 2]
    assert "rank 0 of 2 begins after step 2 " in result.stdout[0]
    assert torch.equal(result[0], undisturbed[0])


def test_a_lost_node(elastic_launch, tmp_path):
    undisturbed = elastic_launch(train, tmp_path / "undisturbed", STEPS, nproc=2)
    with elastic_launch.start(
        train_until_it_happens, tmp_path / "disturbed", nnodes="1:2", nproc=2, max_restarts=1
    ) as run:
        run.wait_for_output("step 3", rank=3, timeout=30)
        # The rendezvous numbers nodes as it likes: either agent may have rank 3.
        [agent] = [agent for agent in run.agents if agent.node_rank == run.ranks[3].node_rank]
        agent.kill()
        result = run.wait(timeout=30)

    result.assert_ok()
    result.assert_restarted(1)
    assert result.worlds == [4, 2]
    assert "rank 0 of 2 begins after step 2 with 25 of 49 velocities" in result.stdout[0]
    assert_close(result[0], undisturbed[0])


def test_a_gained_node(elastic_launch, tmp_path):
    undisturbed = elastic_launch(train, tmp_path / "undisturbed", STEPS, nproc=2)
    with elastic_launch.start(train_until_it_happens, tmp_path / "disturbed", nnodes="1:2", agents=1, nproc=2) as run:
        run.wait_for_output("step 3", rank=1, timeout=30)
        run.add_agent()
        run.wait_for_world(4, timeout=30)
        result = run.wait(timeout=30)

    result.assert_ok()
    result.assert_restarted(0)
    assert result.worlds == [2, 4]
    assert [result.stdout[rank].splitlines()[0] for rank in range(4)] == [
        "rank 0 of 4 begins after step 2 with 13 of 49 velocities",
        "rank 1 of 4 begins after step 2 with 13 of 49 velocities",
        "rank 2 of 4 begins after step 2 with 13 of 49 velocities",
        "rank 3 of 4 begins after step 2 with 10 of 49 velocities",
    ]
    assert_close(result[0], undisturbed[0])
