"""Sessions across hosts: the same as on one machine, and what becomes of a host that is lost, slow or back again."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from .hosts import Host, hosts
from .launching import (
    HERE,
    KEY,
    PYTEST,
    ROOT,
    Command,
    Running,
    Session,
    again_when_killed,
    by_options,
    by_torchrun,
    left_on,
    processes_on,
    started,
)

ACROSS = HERE / "across"
SILENCE = 4.0
"""Seconds after which a host that is not heard of counts as lost, in these tests."""


def run(commands: Sequence[Command], folder: Path, **variables: str) -> Session:
    with started(commands, folder, cwd=ACROSS, variables=variables) as running:
        return running.finish()


@pytest.fixture(scope="module")
def on_one_machine(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """What comes of the tests on ranks where all nodes are on this machine."""
    return run([(None, [*PYTEST, "ranks.py"])], tmp_path_factory.mktemp("one-machine") / "session")


@pytest.fixture
def two_apart(tmp_path: Path) -> Iterator[list[Host]]:
    """Hosts that have no temporary files in common."""
    with hosts(2, tmp_path, private_tmp=True) as made:
        yield made


def same_as_on_one_machine(across: Session, alone: Session, two: Sequence[Host]) -> None:
    assert across.outcomes() == alone.outcomes()
    messages, expected = across.messages(two), alone.messages(two)
    # Which of two that fail in the same moment is the first is up to the machine.
    alike = "ranks.py::test_both_fail_alike"
    (said,), (_,) = messages.pop(alike), expected.pop(alike)
    assert said in ("[rank 0] assert 0 == 2", "[rank 1] assert 1 == 2")
    assert messages == expected


def names_its_hosts(across: Session) -> None:
    on_last_rank = (
        *("fails_an_assert", "fails_in_setup", "fails_in_teardown", "fails_while_others_wait", "sys_exits"),
        *("os_exits_0", "dies_of_sigkill", "dies_of_sigsegv", "prints", "is_restarted_in_vain"),
    )
    for test in on_last_rank:
        first = across.failure(f"test_{test}").splitlines()[0]
        assert first.startswith("rank 1 of 2 on host1 failed first, after "), first
        assert "(rank 0 on host0 " in first
    hang = across.failure("test_hangs_in_a_collective")
    assert "rank 0 on host0: in barrier at ranks.py" in hang
    assert "rank 1 on host1: in broadcast at ranks.py" in hang
    assert across.failure("test_one_skips") == (
        "the ranks disagree: rank 1 on host1 skipped: no data here; rank 0 on host0 passed"
    )
    titles = {title: text for told in across.of("test_prints") for title, text in told["sections"]}
    assert titles["Captured stdout call (rank 1 on host1)"] == "out of rank 1\nwritten by rank 1\n"
    assert titles["Captured stderr call (rank 1 on host1)"] == "err of rank 1\n"


def test_what_happens_on_ranks_of_two_hosts_is_what_happens_on_one_machine(
    on_one_machine: Session, two_hosts: list[Host], tmp_path: Path
) -> None:
    across = run(by_options(two_hosts, "ranks.py"), tmp_path / "session")
    assert across.codes == [1, 1], across.outputs
    assert across.outputs[1] == ""
    assert "elastic: 2 nodes (options): host0, host1" in across.output
    same_as_on_one_machine(across, on_one_machine, two_hosts)
    names_its_hosts(across)
    assert max(across.seconds) - min(across.seconds) < 5
    assert [left_on(host) for host in two_hosts] == [[], []]


@pytest.mark.soak
@pytest.mark.parametrize("own_address", [True, False])
def test_the_same_under_torchrun(
    on_one_machine: Session, two_apart: list[Host], tmp_path: Path, own_address: bool
) -> None:
    commands = by_torchrun(two_apart, "ranks.py", f"--basetemp={tmp_path}/shared", own_address=own_address)
    across = run(commands, tmp_path / "session")
    assert across.codes == [1, 1], across.outputs
    assert "elastic: 2 nodes (torchrun): host0, host1" in across.output
    assert "test session starts" not in across.outputs[1]
    same_as_on_one_machine(across, on_one_machine, two_apart)
    names_its_hosts(across)
    assert [left_on(host) for host in two_apart] == [[], []]


@pytest.mark.soak
def test_hosts_that_share_nothing_have_a_directory_each(two_apart: list[Host], tmp_path: Path) -> None:
    across = run(by_options(two_apart, "ranks.py", "-k", "directory or fails_an_assert"), tmp_path / "session")
    outcomes = {nodeid: outcome for nodeid, ((_, outcome, _),) in across.outcomes().items()}
    assert outcomes == {
        "ranks.py::test_fails_an_assert": "failed",
        "ranks.py::test_has_a_directory_of_its_own": "passed",
        "ranks.py::test_has_a_directory_of_all": "failed",
    }
    assert "assert ['rank-1'] == ['rank-0', 'rank-1']" in across.failure("test_has_a_directory_of_all")
    # Nothing is left in what is /tmp there, but for what pytest itself keeps.
    for host in two_apart:
        found = host.run(["ls", "/tmp"]).stdout.split()
        seen = {path.parts[2] for path in (ROOT, Path(sys.prefix)) if path.parts[:2] == ("/", "tmp")}
        kept = ("pytest-of-", "pytest-elastic-ports-")
        assert [name for name in found if not name.startswith(kept) and name not in seen] == []


@pytest.mark.soak
def test_hosts_that_reach_each_other_by_ipv6_only(two_hosts: list[Host], tmp_path: Path) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    for host in two_hosts:
        host.namespaces.ip("addr flush dev eth0", f"addr add fd77::{host.number + 1}/64 dev eth0 nodad")
    commands = by_options(two_hosts, "ranks.py", "-k", "passes or reduces or prints", endpoint="[fd77::1]:29400")
    across = run(commands, tmp_path / "session")
    assert across.codes == [1, 1], across.outputs
    assert "1 failed, 2 passed" in across.output, across.output


@pytest.mark.soak
def test_the_key_is_in_a_home_that_hosts_share(two_hosts: list[Host], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    commands = by_options(two_hosts, "ranks.py", "-k", "passes or gathers or prints", endpoint="10.77.0.1:29400")
    keyless = [(host, ["env", "--unset=PYTEST_ELASTIC_KEY", *argv]) for host, argv in commands]
    across = run(keyless, tmp_path / "session", HOME=str(tmp_path / "home"))
    assert across.codes == [1, 1], across.outputs
    assert "1 failed, 2 passed" in across.output
    key = tmp_path / "home/.cache/pytest-elastic/key"
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.soak
def test_hosts_with_different_keys_do_not_meet(two_hosts: list[Host], tmp_path: Path) -> None:
    first, (host, argv) = by_options(two_hosts, "ranks.py", "-k", "passes", "--elastic-join-timeout=8")
    across = run([first, (host, ["env", f"PYTEST_ELASTIC_KEY={KEY[::-1]}", *argv])], tmp_path / "session")
    assert across.codes == [4, 4], across.outputs
    assert "node 1 did not come within 8 s" in across.output, across.output
    assert across.outputs[1].startswith("ERROR: elastic: node 1 could not "), across.outputs[1]
    assert across.outputs[1].count("\n") <= 2


THREE = {
    "three.py::test_three_nodes": "passed",
    "three.py::test_first_two": "passed",
    "three.py::test_as_many_as_there_are": "passed",
    "three.py::test_last_rank_fails": "failed",
    "three.py::test_four_nodes": "skipped",
    "three.py::test_one_node": "passed",
    **{f"three.py::test_how_long[{times}]": "passed" for times in range(3)},
}


def outcomes_of(session: Session) -> dict[str, str]:
    return {nodeid: outcomes[0][1] for nodeid, outcomes in session.outcomes().items()}


@pytest.mark.soak
@pytest.mark.parametrize("milliseconds", [0, 50])
@pytest.mark.parametrize("launcher", ["options", "torchrun"])
def test_three_hosts_also_slow_ones(
    three_hosts: list[Host], tmp_path: Path, milliseconds: float, launcher: str
) -> None:
    for host in three_hosts:
        host.delay(milliseconds)
    start = by_options if launcher == "options" else by_torchrun
    across = run(start(three_hosts, "three.py"), tmp_path / "session")
    assert across.codes == [1, 1, 1], across.outputs
    assert f"elastic: 3 nodes ({launcher}): host0, host1, host2" in across.output
    assert outcomes_of(across) == THREE, across.output
    assert "needs 4 nodes, 3 are there" in across.output
    first = across.failure("test_last_rank_fails").splitlines()[0]
    assert first.startswith("rank 5 of 6 on host2 failed first, after "), first
    for group in ("ranks 0-1 on host0", "ranks 2-3 on host1", "rank 4 on host2"):
        assert group in first
    took = {nodeid: round(across.took(nodeid), 1) for nodeid in THREE}
    print(f"{launcher}, {milliseconds} ms: {took}")
    assert max(took.values()) < 60, took
    assert [left_on(host) for host in three_hosts] == [[], [], []]


def cut_while_it_reduces(running: Running, host: Host) -> None:
    for rank in range(4):
        running.wait_for_file(running.folder / f"reduced-{rank}")
    host.cut()


LOST = re.compile(
    r"node 1 \(host1\) was lost after \d+\.\d s: nothing was heard of it for \d+ s, with ranks 2-3; "
    r"ranks 0-1 on host0 (blocked in all_reduce at lost\.py:\d+, killed|lost a peer in all_reduce at lost\.py:\d+)"
)


@pytest.mark.soak  # most of it is the node timeout
def test_a_link_is_cut_in_the_middle_of_an_all_reduce(two_hosts: list[Host], tmp_path: Path) -> None:
    commands = by_options(two_hosts, "lost.py", f"--elastic-node-timeout={SILENCE:g}")
    with started(commands, tmp_path / "session", cwd=ACROSS) as running:
        cut_while_it_reduces(running, two_hosts[1])
        cut_at = time.monotonic()
        # The follower keeps its pytest and its server, and ends the agent and the ranks, though nobody tells it to.
        many = len(processes_on(two_hosts[1]))
        running.wait_until(lambda: len(processes_on(two_hosts[1])) <= many - 3)
        assert time.monotonic() - cut_at < 60
        session = running.finish()
    assert session.codes == [1, 3], session.outputs
    assert outcomes_of(session) == {
        "lost.py::test_before": "passed",
        "lost.py::test_under_way": "failed",
        "lost.py::test_after": "failed",
        "lost.py::test_later": "failed",
        "lost.py::test_one_node": "passed",
        "lost.py::test_plain": "passed",
    }
    assert LOST.match(session.failure("test_under_way")), session.output
    for test in ("test_after", "test_later"):
        reason = r"needs 2 nodes, 1 of 2 are left: node 1 \(host1\) was lost \(nothing was heard of it for \d+ s\)"
        assert re.match(reason, session.failure(test)), session.output
    assert session.took("lost.py::test_under_way") < 60
    assert "the first controller was lost" in session.outputs[1]
    assert [left_on(host) for host in two_hosts] == [[], []]


@pytest.mark.soak
def test_a_short_cut_is_waited_out(two_hosts: list[Host], tmp_path: Path) -> None:
    commands = by_options(two_hosts, "lost.py", "--elastic-node-timeout=30")
    with started(commands, tmp_path / "session", cwd=ACROSS) as running:
        cut_while_it_reduces(running, two_hosts[1])
        time.sleep(1)
        two_hosts[1].mend()
        (running.folder / "stop").touch()
        session = running.finish()
    assert session.codes == [0, 0], session.outputs
    assert set(outcomes_of(session).values()) == {"passed"}


@pytest.mark.soak
def test_a_host_whose_link_is_mended_runs_later_tests(two_hosts: list[Host], tmp_path: Path) -> None:
    commands = by_options(two_hosts, "lost.py", f"--elastic-node-timeout={SILENCE:g}")
    with started(commands, tmp_path / "session", cwd=ACROSS) as running:
        cut_while_it_reduces(running, two_hosts[1])
        running.wait_until(lambda: any(told["outcome"] == "failed" for told in Session.read(running).reports))
        two_hosts[1].mend()
        session = running.finish()
    assert session.codes == [1, 1], session.outputs
    found = outcomes_of(session)
    assert found.pop("lost.py::test_under_way") == "failed"
    assert set(found.values()) == {"passed"}, session.output
    assert LOST.match(session.failure("test_under_way")), session.output
    assert [left_on(host) for host in two_hosts] == [[], []]


@pytest.mark.soak
@pytest.mark.parametrize("launcher", ["loop", "torchrun"])
def test_a_host_whose_pytest_is_started_again_runs_later_tests(
    two_hosts: list[Host], tmp_path: Path, launcher: str
) -> None:
    if launcher == "loop":
        first, (host, argv) = by_options(two_hosts, "back.py")
        commands = [first, (host, again_when_killed(argv))]
    else:
        commands = by_torchrun(two_hosts, "back.py", options=["--max-restarts=2"])
    session = run(commands, tmp_path / "session")
    assert outcomes_of(session) == {
        "back.py::test_before": "passed",
        "back.py::test_pytest_dies": "failed",
        "back.py::test_after": "passed",
        "back.py::test_fails_after": "failed",
    }, session.outputs
    # Under torchrun the session is started again, and reports again what is over.
    (text,) = {told["text"] for told in session.of("test_pytest_dies") if told["outcome"] == "failed"}
    assert text.startswith("node 1 (host1) was lost after "), text
    assert [left_on(host) for host in two_hosts] == [[], []]
