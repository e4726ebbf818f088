"""Keeps the last collectives of this rank in files, for the case that it fails, hangs or dies.

torch's flight recorder knows them all, also those that C++ begins by itself (DDP, functional collectives), but it is in
memory, and a rank that dies takes it along: a thread writes it down twice a second. What Python calls is besides noted
in mapped memory right before it begins, since gloo ends the process where the sizes of two ranks do not fit. That note
also tells where it was called: the recorder would have to import torch's compiler to name its frames, which takes
seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import mmap
import os
import pickle
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from json import dumps  # a test may replace that of the module
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

from pytest_elastic import clock, kernel
from pytest_elastic.report.collectives import BEGUN, LAST_SIZE, LOG_NAME, NOW_NAME, OVER, RETURNED
from pytest_elastic.report.stacks import is_internal
from pytest_elastic.worker.measuring import Measurement
from pytest_elastic.worker.prime import when_imported
from pytest_elastic.worker.regularly import Regularly

_INTERVAL: Final = 0.5
_RECORDED: Final = "64"
"""How many torch's recorder keeps, unless the user has said so."""
_WRITTEN: Final = 16
"""How many of them are written down in one turn."""
_LOOKS: Final = 5
_MOMENT: Final = 0.002
_FRAMES: Final = 40
_TENSORS: Final = 3
_BUSY: Final = 1.0
"""Seconds to wait for another thread that writes; a signal's handler may also have interrupted that very one."""

_DTYPES: Final = {
    "Bool": "bool",
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Half": "float16",
    "Float": "float32",
    "Double": "float64",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
"""Names of dtypes in C++, where they are not those of Python in capitals."""

_CALLS: Final[dict[str, tuple[str, int]]] = {
    "allreduce": ("all_reduce", 0),
    "allreduce_coalesced": ("all_reduce", 0),
    "broadcast": ("broadcast", 0),
    "reduce": ("reduce", 0),
    "allgather": ("all_gather", 1),
    "allgather_coalesced": ("all_gather", 1),
    "allgather_into_tensor_coalesced": ("all_gather", 1),
    "_allgather_base": ("all_gather", 1),
    "all_gather_single": ("all_gather", 1),
    "gather": ("gather", 1),
    "scatter": ("scatter", 1),
    "reduce_scatter": ("reduce_scatter", 1),
    "_reduce_scatter_base": ("reduce_scatter", 1),
    "reduce_scatter_single": ("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced": ("reduce_scatter", 1),
    "alltoall": ("all_to_all", 1),
    "alltoall_base": ("all_to_all", 1),
    "all_to_all_single": ("all_to_all", 1),
    "barrier": ("barrier", -1),
    "monitored_barrier": ("monitored_barrier", -1),
    "send": ("send", 0),
    "recv": ("recv", 0),
    "recv_anysource": ("recv", 0),
}
"""Methods of a process group: what they are called, and which argument holds what this rank puts in."""
_PAIRS: Final = {"send": "to", "recv": "from"}


class KeptCollectives(Measurement):
    """The collectives of this rank, kept for the controller.

    Args:
        directory: Directory of the rank's output.
    """

    def __init__(self, directory: Path) -> None:
        self._owner = kernel.own_pid()
        self._log = directory / LOG_NAME
        self._writing = threading.Lock()
        self._last_dump = b""
        self._written: dict[int, bool] = {}
        self._calls: deque[_Call] = deque(maxlen=int(_RECORDED))
        self._pairs: deque[_Pair] = deque(maxlen=_WRITTEN)
        self._pair_numbers = itertools.count(-1, -1)
        self._names: dict[int, tuple[str, str]] = {}
        # Read when the first process group is made.
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", _RECORDED)
        self._now = _mapped(directory / NOW_NAME)
        when_imported("torch.distributed.distributed_c10d", self._listen)
        self._turns = Regularly(self._write, interval=_INTERVAL)
        atexit.register(self.end)

    def end(self) -> None:
        """Write down what is left, and end the thread."""
        self._turns.end()
        self.save()

    def begin_test(self, nodeid: str) -> None:  # noqa: ARG002 (of the interface)
        """Leave aside what earlier tests of this rank did."""
        if kernel.own_pid() == self._owner:
            self._append([["begin", clock.wall_ns()]])

    def save(self) -> None:
        """Write down what has happened since the last time."""
        self._write()
        # Whoever waited for one goes on a moment before the recorder has its end.
        for _ in range(_LOOKS):
            if all(self._written.values()) or kernel.own_pid() != self._owner:
                break
            kernel.pause(_MOMENT)
            self._write()

    def _write(self) -> None:
        if kernel.own_pid() != self._owner or not self._writing.acquire(timeout=_BUSY):
            return
        try:
            with contextlib.suppress(Exception):  # the recorder is private, and the test may have changed anything
                self._append([*self._recorded(), *self._between_two()])
        finally:
            self._writing.release()

    def _append(self, lines: Sequence[Sequence[object]]) -> None:
        if lines:
            text = "".join(dumps(line) + "\n" for line in lines)
            with contextlib.suppress(OSError), self._log.open("ab", buffering=0) as file:
                file.write(text.encode())

    # --- what torch has recorded ---

    def _recorded(self) -> Iterable[Sequence[object]]:
        c10d = sys.modules.get("torch._C._distributed_c10d")
        if c10d is None or "torch.distributed.distributed_c10d" not in sys.modules:
            return
        dump: bytes = _dump(c10d)
        if dump == self._last_dump:
            return
        self._last_dump = dump
        entries = [entry for entry in pickle.loads(dump)["entries"] if self._named(entry)]
        there = {int(entry["record_id"]) for entry in entries}
        for number in [number for number, ended in self._written.items() if number not in there]:
            if not self._written.pop(number):
                yield ["ended", number]  # long ago: so many others have come after it
        # One that has not ended tells what is waited for, however many have begun after it.
        first = next((entry for entry in entries[:-_WRITTEN] if not _ended(entry)), None)
        for entry in [*([first] if first else []), *entries[-_WRITTEN:]]:
            number, ended = int(entry["record_id"]), _ended(entry)
            if number not in self._written:
                yield self._line_of(entry, number, ended)
            elif ended and not self._written[number]:
                yield ["ended", number]
            self._written[number] = ended

    def _named(self, entry: dict[str, Any]) -> bool:
        """Tell whether an entry is of a named group, and name it where TORCH_DISTRIBUTED_DEBUG=DETAIL leaves that out.

        That wraps a group, and has one more to compare what ranks do, whose numbers grow faster than the calls'.
        """
        if not entry["process_group"][0]:
            number, time_ns = entry["pg_id"], entry["time_created_ns"]
            if number not in self._names:
                for call in self._calls:
                    if call.holds(time_ns) and (call.operation, call.line[3]) == (
                        _operation(entry),
                        entry["collective_seq_id"],
                    ):
                        self._names[number] = (call.line[0], call.line[1])
            entry["process_group"] = self._names.get(number, ("", ""))
        return bool(entry["process_group"][0])

    def _line_of(self, entry: dict[str, Any], number: int, ended: bool) -> list[object]:
        name, description = entry["process_group"]
        pair, time_ns = bool(entry.get("is_p2p")), entry["time_created_ns"]
        operation = _operation(entry)
        frames = [(frame["filename"], frame["line"], frame["name"]) for frame in entry.get("frames", ())]
        called, where = _called_at(frames)
        call = next((call for call in reversed(self._calls) if call.line[0] == name and call.holds(time_ns)), None)
        if call is not None:
            # Backends make some operations of others.
            operation, called, where = call.operation, call.called, call.where
        tensors = _joined(
            [
                f"{size} {_DTYPES.get(dtype, dtype.lower())}"
                for size, dtype in zip(entry["input_sizes"], entry["input_dtypes"], strict=False)
            ]
        )
        seq = 0 if pair else entry["collective_seq_id"]
        made, ranks = int(entry["pg_id"]) + 1, _ranks_by_name(name)
        return [number, ended, made, name, description, operation, seq, tensors, called, where, time_ns, "", ranks]

    # --- what Python is about to begin ---

    def _listen(self, module: ModuleType) -> None:
        group_class: Any = module.ProcessGroup
        for method, (operation, argument) in _CALLS.items():
            original = getattr(group_class, method, None)
            if original is not None:
                setattr(group_class, method, self._noted(original, operation, argument))

    def _noted(self, original: Callable[..., Any], operation: str, argument: int) -> Callable[..., Any]:
        """Return a method of a process group that is noted before it is called."""

        @functools.wraps(original)
        def method(group: Any, *args: Any, **kwargs: Any) -> Any:
            call = None
            if kernel.own_pid() == self._owner:
                with contextlib.suppress(Exception):  # whatever was passed: torch says what is wrong with it
                    call = self._note(group, operation, args, argument)
            work = original(group, *args, **kwargs)
            if call is not None:
                self._returned(call, work)
            return work

        return method

    def _note(self, group: Any, operation: str, args: Sequence[Any], argument: int) -> _Call:
        """Note a call, and return what was noted."""
        name, ranks = group.group_name, _ranks_by_name(group.group_name)
        tensors = _tensors_text(list(_flat(args[argument])) if 0 <= argument < len(args) else [])
        called, where = _place_of(sys._getframe(2))
        seq, peer = group._get_sequence_number_for_group() + 1, ""
        if operation in _PAIRS:
            seq = 0
            peer = f"{_PAIRS[operation]} rank {ranks[args[1]]}" if len(args) > 2 else "from any rank"
        now = clock.wall_ns()
        line = [name, group.group_desc, operation, seq, tensors, called, where, now, peer, ranks]
        text = BEGUN + dumps(line).encode() + b"\n"
        if len(text) > LAST_SIZE:  # a group of hundreds
            text = BEGUN + dumps([*line[:-1], []]).encode() + b"\n"
        self._now[: min(len(text), LAST_SIZE)] = text[:LAST_SIZE]
        call = _Call(operation, called, where, now, line)
        self._calls.append(call)
        return call

    def _returned(self, call: _Call, work: Any) -> None:
        """Take note that a call has returned, which may have left something to wait for."""
        call.end_ns = clock.wall_ns()
        if self._calls and self._calls[-1] is call:  # another thread may have begun one since
            self._now[:1] = OVER if work is None else RETURNED
        if call.operation in _PAIRS and work is not None:
            self._pairs.append(_Pair(next(self._pair_numbers), call.line, weakref.ref(work)))

    def _between_two(self) -> Iterable[Sequence[object]]:
        """Return what is sent from one rank to another, which the recorder of gloo leaves out."""
        for pair in list(self._pairs):
            work = pair.work()
            ended = work is None or bool(work.is_completed())
            if pair.written is None:
                yield [pair.number, ended, 0, *pair.line]
            elif ended and not pair.written:
                yield ["ended", pair.number]
            pair.written = ended


@dataclass(slots=True)
class _Call:
    """A call of a process group by Python.

    Attributes:
        operation: What it is called.
        called: What the user's code has called.
        where: File and line of that.
        begin_ns: When it began, as ``time.time_ns()``.
        line: What was noted of it.
        end_ns: When it returned, or ``None``.
    """

    operation: str
    called: str
    where: str
    begin_ns: int
    line: list[Any]
    end_ns: int | None = None

    def holds(self, time_ns: int) -> bool:
        """Tell whether it was not over yet at a time."""
        return self.begin_ns <= time_ns and (self.end_ns is None or time_ns <= self.end_ns)


@dataclass(slots=True)
class _Pair:
    """What was sent from one rank to another.

    Attributes:
        number: Told from those of the recorder by its sign.
        line: What was noted of it.
        work: What there is to wait for; once nobody holds it nobody waits.
        written: What was written of its end, if it was written.
    """

    number: int
    line: list[Any]
    work: weakref.ref[Any]
    written: bool | None = None


def _mapped(path: Path) -> mmap.mmap:
    with path.open("w+b") as file:
        file.truncate(LAST_SIZE)
        return mmap.mmap(file.fileno(), LAST_SIZE)


def _dump(c10d: Any) -> bytes:
    """Return what the recorder of the devices' backend holds, pickled: that of gloo and others, or NCCL's own."""
    names = "torch._inductor.codecache" in sys.modules  # what names the frames would import it
    dump: bytes = c10d._dump_fr_trace(includeStackTraces=names)
    if hasattr(c10d, "_dump_nccl_trace") and not pickle.loads(dump)["entries"]:
        nccl: bytes = c10d._dump_nccl_trace(includeStackTraces=names)
        return nccl
    return dump


def _ended(entry: dict[str, Any]) -> bool:
    return bool(entry.get("retired")) or entry.get("state") == "completed"


def _operation(entry: dict[str, Any]) -> str:
    name: str = entry["profiling_name"]
    return name.rpartition(":")[2].removesuffix("_base").removeprefix("_")


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _flat(each)
    elif hasattr(value, "dtype"):
        yield value


def _tensors_text(tensors: Sequence[Any]) -> str:
    return _joined([f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in tensors])


def _joined(tensors: Sequence[str]) -> str:
    if len(set(tensors)) == 1 and len(tensors) > 1:
        return f"{len(tensors)} x {tensors[0]}"
    more = f", {len(tensors) - _TENSORS} more" if len(tensors) > _TENSORS else ""
    return ", ".join(tensors[:_TENSORS]) + more


def _ranks_by_name(name: str) -> list[int]:
    world: Any = sys.modules["torch.distributed.distributed_c10d"]._world
    for group, own in list(world.pg_names.items()):
        if own == name:
            ranks = world.pg_group_ranks[group]
            return sorted(ranks, key=lambda rank: int(ranks[rank]))
    return []


def _place_of(frame: FrameType | None) -> tuple[str, str]:
    frames: list[tuple[str, int, str]] = []
    while frame is not None and len(frames) < _FRAMES:
        code = frame.f_code
        frames.append((code.co_filename, frame.f_lineno, code.co_name))
        if not _internal(code.co_filename):
            break
        frame = frame.f_back
    return _called_at(frames)


def _called_at(frames: Sequence[tuple[str, int, str]]) -> tuple[str, str]:
    """Return what the user's code has called, and where; empty texts if no frame is the user's."""
    user = next((i for i, (file, _, _) in enumerate(frames) if not _internal(file)), None)
    if user is None:
        return "", ""
    names = [name for _, _, name in reversed(frames[:user]) if name not in ("wrapper", "inner", "method")]
    return names[0] if names else "", f"{os.path.basename(frames[user][0])}:{frames[user][1]}"


_internal = functools.lru_cache(maxsize=4096)(is_internal)
