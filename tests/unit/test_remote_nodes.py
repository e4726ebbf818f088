"""A node of a launch on another machine, as the supervisor sees it: from messages in whatever order they come."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_elastic.cluster.messages import (
    AgentBegan,
    AgentEnded,
    EndLaunch,
    KillAll,
    LaunchEnded,
    ProcessEnded,
    SendSignal,
    StartAgent,
    Sync,
    Synced,
    Watch,
    Written,
)
from pytest_elastic.controller.nodes import NodeLost, Nodes, RemoteNode, RemoteProcess
from pytest_elastic.controller.plan import LaunchPlan
from pytest_elastic.controller.site import Site
from pytest_elastic.messages import CoverageOrder


class There:
    """The controller there, which is a list of what it was told."""

    host = "far"
    shift_ns = 7
    lost = ""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.say: Callable[[Any], None] = lambda _: None
        self.answers: Callable[[Any], None] = lambda _: None
        self.closed: list[str] = []

    def open(self, launch: str, hear: Callable[[Any], None]) -> None:
        self.say = hear

    def close(self, launch: str) -> None:
        self.closed.append(launch)

    def tell(self, message: object) -> None:
        self.told.append(message)
        self.answers(message)


class Peer:
    def __init__(self) -> None:
        self.hung_up = False

    def gone(self) -> bool:
        return self.hung_up


class Holder:
    """The supervisor, which writes down what it is told."""

    def __init__(self) -> None:
        self.noted: list[Any] = []
        self.peers: dict[int | None, Peer] = {}

    def agent_began(self, node: int, process: RemoteProcess) -> None:
        self.noted.append(("agent began", process.pid))

    def agent_peer(self, node: int) -> Any:
        return self.peers.get(None)

    def agent_ended(self, node: int, end: AgentEnded) -> None:
        self.noted.append(("agent ended", end.exitcode))

    def rank_peer(self, node: int, pid: int) -> Any:
        return self.peers.get(pid)

    def rank_ended(self, node: int, pid: int) -> None:
        self.noted.append(("rank ended", pid))

    def node_lost(self, node: int, reason: str) -> None:
        self.noted.append(("lost", reason))


@pytest.fixture
def there() -> There:
    return There()


@pytest.fixture
def plan(tmp_path: Path, there: There) -> LaunchPlan:
    (tmp_path / "logs").mkdir()
    (tmp_path / "coverage").mkdir()
    return LaunchPlan(
        directory=tmp_path / "logs",
        scratch=tmp_path / "launch",
        key=b"the key",
        name="train",
        config={"rdzv_backend": "c10d", "start_method": "spawn", "nproc_per_node": 1},
        agents=2,
        timeout=60.0,
        grace=2.0,
        environ={"SECRET": "of this machine"},
        cwd="/",
        sys_path=[],
        state_key=b"state",
        site=Site(members=(None, there), hosts=("near", "far"), extra={"MINE": "1"}, removed=("GONE",)),
    )


@pytest.fixture
def node(plan: LaunchPlan, there: There) -> RemoteNode:
    return RemoteNode(there, plan, 1, lambda: None)


def begin(node: RemoteNode, plan: LaunchPlan) -> None:
    address = ("127.0.0.1", 1)
    node.start(plan.agent_order(1, address, store_port=None, store_fd=None), plan.rank_order(address), torch_only=False)


def test_neither_keys_nor_this_machines_environment_go_there(node: RemoteNode, plan: LaunchPlan, there: There) -> None:
    begin(node, plan)
    [order] = there.told
    assert isinstance(order, StartAgent)
    assert order.agent.environ == order.ranks.environ == {}
    assert order.agent.key == order.ranks.key == b""
    assert order.agent.state_key is None
    assert (order.extra, order.removed) == ({"MINE": "1"}, ("GONE",))
    assert order.agent.clock_shift_ns == 7
    assert order.launch == "launch"


@pytest.mark.parametrize(
    ("root", "path", "file"),
    [
        ("logs", "world/0/stdout", "logs/world/0/stdout"),
        ("logs", "agent.log", "logs/agent.log"),
        ("logs", "../launch.order", None),
        ("logs", "world/../../evil", None),
        ("logs", "/tmp/evil-of-a-test", None),
        ("logs", "", None),
        ("logs", ".", None),
        ("elsewhere", "file", None),
        ("coverage", "data.1", None),
    ],
)
def test_what_is_written_stays_in_the_directory(
    node: RemoteNode, there: There, plan: LaunchPlan, tmp_path: Path, root: str, path: str, file: str | None
) -> None:
    begin(node, plan)
    there.say(Written(launch="launch", root=root, path=path, offset=0, data=b"text"))
    node.look(Holder())
    files = [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()]
    assert files == ([file] if file is not None else [])
    assert not Path("/tmp/evil-of-a-test").exists()


def test_a_link_in_the_way_is_not_followed(node: RemoteNode, there: There, plan: LaunchPlan, tmp_path: Path) -> None:
    begin(node, plan)
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (plan.directory / "stdout").symlink_to(victim)
    there.say(Written(launch="launch", root="logs", path="stdout", offset=0, data=b"text"))
    there.answers = lambda message: there.say(LaunchEnded(launch="launch", leftovers=()))
    said = node.end(Holder())
    assert victim.read_text() == "as it was"
    assert said.startswith("what ranks on far wrote cannot be kept: ")


def test_parts_are_put_where_they_belong(node: RemoteNode, there: There, plan: LaunchPlan) -> None:
    begin(node, plan)
    for offset, data in ((0, b"one "), (4, b"two "), (8, b"three")):
        there.say(Written(launch="launch", root="logs", path="stdout", offset=offset, data=data))
    node.look(Holder())
    assert (plan.directory / "stdout").read_bytes() == b"one two three"


def test_what_was_measured_is_kept_apart_from_that_of_other_nodes(there: There, plan: LaunchPlan) -> None:
    own = replace(
        plan, coverage=CoverageOrder(config=b"", base="/", files=str(plan.scratch.parent / "coverage" / "data"))
    )
    node = RemoteNode(there, own, 1, lambda: None)
    begin(node, own)
    there.say(Written(launch="launch", root="coverage", path="deep/data.5", offset=0, data=b"lines"))
    node.look(Holder())
    [file] = (plan.scratch.parent / "coverage").iterdir()
    assert (file.name, file.read_bytes()) == ("1-data.5", b"lines")


def waits_for_more(node: RemoteNode) -> bool:
    return node.patience is not None


def test_the_end_comes_after_the_last_words(node: RemoteNode, there: There, plan: LaunchPlan) -> None:
    begin(node, plan)
    holder = Holder()
    holder.peers = {None: Peer(), 11: Peer()}
    there.say(AgentBegan(launch="launch", pid=10))
    node.look(holder)
    rank = node.process(11)
    assert there.told[1:] == [Watch(launch="launch", pid=11)]

    there.say(ProcessEnded(launch="launch", pid=11))
    there.say(AgentEnded(launch="launch", exitcode=1))
    node.look(holder)
    assert holder.noted == [("agent began", 10)]
    assert waits_for_more(node)
    assert rank.alive()

    holder.peers[None].hung_up = True
    node.look(holder)
    assert holder.noted[1:] == [("agent ended", 1)]
    holder.peers[11].hung_up = True
    node.look(holder)
    assert holder.noted[2:] == [("rank ended", 11)]
    assert not waits_for_more(node)
    assert not rank.alive()


def test_last_words_that_do_not_come_are_not_waited_for_for_ever(
    node: RemoteNode, there: There, plan: LaunchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_elastic.controller.nodes._ON_ITS_WAY", 0.0)
    begin(node, plan)
    holder = Holder()
    holder.peers = {11: Peer()}
    node.process(11)
    there.say(ProcessEnded(launch="launch", pid=11))
    node.look(holder)
    assert holder.noted == [("rank ended", 11)]


def test_signals_go_to_what_has_not_ended(node: RemoteNode, there: There, plan: LaunchPlan) -> None:
    begin(node, plan)
    rank = node.process(11)
    assert node.process(11) is rank
    rank.send(signal.SIGTERM)
    assert rank.wake_by(signal.SIGUSR1) is False
    there.say(ProcessEnded(launch="launch", pid=11))
    node.look(Holder())
    rank.send(signal.SIGKILL)
    rank.wake_by(signal.SIGKILL)
    assert there.told[2:] == [
        SendSignal(launch="launch", pid=11, signum=15, wakes=False),
        SendSignal(launch="launch", pid=11, signum=int(signal.SIGUSR1), wakes=True),
    ]


def test_all_is_killed_once_and_only_what_was_started(node: RemoteNode, there: There, plan: LaunchPlan) -> None:
    node.kill()
    assert there.told == []
    begin(node, plan)
    node.kill()
    node.kill()
    assert there.told[1:] == [KillAll(launch="launch")]


def test_nothing_is_heard_of_a_node_that_is_lost(node: RemoteNode, there: There, plan: LaunchPlan) -> None:
    begin(node, plan)
    holder = Holder()
    rank = node.process(11)
    there.say(ProcessEnded(launch="launch", pid=11))
    there.say(NodeLost("the cable"))
    there.say(AgentEnded(launch="launch", exitcode=0))
    there.say(NodeLost("again"))
    node.look(holder)
    assert holder.noted == [("lost", "the cable")]
    assert not rank.alive()
    assert not node.process(12).alive()
    node.sync(1, holder)
    assert node.end(holder) == ""
    assert there.closed == ["launch"]


def test_what_was_written_is_waited_for(node: RemoteNode, there: There, plan: LaunchPlan) -> None:
    begin(node, plan)

    def answer(message: Any) -> None:
        if isinstance(message, Sync):
            there.say(Written(launch="launch", root="logs", path="stdout", offset=0, data=b"text"))
            there.say(Synced(launch="launch", number=message.number))
        elif isinstance(message, EndLaunch):
            there.say(LaunchEnded(launch="launch", leftovers=("a process",)))

    there.answers = answer
    node.sync(1, Holder())
    assert (plan.directory / "stdout").read_bytes() == b"text"
    assert node.end(Holder()) == ""
    assert node.leftovers == ("a process",)


def test_one_that_does_not_answer_is_not_waited_for_for_ever(
    node: RemoteNode, there: There, plan: LaunchPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_SYNC", "_END"):
        monkeypatch.setattr(f"pytest_elastic.controller.nodes.{name}", 0.1)
    begin(node, plan)
    node.sync(1, Holder())
    assert node.end(Holder()) == ""
    assert there.closed == ["launch"]


def test_of_a_launch_only_what_is_elsewhere_is_a_node(plan: LaunchPlan, there: There) -> None:
    nodes = Nodes(plan, lambda: None)
    assert nodes
    assert nodes.remote(0) is None
    assert nodes.remote(1) is not None
    assert nodes.patience() is None
    assert not Nodes(replace(plan, site=Site()), lambda: None)
