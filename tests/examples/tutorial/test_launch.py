import os


def square_of_rank(power):
    return int(os.environ["RANK"]) ** power


def test_squares(elastic_launch):
    result = elastic_launch(square_of_rank, 2, nproc=4)
    assert result == {0: 0, 1: 1, 2: 4, 3: 9}


def test_a_result_knows_more(elastic_launch):
    result = elastic_launch(square_of_rank, 2, nproc=2)
    assert result.world_size == 2
    assert result.exitcodes == {0: 0, 1: 0}
    assert [agent.state for agent in result.agents] == ["SUCCEEDED"]
