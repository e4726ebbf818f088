import pytest


@pytest.mark.elastic(nproc=4, device="cuda")
def test_on_four_devices(device, rank):
    assert device.index == rank
