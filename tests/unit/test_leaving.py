"""How a rank leaves."""

from __future__ import annotations

import logging
import logging.handlers

from pytest_elastic.worker.leaving import forget_buffered_records


def test_records_that_the_server_has_buffered_are_not_for_ranks_to_write() -> None:
    written: list[str] = []

    class Target(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.getMessage())

    memory = logging.handlers.MemoryHandler(100, target=Target())
    memory.handle(logging.LogRecord("server", logging.INFO, __file__, 1, "of the server", None, None))
    forget_buffered_records()
    memory.handle(logging.LogRecord("rank", logging.INFO, __file__, 1, "of the rank", None, None))
    memory.close()
    assert written == ["of the rank"]
