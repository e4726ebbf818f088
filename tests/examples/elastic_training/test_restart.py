import os


def fail_at_first():
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if attempt == 0:
        raise ConnectionError("not yet")
    return attempt


def test_restart(elastic_launch):
    result = elastic_launch(fail_at_first, nproc=2, max_restarts=3)
    assert result == {0: 1, 1: 1}
    assert result.restarts == 1
    assert result.worlds == [2, 2]
