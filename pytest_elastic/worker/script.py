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
    import runpy
    import time
    import traceback

    from pytest_elastic import kernel
    from pytest_elastic.messages import RankFinished, RankOrder
    from pytest_elastic.worker.failure import describe
    from pytest_elastic.worker.identity import take_identity
    from pytest_elastic.worker.joining import join
    from pytest_elastic.worker.prime import prepare_torch_when_imported
    from pytest_elastic.worker.stacks import write_stacks_to
    from pytest_elastic.worker.surroundings import apply_environment

    me = take_identity()
    kernel.die_with_parent(me.agent)
    order: RankOrder = pickle.loads(me.order.read_bytes())
    apply_environment(order, me)
    write_stacks_to(me.directory)
    outbox = join(me, order, writes_stacks=True)
    prepare_torch_when_imported()
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path.remove(_ROOT)
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    sys.path += [path for path in order.sys_path if path not in sys.path]
    started_ns = time.monotonic_ns()
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        if error.code not in (None, 0):
            code = error.code if isinstance(error.code, int) else 1
            outbox.send(describe(me.id, error, time_ns=time.monotonic_ns(), how="exited", skip=4, exitcode=code))
            raise
    except BaseException as error:  # noqa: BLE001 (told to the controller, whatever it is)
        # runpy has two frames and importlib one between this one and the script's.
        outbox.send(describe(me.id, error, time_ns=time.monotonic_ns(), how="raised", skip=4))
        traceback.print_exc()
        sys.exit(1)
    outbox.send(RankFinished(id=me.id, time_ns=time.monotonic_ns(), started_ns=started_ns, value=None, leftovers=()))


if __name__ == "__main__":
    sys.path[0] = _ROOT
    main()
