from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_elastic.cluster import launchers
from pytest_elastic.cluster.ancestors import launcher_process
from pytest_elastic.cluster.launchers import step_port
from pytest_elastic.cluster.membership import IN_RANK, TAKEN, Membership, find_membership, give_back, take
from pytest_elastic.cluster.node_list import first_node, tasks_per_node
from pytest_elastic.controller.environment import LAUNCH_MARK
from pytest_elastic.options import SETTINGS, Given

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "head",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RUN_ID": "run",
    "TORCHELASTIC_RESTART_COUNT": "3",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_NAMESPACE": "366739457",
}
MPICH = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "4"}
SRUN = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "5",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_STEP_NODELIST": "node[03-04]",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
INDEXED = {"JOB_COMPLETION_INDEX": "1"}
LAUNCHERS: dict[str, Mapping[str, str]] = {
    "torchrun": TORCHRUN,
    "Open MPI": OPEN_MPI,
    "MPICH": MPICH,
    "srun": SRUN,
    "Kubernetes": INDEXED,
}
ENDPOINT = {"rdzv_endpoint": "other:1234"}
TWO = {"nodes": 2, **ENDPOINT}


def given(values: Mapping[str, Any], *, ini: bool = False) -> dict[str, Given]:
    return {
        name: Given(value, f"ini {SETTINGS[name].ini}" if ini else SETTINGS[name].flag_name)
        for name, value in values.items()
    }


def find(environ: Mapping[str, str], **values: Any) -> Membership | None:
    return find_membership(environ, given(values))


def found(environ: Mapping[str, str], **values: Any) -> Membership:
    membership = find(environ, **values)
    assert membership is not None
    return membership


def refusal(environ: Mapping[str, str], **values: Any) -> str:
    with pytest.raises(pytest.UsageError) as error:
        find(environ, **values)
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 500
    assert "got " in text
    assert "expected " in text
    return text


def test_nothing_is_said_of_other_members() -> None:
    assert find({}) is None
    assert find({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "head", "MASTER_PORT": "1"}) is None  # left in a shell


def test_torchrun_with_one_pytest_on_each_node() -> None:
    membership = found(TORCHRUN)
    assert membership == Membership(
        launcher="torchrun",
        rank=1,
        size=2,
        local_rank=0,
        local_size=1,
        node=1,
        nodes=2,
        host="head",
        port=29400,
        store=True,
        attempt=3,
        run_id="run",
    )
    assert not membership.in_place
    assert str(membership) == "node 1"


def test_torchrun_with_one_pytest_for_each_rank() -> None:
    world = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    membership = found({**TORCHRUN, **world})
    assert membership.in_place
    assert (membership.rank, membership.size, membership.node, membership.nodes) == (3, 4, 1, 2)
    assert str(membership) == "rank 3"


def test_torchrun_whose_agents_do_not_share_their_store() -> None:
    membership = found({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "False"})
    assert (membership.host, membership.port, membership.store) == ("head", 29400, False)


def test_torchrun_with_an_address_in_brackets() -> None:
    assert found({**TORCHRUN, "MASTER_ADDR": "[::1]"}).host == "::1"


def test_a_world_of_one_is_an_ordinary_session() -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"}
    assert find({**TORCHRUN, **alone}) is None
    assert find({**TORCHRUN, **alone}, **ENDPOINT) is None
    assert find({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}) is None
    assert find({**MPICH, "PMI_RANK": "0", "PMI_SIZE": "1"}) is None
    shell = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0"}
    assert find({**SRUN, **shell}) is None
    refusal({**TORCHRUN, **alone}, nodes=2)


@pytest.mark.parametrize("environ", [OPEN_MPI, MPICH], ids=["Open MPI", "MPICH"])
def test_mpirun_is_in_place_and_meets_by_a_file(environ: Mapping[str, str]) -> None:
    membership = found(environ)
    assert membership.in_place
    assert membership.launcher == "mpirun"
    assert (membership.rank, membership.size, membership.local_rank, membership.local_size) == (2, 4, 2, 4)
    assert (membership.node, membership.nodes, membership.host, membership.port) == (0, 1, None, 0)
    assert found({**environ, "RANK": "7"}) == membership
    assert membership.run_id == (environ.get("PMIX_NAMESPACE") or launcher_process("no such program"))


def test_mpirun_with_one_rank_on_each_node_is_in_place_too() -> None:
    one = {"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    membership = found({**OPEN_MPI, **one}, **ENDPOINT)
    assert membership.in_place
    assert (membership.node, membership.nodes, membership.host, membership.port) == (2, 3, "other", 1234)


@pytest.mark.parametrize(
    ("rank", "local_rank", "node"),
    [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1), (1, 0, 1), (2, 1, 0)],
    ids=["first", "second by node", "third by node", "last", "second in turn", "third in turn"],
)
def test_the_node_of_a_rank_of_mpirun(rank: int, local_rank: int, node: int) -> None:
    local = {"PMI_RANK": str(rank), "MPI_LOCALRANKID": str(local_rank), "MPI_LOCALNRANKS": "2"}
    assert found({**MPICH, **local}, **ENDPOINT).node == node


def test_mpirun_over_hosts_needs_an_endpoint() -> None:
    text = refusal({**MPICH, "PMI_RANK": "3", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"})
    assert text == (
        "mpirun: got 2 nodes and no --elastic-rdzv-endpoint, expected host:port of the node of rank 0: add "
        "--elastic-rdzv-endpoint=host:port"
    )


def test_a_step_of_slurm_with_one_task_on_each_node() -> None:
    membership = found(SRUN)
    assert membership == Membership(
        launcher="srun",
        rank=1,
        size=2,
        local_rank=0,
        local_size=1,
        node=1,
        nodes=2,
        host="node03",
        port=step_port(1234, 5),
        store=False,
        attempt=0,
        run_id="1234.5",
    )
    assert found({**SRUN, "SLURM_RESTART_COUNT": "2"}).attempt == 2


def test_a_step_of_slurm_with_several_tasks_on_each_node_is_in_place() -> None:
    tasks = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_PROCID": "3"}
    membership = found({**SRUN, **tasks, "SLURM_LOCALID": "1"})
    assert membership.in_place
    assert (membership.rank, membership.size, membership.local_rank, membership.local_size) == (3, 4, 1, 2)


def test_a_step_of_slurm_on_one_node_meets_by_a_file() -> None:
    one = {"SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}
    membership = found({**SRUN, **one})
    assert (membership.host, membership.port, membership.store) == (None, 0, False)


def test_a_batch_script_of_slurm_is_an_ordinary_session() -> None:
    assert find({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "2"}) is None


def test_ports_of_steps_are_apart_and_below_those_that_systems_give_out() -> None:
    ports = {step_port(job, step) for job in range(1000, 1100) for step in range(3)}
    assert len(ports) == 300
    assert min(ports) >= 20_000
    assert step_port(2**32 - 1, 2**32 - 1) < 32_768


def test_an_indexed_job_needs_its_number_of_nodes_and_an_endpoint() -> None:
    assert find(INDEXED) is None
    membership = found(INDEXED, **TWO)
    assert membership.launcher == "Kubernetes"
    assert (membership.rank, membership.size, membership.host, membership.port) == (1, 2, "other", 1234)
    assert not membership.in_place
    assert "no --elastic-rdzv-endpoint" in refusal(INDEXED, nodes=2)
    assert "no --elastic-nodes" in refusal(INDEXED, **ENDPOINT)
    assert refusal({"JOB_COMPLETION_INDEX": "2"}, **TWO).startswith("Kubernetes: JOB_COMPLETION_INDEX: got 2 with")


def test_options_alone() -> None:
    membership = found({}, node_rank=1, **TWO)
    assert membership == Membership(
        launcher="options",
        rank=1,
        size=2,
        local_rank=0,
        local_size=1,
        node=1,
        nodes=2,
        host="other",
        port=1234,
        store=False,
        attempt=0,
        run_id="other:1234",
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"node_rank": 1}, "--elastic-node-rank: got 1 and no --elastic-nodes, expected both on every node: add "),
        ({"node_rank": 1, "nodes": 2}, "--elastic-node-rank: got 1 and no --elastic-rdzv-endpoint, expected both "),
        ({"node_rank": 1, **ENDPOINT}, "--elastic-node-rank: got 1 and no --elastic-nodes, expected both on every "),
        (TWO, "--elastic-nodes: got 2 and no --elastic-node-rank, expected it on every node, or the environment "),
        ({"nodes": 2}, "--elastic-nodes: got 2 and no --elastic-node-rank, expected it on every node, or the "),
        (ENDPOINT, "--elastic-rdzv-endpoint: got 'other:1234' and no --elastic-nodes, expected both, or "),
        ({"node_rank": 2, **TWO}, "--elastic-node-rank: got 2 with --elastic-nodes 2, expected an int from 0 to 1: "),
        ({"node_rank": 1, "nodes": 1}, "--elastic-node-rank: got 1 with --elastic-nodes 1, expected 0: nodes are "),
    ],
)
def test_half_of_the_options_is_refused(values: dict[str, Any], text: str) -> None:
    assert refusal({}, **values).startswith(text)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_node_is_an_ordinary_session_whatever_the_environment(launcher: str) -> None:
    assert find(LAUNCHERS[launcher], nodes=1) is None
    assert find(LAUNCHERS[launcher], nodes=1, node_rank=0, **ENDPOINT) is None


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_options_win_over_the_environment(launcher: str) -> None:
    assert found(LAUNCHERS[launcher], node_rank=0, **TWO) == found({}, node_rank=0, **TWO)


@pytest.mark.parametrize("launcher", ["torchrun", "Open MPI", "MPICH", "srun"])
def test_the_endpoint_of_an_option_wins_over_that_of_the_launcher(launcher: str) -> None:
    environ = dict(LAUNCHERS[launcher])
    expected = dataclasses.replace(found(environ), host="other", port=1234, store=False)
    for name in ("MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NODELIST"):
        environ.pop(name, None)
    assert found(environ, **ENDPOINT) == expected


def test_another_number_of_nodes_than_the_launcher_has_is_refused() -> None:
    assert found(TORCHRUN, nodes=2) == found(TORCHRUN)
    text = refusal(TORCHRUN, nodes=3)
    assert text.startswith("--elastic-nodes: got 3, expected 2, the number of nodes that torchrun has started: ")
    with pytest.raises(pytest.UsageError, match=r"^ini elastic_nodes: got 3"):
        find_membership(TORCHRUN, given({"nodes": 3}, ini=True))


BROKEN = [
    *((TORCHRUN, name) for name in TORCHRUN if not name.startswith("TORCHELASTIC_")),
    *((OPEN_MPI, name) for name in OPEN_MPI if name not in ("OMPI_COMM_WORLD_RANK", "PMIX_NAMESPACE")),
    *((MPICH, name) for name in MPICH if name not in ("PMI_RANK", "MPI_LOCALRANKID")),
    *((SRUN, name) for name in SRUN if name not in ("SLURM_STEP_ID", "SLURM_STEP_TASKS_PER_NODE")),
]


@pytest.mark.parametrize(("environ", "name"), BROKEN, ids=[name for _, name in BROKEN])
def test_half_of_an_environment_is_refused(environ: dict[str, str], name: str) -> None:
    text = refusal({key: value for key, value in environ.items() if key != name})
    assert f": environment variable {name}: got none, expected " in text
    assert text.endswith("--elastic-nodes=1 runs the tests on this machine alone")


WRONG = ["", " ", "-1", "x", "1.5", "9" * 5000, "٣", "1\n2", "\0"]


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        *BROKEN,
        (TORCHRUN, "TORCHELASTIC_RESTART_COUNT"),
        (TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE"),
        (OPEN_MPI, "OMPI_COMM_WORLD_RANK"),
        (MPICH, "PMI_RANK"),
        (MPICH, "MPI_LOCALRANKID"),
        (SRUN, "SLURM_STEP_ID"),
    ],
)
def test_a_wrong_environment_is_refused(environ: dict[str, str], name: str) -> None:
    for value in WRONG:
        if name not in ("MASTER_ADDR", "SLURM_STEP_NODELIST") or not value.strip() or not value.isprintable():
            text = refusal({**environ, name: value})
            assert f"environment variable {name}: got " in text


@pytest.mark.parametrize(
    ("environ", "name", "value"),
    [
        (TORCHRUN, "RANK", "2"),
        (TORCHRUN, "LOCAL_RANK", "1"),
        (TORCHRUN, "GROUP_RANK", "2"),
        (TORCHRUN, "MASTER_PORT", "65536"),
        (OPEN_MPI, "OMPI_COMM_WORLD_RANK", "4"),
        (MPICH, "MPI_LOCALRANKID", "4"),
        (SRUN, "SLURM_NODEID", "2"),
        (SRUN, "SLURM_LOCALID", "1"),
    ],
)
def test_what_does_not_fit_together_is_refused(environ: dict[str, str], name: str, value: str) -> None:
    assert f"environment variable {name}: got '{value}', expected an int from " in refusal({**environ, name: value})


@pytest.mark.parametrize(
    "environ",
    [
        {**TORCHRUN, "WORLD_SIZE": "3"},
        {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "3"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "3,1"},
    ],
)
def test_unequal_numbers_on_nodes_are_refused(environ: dict[str, str]) -> None:
    assert ", expected equally many on every node: " in refusal(environ)


def test_a_first_task_on_another_node_than_the_first_is_refused() -> None:
    assert "SLURM_NODEID=1" in refusal({**SRUN, "SLURM_PROCID": "0"})
    assert found({**SRUN, "SLURM_PROCID": "0"}, **ENDPOINT).host == "other"


def test_the_launcher_that_was_last_counts() -> None:
    assert found({**SRUN, **TORCHRUN}).launcher == "torchrun"
    assert found({**SRUN, **OPEN_MPI}).launcher == "mpirun"
    assert found({**SRUN, **MPICH}).launcher == "mpirun"
    assert found({**SRUN, "PMI_RANK": "1", "PMI_SIZE": "2"}).launcher == "srun"  # srun --mpi=pmi2


class TestTaken:
    @pytest.fixture(autouse=True)
    def clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(TAKEN, "")

    @pytest.mark.parametrize("launcher", LAUNCHERS)
    def test_a_session_in_this_process_or_in_one_that_it_starts_is_none(
        self, launcher: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        environ = LAUNCHERS[launcher]
        values = TWO if launcher == "Kubernetes" else {}
        membership = found(environ, **values)
        take(membership)
        inherited = {**environ, TAKEN: os.environ[TAKEN]}
        try:
            assert find(inherited, **values) is None
            another = {**inherited, TAKEN: os.environ[TAKEN].replace(str(os.getpid()), "1")}
            assert find(another, **values) is None
        finally:
            give_back(membership)
            monkeypatch.setenv(TAKEN, "")
        assert find(environ, **values) == membership
        assert find(inherited, **values) == membership  # this process was replaced by another program
        assert find(another, **values) is None

    def test_what_it_inherits_need_not_be_whole(self) -> None:
        environ = {"TORCHELASTIC_RUN_ID": "run", "RANK": "x", TAKEN: "1 run"}
        assert find(environ) is None
        assert find_membership({TAKEN: "1 other:1234"}, given(TWO, ini=True)) is None

    def test_options_that_it_inherits(self) -> None:
        assert find({TAKEN: "1 other:1234"}, node_rank=1, **TWO) is None  # by PYTEST_ADDOPTS
        assert find({TAKEN: "1 other:1235"}, node_rank=1, **TWO) is not None

    def test_one_that_a_launcher_of_its_own_has_started_is_a_member(self) -> None:
        assert find({**TORCHRUN, TAKEN: "1 another run"}) is not None
        assert find({**TORCHRUN, TAKEN: "1 run"}) is None

    def test_what_a_rank_starts_is_none(self) -> None:
        assert IN_RANK == LAUNCH_MARK
        assert find({**TORCHRUN, IN_RANK: "a"}) is None
        assert find({"TORCHELASTIC_RUN_ID": "a", IN_RANK: "a"}) is None
        assert find({IN_RANK: "a"}, nodes=2) is None
        assert find({**TORCHRUN, IN_RANK: "a"}, node_rank=0, **TWO) is not None


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("head", "head"),
        ("gpu01,node[1-3,7]", "gpu01"),
        ("node[1-3,7],gpu01", "node1"),
        ("node[007-011]", "node007"),
        ("node[7,1-3]", "node7"),
        ("rack[1-2]node[3,5].example.org", "rack1node3.example.org"),
        ("a_b-c.d", "a_b-c.d"),
        ("", None),
        ("(null)", None),
        ("None assigned,", None),
        ("node[", None),
        ("node[]", None),
        ("node[1-]", None),
        ("node[1,,2]", None),
        ("node[a-b]", None),
        ("node1,", None),
        (",node1", None),
        ("node1 node2", None),
        ("node1;rm", None),
        ("[1-2]", None),
        ("-node", None),
        ("нода", None),
        ("node1\n", None),
        ("node[1-2", None),
        ("node1-2]", None),
    ],
)
def test_lists_of_nodes(text: str, first: str | None) -> None:
    assert first_node(text) == first


@pytest.mark.parametrize(
    ("text", "counts"),
    [("2", [2]), ("2(x3)", [2]), ("2(x3),1", [2, 1]), ("2,2", [2, 2]), ("", None), ("x", None), ("2(x)", None)],
)
def test_numbers_of_tasks(text: str, counts: list[int] | None) -> None:
    assert tasks_per_node(text) == counts


def test_the_process_that_started_others_is_named_by_when_it_started() -> None:
    parent = launcher_process("no such program")
    assert parent.startswith(f"{os.getppid()}-")
    assert parent == launcher_process("no such program")


def test_every_launcher_is_read() -> None:
    assert {launchers.launcher_of(environ) for environ in LAUNCHERS.values()} == {*launchers.READ, None}
