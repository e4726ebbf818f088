import pytest


@pytest.mark.elastic(nproc=2)
def test_the_controller_alone_started_it(request):
    assert not hasattr(request.config, "started")


def test_a_plain_test_has_it(request):
    assert request.config.started == ["the database"]
