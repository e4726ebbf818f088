"""What the tests share."""

import pytest_elastic
import torch
import torch._dynamo  # the first DDP would import it, on each rank anew; ranks are forked from what is imported here


@pytest_elastic.controller_fixture(scope="session")
def points(tmp_path_factory):
    """Seven points on the line y = 3 x + 1, in a file that is written once, whatever the number of ranks."""
    x = torch.linspace(-1, 1, 7)
    path = tmp_path_factory.mktemp("data") / "points.pt"
    torch.save(torch.stack([x, 3 * x + 1], dim=1), path)
    return path
