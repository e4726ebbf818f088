"""Slots, taken by processes that are stood for by objects: file locks do not tell them apart."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from pytest_elastic.services.slots import Lease, Pool, SlotError, Slots, Waiting, Want, told

DEADLINE = 30.0


def cpus(pool: Pool, number: int, of: int = 2) -> Want:
    names = tuple(f"cpu-{index}" for index in range(of))
    return Want(pool=pool, names=names, number=number, what="CPU slots", modest=True)


def devices(pool: Pool, number: int, of: int = 4) -> Want:
    names = tuple(f"cuda-{index}" for index in range(of))
    return Want(pool=pool, names=names, number=number, what="cuda devices")


def take(slots: Slots, *wants: Want, timeout: float | None = None) -> list[Lease]:
    return slots.take(wants, waits=lambda waiting: None, give_back=lambda: None, timeout=timeout)


def now(slots: Slots, *wants: Want) -> list[Lease] | None:
    return slots.take_now(wants)


class Waiter:
    """A process that waits for slots, in a thread."""

    def __init__(self, *wants: Want) -> None:
        self.seen: list[Waiting] = []
        self.leases: list[Lease] = []
        self.has_waited = threading.Event()
        self._thread = threading.Thread(target=self._take, args=(wants,), daemon=True)
        self._thread.start()
        assert self.has_waited.wait(DEADLINE)

    def _take(self, wants: tuple[Want, ...]) -> None:
        def waits(waiting: Waiting) -> None:
            self.seen.append(waiting)
            self.has_waited.set()

        self.leases = Slots().take(wants, waits=waits, give_back=lambda: None, timeout=None)

    def join(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


def test_all_or_nothing(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "machine")
    [lease] = take(Slots(), devices(pool, 3))
    assert lease.names == ("cuda-0", "cuda-1", "cuda-2")
    assert now(Slots(), devices(pool, 2)) is None
    [other] = now(Slots(), devices(pool, 1)) or []
    assert other.names == ("cuda-3",)
    lease.release()
    lease.release()
    [again] = now(Slots(), devices(pool, 3)) or []
    assert again.names == ("cuda-0", "cuda-1", "cuda-2")
    other.release()
    again.release()
    assert [path.name for path in (tmp_path / "machine").iterdir()] == ["guard"]


def test_what_of_several_pools_cannot_be_had_together_is_not_taken(tmp_path: Path) -> None:
    run, machine = Pool(tmp_path / "run"), Pool(tmp_path / "machine")
    [cpu] = take(Slots(), cpus(run, 2))
    assert now(Slots(), devices(machine, 1), cpus(run, 1)) is None
    assert len(now(Slots(), devices(machine, 4)) or []) == 1
    cpu.release()


def test_who_needs_many_is_not_overtaken_by_those_that_need_few(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "run")
    first, second = (take(Slots(), cpus(pool, 1)) for _ in range(2))
    large = Waiter(cpus(pool, 2))
    small = Waiter(cpus(pool, 1))
    assert small.seen[0].ahead == 1
    first[0].release()
    assert now(Slots(), cpus(pool, 1)) is None  # one is free, but others stand in the queue
    assert large.leases == small.leases == []
    second[0].release()
    large.join()
    assert small.leases == []
    large.leases[0].release()
    small.join()
    small.leases[0].release()


def test_a_process_that_works_does_not_wait_for_more(tmp_path: Path) -> None:
    run, machine = Pool(tmp_path / "run"), Pool(tmp_path / "machine")
    mine, others = Slots(), Slots()
    outer = take(mine, devices(machine, 2), cpus(run, 2))
    foreign = take(others, devices(machine, 1))
    device_lease, cpu_lease = take(mine, devices(machine, 3), cpus(run, 2))
    assert device_lease.names == ("cuda-3", "cuda-0", "cuda-1")
    assert cpu_lease.names == ("cpu-0", "cpu-1")
    with pytest.raises(SlotError, match=r"^needs 4 cuda devices, which others have had for 0 s$"):
        take(mine, devices(machine, 4), timeout=0.0)
    for lease in (*outer, *foreign):
        lease.release()
    # What two launches share is nobody else's until both are over.
    assert now(Slots(), cpus(run, 1)) is None
    [free] = now(Slots(), devices(machine, 1)) or []
    assert free.names == ("cuda-2",)
    for lease in (free, device_lease, cpu_lease):
        lease.release()
    for directory in ("run", "machine"):
        assert [path.name for path in (tmp_path / directory).iterdir()] == ["guard"]


def test_launches_share_evenly_what_their_test_has(tmp_path: Path) -> None:
    machine, mine = Pool(tmp_path / "machine"), Slots()
    leases = [take(mine, devices(machine, 1))[0] for _ in range(6)]
    assert [lease.names[0] for lease in leases] == ["cuda-0", "cuda-1", "cuda-2", "cuda-3", "cuda-0", "cuda-1"]
    for lease in leases:
        lease.release()


def test_who_waits_holds_up_those_only_who_want_the_same(tmp_path: Path) -> None:
    run, machine = Pool(tmp_path / "run"), Pool(tmp_path / "machine")
    [held] = take(Slots(), devices(machine, 1, of=1))
    waiter = Waiter(devices(machine, 1, of=1), cpus(run, 2))
    others = Want(pool=machine, names=("cuda-7",), number=1, what="cuda devices")
    leases = now(Slots(), others, cpus(run, 2))
    assert leases is not None
    assert now(Slots(), devices(machine, 2)) is None
    for lease in (*leases, held):
        lease.release()
    waiter.join()
    for lease in waiter.leases:
        lease.release()


def test_more_than_there_are_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SlotError, match=r"^needs 5 cuda devices, of which there are 4$"):
        take(Slots(), devices(Pool(tmp_path / "machine"), 5))


def test_what_is_idle_is_given_back_before_anybody_waits(tmp_path: Path) -> None:
    machine, slots = Pool(tmp_path / "machine"), Slots()
    [kept] = take(slots, devices(machine, 3))
    kept.idle = True
    asked: list[str] = []

    def give_back() -> None:
        asked.append("asked")
        kept.release()

    def waits(waiting: Waiting) -> None:
        pytest.fail("it has waited")

    [lease] = slots.take([devices(machine, 4)], waits=waits, give_back=give_back, timeout=None)
    assert asked == ["asked"]
    lease.release()


def test_nothing_is_taken_for_nothing(tmp_path: Path) -> None:
    assert take(Slots(), devices(Pool(tmp_path / "machine"), 0)) == []
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_wait_leaves_the_queue(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "run")
    [lease] = take(Slots(), cpus(pool, 2))

    def interrupt(waiting: Waiting) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Slots().take([cpus(pool, 1)], waits=interrupt, give_back=lambda: None, timeout=None)
    lease.release()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["guard"]


@pytest.mark.parametrize("seed", range(3))
def test_no_clash_and_no_deadlock_whoever_wants_what(tmp_path: Path, seed: int) -> None:
    run, machine = Pool(tmp_path / "run"), Pool(tmp_path / "machine")
    users: dict[str, int] = {}
    clashes: list[str] = []

    def work(number: int) -> None:
        dice, slots = random.Random(seed * 100 + number), Slots()
        for _ in range(12):
            wants = [devices(machine, dice.randint(0, 4)), cpus(run, dice.randint(0, 2))]
            leases = take(slots, *wants)
            names = [name for lease in leases for name in lease.names]
            for name in names:
                if users.setdefault(name, number) != number:
                    clashes.append(name)
            time.sleep(dice.random() / 1000)
            for name in names:
                users.pop(name, None)
            for lease in dice.sample(leases, len(leases)):
                lease.release()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    assert clashes == []


def test_a_directory_of_somebody_else_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(SlotError, match=r"^cannot take slots: no file lock in .* mode 0700"):
        take(Slots(), cpus(Pool(tmp_path / "open"), 1))


def test_what_is_wanted_in_words(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    assert told([devices(pool, 1), cpus(pool, 2)]) == "1 cuda device and 2 CPU slots"
    assert told([devices(pool, 0), cpus(pool, 1)]) == "1 CPU slot"
