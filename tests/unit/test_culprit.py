from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_elastic.messages import RankExited, RankFailed, RankFinished, RankId
from pytest_elastic.report.culprit import blame, ended_by_us, has_failed, is_collateral, is_peer_loss
from pytest_elastic.report.records import RankRecord

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4242"


def rank_id(rank: int) -> RankId:
    return RankId(world="w", rank=rank, local_rank=rank, node=0, group_rank=0, world_size=4, restart=0)


def raised(rank: int, time_ns: int, *, type_: str = "ValueError", message: str = "boo") -> RankRecord:
    failed = RankFailed(id=rank_id(rank), time_ns=time_ns, how="raised", type=type_, message=message, traceback="")
    return RankRecord(id=rank_id(rank), directory=Path(), failed=failed)


def died(rank: int, exitcode: int, time_ns: int, *, stopped: bool = False, forced: bool = False) -> RankRecord:
    exited = RankExited(id=rank_id(rank), exitcode=exitcode, time_ns=time_ns, stopped=stopped, forced=forced)
    return RankRecord(id=rank_id(rank), directory=Path(), exited=exited)


def finished(rank: int) -> RankRecord:
    done = RankFinished(id=rank_id(rank), time_ns=1, started_ns=0, value=None, leftovers=())
    return RankRecord(id=rank_id(rank), directory=Path(), finished=done)


def culprit(*ranks: RankRecord) -> int:
    return blame(ranks, silent_success=False)[0].id.rank


def test_of_two_exceptions_the_earlier_one_is_the_cause_whatever_the_rank() -> None:
    assert culprit(raised(0, 20), raised(3, 10)) == 3


def test_a_lost_peer_is_never_the_cause_while_another_exception_is_there() -> None:
    assert culprit(raised(0, 5, type_="RuntimeError", message=GLOO), raised(2, 10)) == 2


@pytest.mark.parametrize("exitcode", [0, 3, 9, -9, -11, -15])
def test_a_rank_that_died_without_a_word_comes_before_every_record(exitcode: int) -> None:
    assert culprit(raised(0, 1), died(2, exitcode, 99)) == 2


def test_gloo_may_end_victims_by_sigabrt_so_a_silent_one_comes_after_whoever_knows_more() -> None:
    assert culprit(died(0, -6, 1), died(3, -9, 50)) == 3
    assert culprit(died(0, -6, 1), raised(3, 50)) == 3


def test_where_the_others_only_lost_a_peer_that_peer_is_the_one_that_aborted() -> None:
    assert culprit(died(0, -6, 60), raised(1, 50, type_="RuntimeError", message=GLOO)) == 0


@pytest.mark.parametrize("exitcode", [0, 15, 143, -11, -6])
def test_a_rank_that_ends_in_its_own_way_when_it_is_told_to_is_not_the_cause(exitcode: int) -> None:
    obeyed = died(0, exitcode, 60, stopped=True)
    assert culprit(obeyed, raised(1, 50)) == 1
    assert is_collateral(obeyed, raised(1, 50))


def test_a_death_that_was_noticed_late_comes_before_the_losses_of_a_peer() -> None:
    assert culprit(died(0, 9, 60, stopped=True), raised(1, 50, type_="RuntimeError", message=GLOO)) == 0


@pytest.mark.parametrize("exitcode", [-15, -9, -2])
def test_ranks_that_the_agent_stopped_are_never_the_cause(exitcode: int) -> None:
    assert culprit(died(0, exitcode, 1, stopped=True, forced=True), raised(1, 50)) == 1
    assert ended_by_us(died(0, exitcode, 1, stopped=True, forced=True))


def test_a_sigkill_seen_while_the_agent_stops_the_others_is_not_the_agents_before_its_grace_time_is_over() -> None:
    # The victim was seen first, and the agent had begun to stop everybody, when the dead rank was noticed.
    dead = died(3, -9, 60, stopped=True)
    assert not ended_by_us(dead)
    assert culprit(raised(2, 50, type_="RuntimeError", message=GLOO), dead) == 3


def test_a_segfault_while_the_agent_stops_the_others_is_a_death_of_its_own() -> None:
    assert not ended_by_us(died(0, -11, 1, stopped=True))


def test_a_sigterm_from_somebody_else_is_a_death_of_its_own() -> None:
    assert not ended_by_us(died(0, -15, 1))


def test_a_rank_that_the_controller_killed_is_ended_by_us() -> None:
    assert ended_by_us(replace(died(0, -9, 1), killed=True))


def test_a_stopped_rank_that_dies_when_it_is_woken_for_its_stacks_is_ended_by_us() -> None:
    assert ended_by_us(replace(died(0, -11, 5), was_stopped=True))
    assert not ended_by_us(replace(raised(0, 5), was_stopped=True)), "it had failed before"


def test_exit_code_0_without_an_outcome_is_a_failure_except_for_a_command() -> None:
    assert has_failed(died(0, 0, 1), silent_success=False)
    assert not has_failed(died(0, 0, 1), silent_success=True)
    assert has_failed(RankRecord(id=rank_id(0), directory=Path()), silent_success=True)


def test_finished_ranks_are_not_blamed() -> None:
    assert [rank.id.rank for rank in blame((finished(0), raised(1, 1)), silent_success=False)] == [1]


def test_collateral_are_the_lost_peers_and_the_stopped_not_the_second_failure() -> None:
    first = raised(2, 10)
    assert is_collateral(raised(0, 20, type_="RuntimeError", message=GLOO), first)
    assert is_collateral(died(1, -15, 20, stopped=True), first)
    assert not is_collateral(raised(3, 20), first)
    assert not is_collateral(first, first)


@pytest.mark.parametrize(
    ("type_", "message", "expected"),
    [
        ("RuntimeError", GLOO, True),
        ("torch.distributed.DistBackendError", "NCCL error: remote process exited or there was a network error", True),
        ("torch.distributed.DistNetworkError", "Connection reset by peer", True),
        ("pytest_elastic.worker.together.PeerExampleError", "rank 1 failed this example: ...", True),
        ("RuntimeError", "shapes do not match", False),
        ("ValueError", "Connection closed by peer", False),
        ("ConnectionResetError", "Connection reset by peer", False),
    ],
)
def test_what_counts_as_the_loss_of_a_peer(type_: str, message: str, expected: bool) -> None:
    assert is_peer_loss(type_, message) is expected


def test_a_rank_that_dies_after_it_finished_has_failed_unless_it_was_ended_by_us() -> None:
    late = replace(finished(0), exited=died(0, -11, 5).exited)
    assert has_failed(late, silent_success=False)
    assert not has_failed(replace(late, exited=died(0, 0, 5).exited), silent_success=False)
    assert not has_failed(replace(late, exited=died(0, -15, 5, stopped=True).exited), silent_success=False)
    assert not has_failed(replace(late, exited=died(0, -9, 5).exited, killed=True), silent_success=False)
