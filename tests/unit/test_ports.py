"""Ports are reserved by locks and claims; no process is started here."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_elastic.errors import PortError
from pytest_elastic.services import ports
from pytest_elastic.services.ports import BLOCK, TORCH_DEFAULTS, PortReservations, blocks_in, usable_ranges

MakePorts = Callable[..., PortReservations]

# Below what the plugin's own fixtures use, so that the session that runs these tests is not in the way.
FEW = (range(12000, 12000 + 2 * BLOCK),)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakePorts]:
    made: list[PortReservations] = []

    def make(*, claims: str | None = None, ranges: tuple[range, ...] | None = None) -> PortReservations:
        claim_dir = tmp_path / claims if claims else None
        made.append(PortReservations(lock_dir=tmp_path / "locks", claim_dir=claim_dir, ranges=ranges))
        return made[-1]

    yield make
    for reservations in made:
        reservations.release()


def test_ports_are_many_different_and_free(make: MakePorts) -> None:
    reservations = make()
    got = reservations.reserve(3 * BLOCK) + reservations.reserve(1)
    assert len(set(got)) == 3 * BLOCK + 1
    for port in got:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", port))


def test_ports_lie_outside_the_ephemeral_range(make: MakePorts) -> None:
    text = ports.read_ephemeral()
    if text is None:
        pytest.skip("this kernel does not tell its ephemeral range")
    first, last = map(int, text.split())
    if first <= 1024 + ports.ENOUGH and last >= 65536 - ports.ENOUGH:
        pytest.skip("this machine has no ports outside its ephemeral range")
    assert not set(range(first, last + 1)).intersection(make().reserve(40))


def test_two_processes_worth_of_reservations_never_share(make: MakePorts) -> None:
    one, two = make(), make()
    got = [port for _ in range(40) for port in (*one.reserve(2), *two.reserve(3))]
    assert len(set(got)) == len(got)


def test_ports_of_an_ended_process_stay_claimed_in_its_run(make: MakePorts) -> None:
    first = make(claims="run", ranges=FEW)
    got = first.reserve(BLOCK)
    first.release()
    assert not set(got).intersection(make(claims="run", ranges=FEW).reserve(BLOCK))


def test_ports_of_an_ended_run_are_given_again(make: MakePorts) -> None:
    first = make(claims="one run", ranges=FEW)
    first.reserve(2 * BLOCK)
    first.release()
    assert len(make(claims="another run", ranges=FEW).reserve(2 * BLOCK)) == 2 * BLOCK


def test_a_port_that_is_in_use_is_not_given(make: MakePorts) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", FEW[0].start))
        assert FEW[0].start not in make(ranges=FEW).reserve(2 * BLOCK - 1)


def test_exhaustion_is_an_error_and_wastes_nothing(make: MakePorts) -> None:
    reservations = make(ranges=FEW)
    with pytest.raises(PortError, match=r"^no port left for 65 more: the 2 blocks of 32 ports") as caught:
        reservations.reserve(2 * BLOCK + 1)
    assert caught.value.wanted == 2 * BLOCK + 1
    assert len(reservations.reserve(2 * BLOCK)) == 2 * BLOCK


def test_no_ranges_left_is_exhaustion(make: MakePorts) -> None:
    with pytest.raises(PortError, match="no port left for 1 more"):
        make(ranges=(range(12000, 12001),)).reserve(1)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "2", None])
def test_a_number_that_is_none_is_refused_in_one_line(make: MakePorts, wrong: object) -> None:
    with pytest.raises(PortError) as caught:
        make().reserve(wrong)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"PortReservations.reserve(n): got {wrong!r}; n is the number of ports, an int from 1 on"
    )


def test_listen_gives_a_listening_socket_on_loopback(make: MakePorts) -> None:
    with make().listen() as sock:
        host, port = sock.getsockname()
        assert host == "127.0.0.1"
        with socket.create_connection((host, port), timeout=5):
            pass


def test_listen_takes_another_port_where_one_was_taken(make: MakePorts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: True)  # as if it was taken right after the test
    reservations = make(ranges=(range(12000, 12000 + BLOCK),))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 12000))
        with reservations.listen() as sock:
            assert sock.getsockname()[1] == 12001


def test_release_leaves_no_lock_file_but_the_guard(make: MakePorts, tmp_path: Path) -> None:
    reservations = make()
    reservations.reserve(3 * BLOCK)
    assert len(list((tmp_path / "locks").iterdir())) >= 4
    reservations.release()
    reservations.release()
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["guard"]


def test_files_that_a_killed_run_left_are_swept(make: MakePorts, tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir(mode=0o700)
    left = tmp_path / "locks" / "11000.lock"
    left.touch()
    held = make(ranges=FEW)
    held.reserve(1)
    assert not left.exists()
    kept = sorted(path.name for path in (tmp_path / "locks").iterdir())
    make(ranges=FEW).reserve(1)
    assert set(kept) <= {path.name for path in (tmp_path / "locks").iterdir()}


def test_a_lock_directory_that_cannot_be_made_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PortError, match=r"cannot reserve ports: no file lock in .*; set TMPDIR to") as caught:
        PortReservations(lock_dir=tmp_path / "file" / "locks", claim_dir=None).reserve(2)
    assert "\n" not in str(caught.value)
    assert caught.value.wanted == 2


def test_a_lock_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks").chmod(0o777)
    with pytest.raises(PortError, match=r"must be a directory of user .* mode 0700, but is drwxrwxrwx"):
        PortReservations(lock_dir=tmp_path / "locks", claim_dir=None).reserve(1)


def test_a_link_as_lock_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "locks").symlink_to(tmp_path / "real")
    with pytest.raises(PortError, match=r"must be a directory of user .* but is l"):
        PortReservations(lock_dir=tmp_path / "locks", claim_dir=None).reserve(1)


def test_a_claim_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reservations = PortReservations(lock_dir=tmp_path / "locks", claim_dir=tmp_path / "file" / "claims")
    with pytest.raises(PortError, match="cannot reserve ports"):
        reservations.reserve(1)
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["guard"]


@pytest.mark.parametrize(
    ("ephemeral", "expected"),
    [
        pytest.param(None, (range(20000, 32768),), id="unknown"),
        pytest.param("32768\t60999\n", (range(20000, 32768), range(61000, 65536)), id="Linux"),
        pytest.param("1024 4999", (range(20000, 20000), range(20000, 65536)), id="all of it below"),
        pytest.param("15000 65535", (range(10000, 15000), range(65536, 65536)), id="low start"),
        pytest.param("10000 65535", (range(1024, 10000), range(65536, 65536)), id="lower start"),
        pytest.param("1024 65535", (range(20000, 32768),), id="everything"),
    ],
)
def test_the_ranges_avoid_what_the_kernel_gives_away(ephemeral: str | None, expected: object) -> None:
    assert usable_ranges(ephemeral) == expected


def test_blocks_start_at_the_same_ports_whatever_the_ranges() -> None:
    blocks = blocks_in((range(20001, 20200),))
    assert [block.start for block in blocks] == [20032, 20064, 20096, 20128, 20160]
    assert set(blocks) <= set(blocks_in((range(19000, 32768),)))


def test_torch_default_ports_are_never_given(make: MakePorts) -> None:
    start = 29400 // BLOCK * BLOCK
    got = make(ranges=(range(start, start + BLOCK),)).reserve(BLOCK - 5)
    assert not TORCH_DEFAULTS.intersection(got)


def test_free_port_is_one_port(free_port: int, free_port_factory: Callable[[int], list[int]]) -> None:
    assert isinstance(free_port, int)
    others = free_port_factory(5)
    assert len({free_port, *others}) == 6


def test_free_port_factory_names_itself(free_port_factory: Callable[[int], list[int]]) -> None:
    with pytest.raises(PortError, match=r"^free_port_factory\(n\): got 0; n is the number of ports, an int"):
        free_port_factory(0)


def test_free_socket_listens(free_socket: socket.socket, free_socket_factory: Callable[[], socket.socket]) -> None:
    with socket.create_connection(free_socket.getsockname(), timeout=5):
        pass
    other = free_socket_factory()
    assert other.getsockname() != free_socket.getsockname()


def test_free_socket_is_closed_after_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        kept = []

        def test_one(free_socket, free_socket_factory):
            kept.extend([free_socket, free_socket_factory()])
            assert all(sock.fileno() >= 0 for sock in kept)

        def test_two():
            assert [sock.fileno() for sock in kept] == [-1, -1]
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_a_session_releases_its_ports(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = pytester.path / "tmp"
    locks.mkdir()
    monkeypatch.setattr(ports, "default_lock_dir", lambda: locks / "locks")
    pytester.makepyfile("def test_one(free_port): assert free_port")
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    assert [path.name for path in (locks / "locks").iterdir()] == ["guard"]


def test_no_lock_directory_fails_the_test_that_asks(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "default_lock_dir", lambda: Path(__file__) / "locks")
    pytester.makepyfile("def test_one(free_port): pass\ndef test_two(): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *PortError: cannot reserve ports: no file lock in *; set TMPDIR to *"])


@pytest.mark.parametrize("claims", [None, "run"])
def test_what_was_too_much_keeps_nothing_from_others(make: MakePorts, claims: str | None) -> None:
    greedy = make(claims=claims, ranges=FEW)
    kept = greedy.reserve(1)
    with pytest.raises(PortError):
        greedy.reserve(2 * BLOCK)
    got = make(claims=claims, ranges=FEW).reserve(BLOCK)  # the other block
    assert not set(got).intersection(kept)
    assert len(set(kept + greedy.reserve(BLOCK - 1))) == BLOCK  # its own it still has
