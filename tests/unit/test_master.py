"""What node 0 tells the others through a store to which everybody can write."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.distributed import HashStore, PrefixStore, Store
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStateError,
    RendezvousStoreInfo,
)

from pytest_elastic.agent.logs import RankLogs
from pytest_elastic.agent.master import Master, decode_master
from pytest_elastic.agent.rendezvous import FreshPort
from pytest_elastic.controller.peers import RankState
from pytest_elastic.controller.roster import Roster
from pytest_elastic.messages import RankId

KEY = b"key of the run"
MASTER = Master(port=29400, world="0123456789ab")
REFUSED = "^MASTER_PORT of the rendezvous was not written by an agent of this run: "


class OneRound(RendezvousHandler):
    """A rendezvous that is always complete: two nodes that share a store."""

    def __init__(self, store: Store, rank: int) -> None:
        self._store = store
        self._rank = rank

    def get_backend(self) -> str:
        return "local"

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(self._store, self._rank, 2, RendezvousStoreInfo("", 0))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return "run"

    def shutdown(self) -> bool:
        return True


def port_of(info: RendezvousInfo) -> int:
    assert info.bootstrap_store_info is not None
    return info.bootstrap_store_info.master_port


class Written(HashStore):
    """A store in which somebody else's value is what everybody reads."""

    value = b""

    def get(self, key: str) -> bytes:
        return self.value


@pytest.mark.parametrize("key", [KEY, None])
def test_nodes_agree(key: bytes | None) -> None:
    store = HashStore()
    nodes = [FreshPort(OneRound(store, rank), key) for rank in range(2)]
    infos = [node.next_rendezvous() for node in nodes]
    try:
        assert nodes[0].world == nodes[1].world
        assert nodes[0].port == nodes[1].port == port_of(infos[1])
        assert decode_master(PrefixStore("pytest_elastic", store).get("master"), key, "run").port == nodes[0].port
    finally:
        nodes[0].shutdown()


def test_node_0_does_not_believe_the_store() -> None:
    store = Written()
    store.value = Master(port=1, world="f" * 12).encode(KEY, "run")
    node = FreshPort(OneRound(store, 0), KEY)
    info = node.next_rendezvous()
    try:
        assert (node.world == "f" * 12, node.port == 1, port_of(info) == node.port) == (False, False, True)
    finally:
        node.shutdown()


GOOD = MASTER.encode(KEY, "run")
UNSIGNED = MASTER.encode(None, "run")


@pytest.mark.parametrize(
    "found",
    [
        b"1 /tmp/elsewhere",
        b"29400 0123456789ab",
        UNSIGNED,
        MASTER.encode(b"another key", "run"),
        MASTER.encode(KEY, "another run"),
        GOOD.replace(b"29400", b"29401"),
        GOOD.replace(b"0123", b"0124"),
        GOOD + b"\n",
        GOOD[:-1],
        b"",
        b"\xff" * 80,
    ],
)
def test_what_nobody_of_this_run_has_written_is_refused(found: bytes) -> None:
    with pytest.raises(RendezvousStateError, match=REFUSED):
        decode_master(found, KEY, "run")
    assert decode_master(GOOD, KEY, "run") == decode_master(UNSIGNED, None, "run") == MASTER


@pytest.mark.parametrize("world", ["/tmp/elsewhere", "../elsewhere", "0123456789aB", "..", "0123456789ab/", ""])
@pytest.mark.parametrize("port", [b"1", b"0", b"65536", b"01", "٣".encode()])
def test_also_where_others_take_part_it_is_read_strictly(world: str, port: bytes) -> None:
    with pytest.raises(RendezvousStateError, match=REFUSED):
        decode_master(port + f" {world} unsigned".encode(), None, "run")


def rank_of(world: str) -> RankId:
    return RankId(world=world, rank=0, local_rank=0, node=0, group_rank=0, world_size=1, restart=0)


@pytest.mark.parametrize("world", ["/elsewhere", "a/b", "..", ".", "", "a\0"])
def test_a_world_that_leads_elsewhere_is_no_directory(tmp_path: Path, world: str) -> None:
    with pytest.raises(ValueError, match="which is no name of a directory"):
        Roster().rank(rank_of(world))
    with pytest.raises(ValueError, match="which is no name of a directory"):
        RankState(rank_of(world)).directory_in(tmp_path)
    with pytest.raises(ValueError, match="which is no name of a directory"):
        logs_in(tmp_path, world).reify({0: dict(ENVIRONMENT)})
    assert list(tmp_path.iterdir()) == []


ENVIRONMENT = {
    "RANK": "0",
    "ROLE_RANK": "0",
    "GROUP_RANK": "0",
    "WORLD_SIZE": "1",
    "ROLE_WORLD_SIZE": "1",
    "TORCHELASTIC_RESTART_COUNT": "0",
}


def logs_in(directory: Path, world: str) -> RankLogs:
    return RankLogs(directory=directory, order=directory / "order", node=0, world=lambda: world)


@pytest.mark.parametrize("name", ["RANK", "ROLE_RANK", "WORLD_SIZE", "ROLE_WORLD_SIZE"])
def test_ranks_are_numbers(tmp_path: Path, name: str) -> None:
    for value in ("-1", "x", "1.5", "1\0", "1" * 400):
        with pytest.raises(ValueError, match=f"^{name} of local rank 0 would be .*, no number: "):
            logs_in(tmp_path, "w").reify({0: {**ENVIRONMENT, name: value}})
    assert list(tmp_path.iterdir()) == []
    logs_in(tmp_path, "w").reify({0: dict(ENVIRONMENT)})
    assert (tmp_path / "w" / "0").is_dir()
