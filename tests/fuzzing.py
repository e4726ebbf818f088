"""How long hypothesis looks: a second or two in each run of the tests, always at the same; longer in a soak.

``FUZZ_EXAMPLES`` is the number of examples of each test, and has it look at others every time.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

_GIVEN: Final = os.environ.get("FUZZ_EXAMPLES")


def fuzz(examples: int) -> settings:
    """Return the settings of a test that looks at some examples; a busy machine does not matter."""
    return settings(
        max_examples=int(_GIVEN) if _GIVEN else examples,
        derandomize=not _GIVEN,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
