"""Import modules into the server, so that what is forked from it finds them ready."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING

from pytest_elastic.worker.collecting import why_unsafe

if TYPE_CHECKING:
    from pytest_elastic.controller.server import PreloadOrder


def import_all(order: PreloadOrder) -> str | None:
    """Import what the order names, and look at this process after each module.

    Returns:
        Why nothing must be forked from this process now, with the module that is the reason; ``None`` if all is well.
    """
    if order.sys_path is not None:
        sys.path[:] = order.sys_path
    for name in order.modules:
        known = name in sys.modules
        # Found among what another process has imported: it may have come there in another way than by an import.
        with contextlib.suppress(Exception) if name in order.tolerated else contextlib.nullcontext():
            importlib.import_module(name)
        if not known and (reason := why_unsafe()) is not None:
            return f"{name}: {reason}"
    return why_unsafe()
