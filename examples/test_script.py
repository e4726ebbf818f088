"""Launch a script with arguments, as torchrun would, and look at what it printed and wrote."""

from pathlib import Path

import pytest
import torch

TRAIN = Path(__file__).with_name("train.py")


def test_train_fits_a_line(elastic_launch, tmp_path):
    result = elastic_launch(TRAIN, "--steps", 200, "--out", tmp_path / "model.pt", nproc=2)

    assert "rank 0 of 2: loss" in result.stdout[0]
    assert "after 200 steps" in result.stdout[1]
    model = torch.load(tmp_path / "model.pt")
    assert model["weight"].item() == pytest.approx(3, abs=0.01)
    assert model["bias"].item() == pytest.approx(1, abs=0.01)


def test_train_wants_to_know_where_to_save(elastic_launch):
    result = elastic_launch(TRAIN, nproc=2, check=False)

    first = result.first
    assert first.exitcode == 2
    assert "the following arguments are required: --out" in result.stderr[first.rank]
