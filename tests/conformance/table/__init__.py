"""Every row: what goes wrong, and what comes of it."""

from __future__ import annotations

from .dying import DYING
from .failing import FAILING
from .hanging import HANGING
from .launching import LAUNCHING
from .leaving import LEAVING
from .row import START_METHODS, Row, StartMethod, deadline_for
from .unequal import UNEQUAL
from .whole import WHOLE

ROWS = (*FAILING, *DYING, *UNEQUAL, *HANGING, *LEAVING, *LAUNCHING, *WHOLE)

__all__ = ["ROWS", "START_METHODS", "Row", "StartMethod", "deadline_for"]
