import os

import pytest

from pytest_elastic import WorkerFailedError


@pytest.mark.elastic(nproc=2)
def test_ranks_are_prepared():
    import torch

    assert torch.are_deterministic_algorithms_enabled()


def fail_on_rank_1():
    if os.environ["RANK"] == "1":
        raise ValueError("no")


def test_failures_are_told(elastic_launch, capsys):
    with pytest.raises(WorkerFailedError):
        elastic_launch(fail_on_rank_1, nproc=2)
    assert "for the dashboard:" in capsys.readouterr().out
