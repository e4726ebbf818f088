"""A rank fails once; its agent starts all ranks again, and the second attempt succeeds."""

import os


def fail_once():
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if attempt == 0 and os.environ["RANK"] == "1":
        raise ConnectionError("the data loader lost its server")
    return attempt


def test_the_second_attempt_succeeds(elastic_launch):
    result = elastic_launch(fail_once, nproc=2, max_restarts=1)

    assert result == {0: 1, 1: 1}
    assert result.restarts == 1
