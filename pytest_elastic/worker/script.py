"""Runs a rank's ``.py`` script in a fresh interpreter: as ``python -u script.py`` would, and heard by the controller.

Run by its path, with the script and its arguments behind it.
"""

from __future__ import annotations

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main() -> None:
    """Report, wait for leave, run the script, and tell how it ended."""
    import pickle
    import traceback

    from pytest_elastic import clock, kernel
    from pytest_elastic.messages import RankFinished, RankOrder
    from pytest_elastic.worker.debugger import stop_tracing, use_in_function
    from pytest_elastic.worker.failure import describe
    from pytest_elastic.worker.identity import take_identity
    from pytest_elastic.worker.joining import join
    from pytest_elastic.worker.leaving import Exit, exitcode_of
    from pytest_elastic.worker.measuring import measure
    from pytest_elastic.worker.prime import prepare_torch_when_imported
    from pytest_elastic.worker.stacks import write_stacks_to
    from pytest_elastic.worker.surroundings import apply_environment
    from pytest_elastic.worker.terminal import RankTerminal

    me = take_identity()
    kernel.die_with_parent(me.agent)
    order: RankOrder = pickle.loads(me.order.read_bytes())
    apply_environment(order, me)
    write_stacks_to(me.directory)
    outbox = join(me, order, writes_stacks=True)
    prepare_torch_when_imported()
    terminal = RankTerminal(order.channel, order.key, me.id)
    use_in_function(terminal)
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path.remove(_ROOT)
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    sys.path += [path for path in order.sys_path if path not in sys.path]
    measurement = measure(order, me)
    exit = Exit(order.grace)  # noqa: A001 (what it is)
    started_ns = clock.monotonic_ns()
    try:
        _run(script)
        exit.code = 0
    except SystemExit as error:
        exit.code = exitcode_of(error)
        if exit.code != 0:
            ended_ns = clock.monotonic_ns()
            outbox.send(describe(me.id, error, time_ns=ended_ns, how="exited", skip=2, exitcode=exit.code))
            if not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 (told to the controller, whatever it is)
        outbox.send(describe(me.id, error, time_ns=clock.monotonic_ns(), how="raised", skip=2))
        traceback.print_exc()
        exit.code = 1
    ended_ns = clock.monotonic_ns()
    stop_tracing(terminal)
    # Python itself would wait without limit, before it calls anybody.
    left = exit.settle()
    measurement.save()
    if exit.code == 0:
        outbox.send(RankFinished(id=me.id, time_ns=ended_ns, started_ns=started_ns, value=None, leftovers=left))
    if left:
        exit.now()
    if "torch" in sys.modules:
        # Its threads may take the lock of an interpreter that is ending, which aborts the process, now and then.
        exit.at_once()
    sys.exit(exit.code)


def _run(script: str) -> None:
    """Run a script as the main module, which finds in itself what ``python script.py`` puts there."""
    import builtins
    import io
    from importlib.machinery import SourceFileLoader
    from types import ModuleType

    path = os.path.abspath(script)
    module = ModuleType("__main__")
    vars(module).update(
        __file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path), __builtins__=builtins
    )
    sys.modules["__main__"] = module
    with io.open_code(path) as file:
        source = file.read()
    exec(compile(source, path, "exec", dont_inherit=True), vars(module))


if __name__ == "__main__":
    sys.path[0] = _ROOT
    main()
