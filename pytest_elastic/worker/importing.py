"""Import modules into the server, so that what is forked from it finds them ready."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterable

from pytest_elastic.worker.collecting import why_unsafe


def import_all(modules: Iterable[str], *, tolerated: frozenset[str]) -> str | None:
    """Import modules, and look at this process after each of them.

    Args:
        modules: Their names.
        tolerated: Those whose import may fail.

    Returns:
        Why nothing must be forked from this process now, with the module that is the reason; ``None`` if all is well.
    """
    for name in modules:
        if name in sys.modules:
            continue
        # Found among what another process has imported: it may have come there in another way than by an import.
        with contextlib.suppress(Exception) if name in tolerated else contextlib.nullcontext():
            importlib.import_module(name)
        reason = why_unsafe()
        if reason is not None:
            return f"{name}: {reason}"
    return None
