"""Training on ranks is training on one, also where a rank is lost on the way."""

import tempfile
import threading
from pathlib import Path

import pytest
import torch.distributed as dist
from pytest_elastic import KillRank

from evenly import train
from evenly.__main__ import main


@pytest.mark.elastic(nproc=[1, 2], backend="gloo")
def test_comes_to_the_line(points, elastic_tmp_path, elastic_gather):
    weights = train(points, elastic_tmp_path, steps=50)
    assert weights == pytest.approx([3, 1], abs=0.01)
    assert elastic_gather(weights) == [weights] * dist.get_world_size()


def train_until_it_happens(points, directory):
    dist.init_process_group("gloo")
    first_time = not (directory / "checkpoint.pt").exists()

    def stay(step):
        if first_time and step == 3 and dist.get_rank() == 1:
            threading.Event().wait()

    return train(points, directory, 6, after_step=stay)


def train_alone(points):
    dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as directory:
        return train(points, Path(directory), 6)


def test_goes_on_after_a_lost_rank(elastic_launch, points, tmp_path):
    kill = KillRank(1, when_output="step 3")
    result = elastic_launch(train_until_it_happens, points, tmp_path, nproc=2, max_restarts=1, faults=[kill])
    result.assert_restarted(1)
    assert "step 1\n" not in result.stdout[0]

    undisturbed = elastic_launch(train_alone, points, nproc=1)
    assert result[0] == pytest.approx(undisturbed[0])


def test_command_line(elastic_launch, points, tmp_path):
    result = elastic_launch(main, [str(points), str(tmp_path), "--steps=50"], nproc=2)
    assert result.stdout[0].splitlines()[-1] == "y = 3.00 x + 1.00"
