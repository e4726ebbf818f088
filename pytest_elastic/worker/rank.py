"""A rank of a launch that runs a function or a test: what torch's agent calls in each worker process."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from typing import Final, NoReturn

from pytest_elastic import clock, kernel
from pytest_elastic.accelerators import TorchAccelerators
from pytest_elastic.channel import Outbox
from pytest_elastic.messages import Leave, RankFinished, RankOrder
from pytest_elastic.worker import server_state
from pytest_elastic.worker.device import select_device
from pytest_elastic.worker.failure import describe
from pytest_elastic.worker.group import DefaultGroup
from pytest_elastic.worker.identity import Identity, take_identity
from pytest_elastic.worker.joining import join
from pytest_elastic.worker.leaving import Exit, call_what_atexit_knows, drop_streams_that_cannot_be_flushed, exitcode_of
from pytest_elastic.worker.measuring import Measurement, measure
from pytest_elastic.worker.rendezvous import prepare_rendezvous
from pytest_elastic.worker.stacks import write_stacks_to
from pytest_elastic.worker.surroundings import (
    apply_environment,
    apply_seed,
    apply_to_torch,
    line_buffered_output,
)
from pytest_elastic.worker.terminal import RankTerminal

_TOGETHER: Final = 0.05
"""Seconds that a rank waits for the others to be done as well."""


def main() -> None:
    """Run the work of this rank, telling the controller of each step."""
    me = take_identity()
    forked = server_state.state is not None
    if forked:
        call_what_atexit_knows()
    else:
        os.setsid()  # as the server has its forks do: what this rank leaves behind is known by its session
    # torch's own wrapper has asked for SIGINT instead, some microseconds ago. Only a rank that the server forked has
    # another parent than its agent (a LaunchConfig may ask for "fork").
    server = server_state.state
    kernel.die_with_parent(me.agent if server is None or os.getppid() == me.agent else server.pid)
    order: RankOrder = pickle.loads(me.order.read_bytes())
    server_state.own_tracker()
    apply_environment(order, me)
    line_buffered_output()
    stacks = write_stacks_to(me.directory)
    outbox = join(me, order, writes_stacks=True)
    exit = Exit(order.grace)  # noqa: A001 (what it is)
    pid = kernel.own_pid()
    try:
        _work(order, me, outbox, exit, stacks, forked=forked)
    except BaseException as error:
        if kernel.own_pid() != pid:
            traceback.print_exc()
            os._exit(1)
        if not exit.told:
            # An error of this package's own, or of what prepares torch: it is told like any other.
            outbox.send(describe(me.id, error, time_ns=clock.monotonic_ns(), how="raised", skip=0))
        raise
    if kernel.own_pid() != pid:
        os._exit(0)  # A child that the work forked and that came back here: only its parent is the rank.
    _leave_world(me, outbox, forked=forked)
    drop_streams_that_cannot_be_flushed()


def _work(
    order: RankOrder,
    me: Identity,
    outbox: Outbox,
    exit: Exit,  # noqa: A002
    stacks: int,
    *,
    forked: bool,
) -> None:
    if forked:
        apply_to_torch()
    else:
        from pytest_elastic.worker.names import stop_reverse_lookups

        stop_reverse_lookups()
    select_device(order, TorchAccelerators())
    prepare_rendezvous()
    measurement = measure(order, me)
    started_ns = clock.monotonic_ns()
    if order.session is not None:
        from pytest_elastic.worker.item import run_tests

        exit.code = run_tests(order, order.session, me, outbox, stacks, measurement)
        exit.told = True
        value = None
        if exit.code != 0:
            measurement.save()
            # The reports have told everything; torch's agent only has to see that this worker failed.
            if not forked:
                exit.at_once()
            sys.exit(exit.code)
    else:
        apply_seed(order.seed)
        try:
            value = _run_function(order, me, outbox, exit, measurement)
        finally:
            measurement.save()
    outbox.send(
        RankFinished(
            id=me.id,
            time_ns=clock.monotonic_ns(),
            started_ns=started_ns,
            value=value,
            leftovers=exit.leftovers(),
        )
    )
    exit.code = 0


def _leave_world(me: Identity, outbox: Outbox, *, forked: bool) -> None:
    """End the process group, unless all ranks leave together; on rank 0, which hosts the store, wait for the others.

    torch keeps a worker that has returned until all workers of its node have. A rank that still waits for this one in
    a collective must see that it has left.
    """
    leave: Leave | None = Leave(together=True) if me.id.world_size == 1 else None
    with contextlib.suppress(OSError, EOFError):  # the controller is gone, or a test closed the connection
        if forked and leave is None and outbox.hears_within(_TOGETHER):
            leave = _wait_for_leave(outbox)
    # A forked process ends without destructors, which a group that was not destroyed might not survive.
    if forked and leave is not None and leave.together:
        return
    dist = sys.modules["torch.distributed"]
    with contextlib.suppress(Exception):  # a group that is broken already ends with the process
        if dist.is_initialized():
            dist.destroy_process_group()
    if me.id.rank == 0 and leave is None:
        with contextlib.suppress(OSError, EOFError):
            _wait_for_leave(outbox)


def _wait_for_leave(outbox: Outbox) -> Leave:
    while True:
        leave = outbox.receive_any()
        if isinstance(leave, Leave):
            return leave


def _run_function(
    order: RankOrder,
    me: Identity,
    outbox: Outbox,
    exit: Exit,  # noqa: A002
    measurement: Measurement,
) -> bytes:
    from pytest_elastic.worker.debugger import stop_tracing, use_in_function
    from pytest_elastic.worker.function import UnsendableValueError, call

    terminal = RankTerminal(order.channel, order.key, me.id)
    use_in_function(terminal)
    try:
        with DefaultGroup(order, TorchAccelerators()):
            try:
                return call(order)
            finally:
                stop_tracing(terminal)
    except SystemExit as error:
        exit.told = True
        code = exitcode_of(error)
        outbox.send(describe(me.id, error, time_ns=clock.monotonic_ns(), how="exited", skip=3, exitcode=code))
        exit.code = code
        measurement.save()
        _leave_as_exited(error, code)
    except UnsendableValueError as error:
        exit.told = True
        outbox.send(describe(me.id, error, time_ns=clock.monotonic_ns(), how="result", skip=3))
        raise
    except BaseException as error:
        exit.told = True
        outbox.send(describe(me.id, error, time_ns=clock.monotonic_ns(), how="raised", skip=3))
        if isinstance(error, Exception):
            raise
        # torch takes a KeyboardInterrupt for a success: it would wait for this rank's value for ever.
        traceback.print_exc()
        sys.exit(1)


def _leave_as_exited(error: SystemExit, code: int) -> NoReturn:
    if isinstance(error.code, str):
        print(error.code, file=sys.stderr)
    if code == 0:
        # torch takes sys.exit(0) for a return value of None; the agent must see a worker that is gone.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)
    sys.exit(code)
