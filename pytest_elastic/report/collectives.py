"""What a rank has kept of its last collectives: where each rank was, and at which of them they came apart."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final

from pytest_elastic.report.culprit import Blame, blame_for
from pytest_elastic.report.describe import shortened
from pytest_elastic.report.hosts import named
from pytest_elastic.report.records import RankRecord
from pytest_elastic.report.stacks import fold

LOG_NAME: Final = "collectives.log"
"""In the directory of a rank: what it has begun and ended, a line each."""
NOW_NAME: Final = "collectives.now"
"""In the directory of a rank: what it began last."""
LAST_SIZE: Final = 2048
"""Its size in bytes: a state, and a line."""
BEGUN: Final = b"b"
RETURNED: Final = b"r"
OVER: Final = b"o"
COLLECTIVES: Final = "last collectives"
"""Title of what a report says of them."""
_KEPT: Final = 16
_MOST: Final = 4_000_000
_SAME_ON_ALL: Final = ("all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter")
"""Operations in which all ranks put in tensors of one shape and dtype."""
_SHAPE: Final = re.compile(r"\[[\d, ]*\]")
_DEFAULT: Final = "default_pg"
_UNNAMED: Final = ("", "undefined", _DEFAULT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Collective:
    """An operation of a process group that a rank has begun.

    Attributes:
        operation: ``"all_reduce"``, say.
        seq: Its number in the group, from 1 on; 0 of what is sent from one rank to another.
        tensors: What this rank puts in: ``"[4] float32"``; an empty text of a barrier.
        where: File and line of the user's code, or an empty text.
        called: The function that was called there, if that was not the operation itself.
        peer: ``"to rank 1"``, of what is sent from one rank to another.
        group: Name of its process group.
        description: What the group was made for, as its maker says.
        ranks: Global ranks of the group, in its order; empty if they are not known.
        made: Which of several groups of one name, in the rank's own count from 1 on; 0 where that is not known.
        ended: It is over; ``None`` where nobody saw whether it is: the rank died.
        time_ns: When it was begun, as ``time.time_ns()`` of the rank's machine.
    """

    operation: str
    seq: int
    tensors: str
    where: str
    called: str
    peer: str
    group: str
    description: str
    ranks: tuple[int, ...]
    made: int
    ended: bool | None
    time_ns: int

    def __str__(self) -> str:
        """Return it as a report shows it."""
        return self.shown(number=True)

    def shown(self, *, number: bool) -> str:
        """Return it in a few words.

        Args:
            number: With its number, and that of its group.
        """
        text = self.operation
        if self.peer:
            text += f" {self.peer}"
        if number and self.seq:
            text += f" #{self.seq}"
        if number and self.description != _DEFAULT:
            text += f" in {self.group_text()}"
        if self.tensors:
            text += f" of {self.tensors}"
        called = f"{self.called} at " if self.called and self.called.strip("_") != self.operation else ""
        return f"{text}, {called}{self.where}" if self.where else text

    def group_text(self) -> str:
        """Return which group it belongs to."""
        if self.description == _DEFAULT:
            return "the default group"
        name = "" if self.description in _UNNAMED else f" {shortened(self.description, 40)!r}"
        return f"group{name} of {fold(self.ranks)}" if self.ranks else f"group{name or f' {self.group}'}"


def read_collectives(directory: Path) -> tuple[Collective, ...]:
    """Return what a rank has begun last in its last test, the oldest first; nothing if it kept none."""
    begun: dict[int, Collective] = {}
    begin_ns = 0
    for what, *rest in _read_lines(directory / LOG_NAME):
        try:
            if what == "begin":
                begin_ns = int(rest[0])
            elif what == "ended":
                begun[rest[0]] = replace(begun[rest[0]], ended=True)
            else:
                begun[what] = _make(*rest[1:], ended=bool(rest[0]))
        except (LookupError, TypeError, ValueError):
            continue  # torn, or the test's own
    found = sorted((each for each in begun.values() if each.time_ns >= begin_ns), key=lambda each: each.time_ns)
    now = _read_now(directory / NOW_NAME)
    if now is not None and now.time_ns >= begin_ns and all(each.time_ns < now.time_ns for each in found):
        found.append(now)
    # What a rank waits for may have begun long before its last.
    waited = next((each for each in found[:-_KEPT] if each.ended is False), None)
    return (*([waited] if waited else []), *found[-_KEPT:])


def _read_lines(file: Path) -> Iterator[list[Any]]:
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _MOST))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, list) and value and isinstance(value[0], (int, str)):
            yield value


def _read_now(file: Path) -> Collective | None:
    """Return what a rank began last, as it was noted before."""
    try:
        with file.open("rb") as stream:
            state, text = stream.read(1), stream.readline(LAST_SIZE)
        line = json.loads(text)
        # What has returned is over only where nothing is left to wait for.
        ended = None if state == RETURNED else state == OVER
        return _make(0, *line, ended=ended)
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _make(
    made: int,
    group: str,
    description: str,
    operation: str,
    seq: int,
    tensors: str,
    called: str,
    where: str,
    time_ns: int,
    peer: str,
    ranks: Sequence[int],
    *,
    ended: bool | None,
) -> Collective:
    return Collective(
        operation=str(operation),
        seq=int(seq),
        tensors=str(tensors),
        where=str(where),
        called=str(called),
        peer=str(peer),
        group=str(group),
        description=str(description),
        ranks=tuple(int(rank) for rank in ranks),
        made=int(made),
        ended=ended,
        time_ns=int(time_ns),
    )


# --- what a report says of them ---


def collectives_text(ranks: Sequence[RankRecord]) -> str:
    """Say where each rank was, those at one place together; an empty text if none has begun any.

    Args:
        ranks: The ranks of a world.
    """
    kept = [(rank, read_collectives(rank.directory)) for rank in ranks]
    if not any(begun for _, begun in kept):
        return ""
    places: dict[str, list[int]] = defaultdict(list)
    woken = any(rank.was_stopped for rank in ranks)
    for rank, begun in kept:
        # What it did after it was woken for its stacks does not count.
        stopped = "was stopped by a signal (SIGSTOP)" if rank.was_stopped else ""
        places[stopped or _place(begun, lost_peer=_lost_peer(rank), woken=woken)].append(rank.id.rank)
    # The odd ones first: they are what one looks for.
    groups = sorted(places.items(), key=lambda group: len(group[1]))
    return "\n".join(f"{named(numbers, ranks)}: {place}" for place, numbers in groups)


def came_apart_text(ranks: Sequence[RankRecord]) -> str:
    """Say at which collective the ranks of a world came apart; an empty text if at none that is known.

    That is the first one of a group that is not the same on all ranks that have begun it.
    """
    kept = {rank.id.rank: read_collectives(rank.directory) for rank in ranks if not rank.was_stopped}
    found = [first for group in sorted(_groups(kept)) if (first := _first_that_differs(kept, group))]
    if not found:
        return ""
    first = min(found, key=lambda each: min(one.time_ns for one in each.values()))
    sides: dict[str, list[int]] = defaultdict(list)
    for rank, one in first.items():
        sides[one.shown(number=False)].append(rank)
    one = next(iter(first.values()))
    odd_first = sorted(sides.items(), key=lambda side: len(side[1]))
    told = "; ".join(f"{named(numbers, ranks)} began {what}" for what, numbers in odd_first)
    return f"the ranks came apart at collective #{one.seq} of {one.group_text()}: {told}"


def _groups(kept: Mapping[int, Sequence[Collective]]) -> set[str]:
    return {each.group for begun in kept.values() for each in begun}


def _first_that_differs(kept: Mapping[int, Sequence[Collective]], group: str) -> dict[int, Collective]:
    """Return what each rank has begun under the first number at which they differ; nothing if they never do."""
    by_number: dict[int, dict[int, Collective]] = defaultdict(dict)
    for rank, begun in kept.items():
        own = [each for each in begun if each.group == group and each.seq]
        # Where a group was made anew its numbers begin anew: those of two ranks may be of different groups.
        if len({each.made for each in own if each.made}) > 1:
            return {}
        for each in own:
            by_number[each.seq][rank] = each
    return next((by_number[seq] for seq in sorted(by_number) if _differ(list(by_number[seq].values()))), {})


def _place(begun: Sequence[Collective], *, lost_peer: bool, woken: bool) -> str:
    if not begun:
        return "has begun none"
    last = begun[-1]
    if lost_peer:  # for the recorder one that fails has ended
        return f"failed in {last}"
    first = next((each for each in begun if each.ended is False), last)
    # It may be that one that it waits for.
    more = "" if first is last else f"; the first that has not ended is {first}"
    if last.ended:
        # What waited for a rank that was woken for its stacks may have ended since.
        return f"{'' if more or woken else 'at none, '}its last was {last}{more}"
    return f"{'at' if last.ended is False else 'its last was'} {last}{more}"


def _lost_peer(rank: RankRecord) -> bool:
    said = rank.caught or rank.failed
    return said is not None and blame_for(said.type, said.message) is Blame.LOST_PEER


def _differ(begun: Sequence[Collective]) -> bool:
    if len({each.operation for each in begun}) > 1:
        return True
    if begun[0].operation == "reduce_scatter" and len({each.made > 0 for each in begun}) > 1:
        return False  # gloo makes others of it: what the recorder has is not what was called
    return begun[0].operation in _SAME_ON_ALL and len({_sizes(each.tensors) for each in begun}) > 1


def _sizes(tensors: str) -> str:
    """Return the tensors with the number of their elements: shapes may be others where that is the same."""
    return _SHAPE.sub(lambda found: str(prod(int(size) for size in re.findall(r"\d+", found[0]))), tensors)
