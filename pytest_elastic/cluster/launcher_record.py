"""The record of finished tests in torchrun's store: a session that it starts again goes on where it was ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pytest_elastic import clock
from pytest_elastic.cluster.ancestors import launched_process
from pytest_elastic.cluster.boards import connected_store
from pytest_elastic.cluster.key import derive
from pytest_elastic.cluster.member import Membership
from pytest_elastic.cluster.places import PlaceError, StorePlace
from pytest_elastic.cluster.record import Recorder
from pytest_elastic.cluster.sealing import digest

_PATIENCE: Final = 30.0
_PROGRAMS: Final = ("torchrun", "torch.distributed.run", "torch/distributed/run", "torch.distributed.launch")


def may_be_started_again(environ: Mapping[str, str], membership: Membership | None) -> bool:
    """Tell whether torchrun may start this session again, and has a store that outlives it.

    It does so where restarts are allowed, and on several nodes also where one comes or goes.
    """
    if environ.get("TORCHELASTIC_RUN_ID") is None or environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return False
    counts = [environ.get(f"TORCHELASTIC_{name}", "0") for name in ("MAX_RESTARTS", "RESTART_COUNT")]
    several = membership is not None and membership.nodes > 1
    return several or any(count.isdigit() and int(count) > 0 for count in counts)


def open_record(environ: Mapping[str, str], key: bytes, arguments: tuple[str, ...]) -> Recorder | None:
    """Open the record; ``None`` where the store cannot be reached: then there is none.

    Args:
        environ: The environment, with torchelastic's variables.
        key: Key of the run.
        arguments: What the session was asked to do: another one in the same store has another record.
    """
    host, port = environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", "")
    if not host or not port.isdigit():
        return None
    run_id = environ["TORCHELASTIC_RUN_ID"]
    session = digest(*arguments)
    try:
        store = connected_store(host, int(port), clock.monotonic() + _PATIENCE)
        prefix = f"pytest_elastic/{run_id}/{session}"
        # A launcher's process may run pytest more than once; what the launcher starts again begins with the first.
        number = store.add(f"{prefix}/{environ.get('RANK', '')}/{launched_process(_PROGRAMS)}", 1)
        place = StorePlace(store, f"{prefix}/{number}", "record in torchrun's store")
        return Recorder(place, derive(key, "record"), run_id=run_id)
    except (OSError, RuntimeError, PlaceError):
        return None
