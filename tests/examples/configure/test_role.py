import pytest

from pytest_elastic import role


def test_role(request):
    assert role(request.config) == "controller"


@pytest.mark.elastic(nproc=2)
def test_role_on_ranks(request):
    assert role(request.config) == "rank"
