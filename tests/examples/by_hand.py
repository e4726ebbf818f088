"""The code blocks of pages that are written by hand, and why; all others are made from files that the suite runs."""

from __future__ import annotations

from typing import Final

TO_TYPE: Final = "commands to type"
SIGNATURE: Final = "a call, not a program"
SETTINGS: Final = "a few lines of a settings file"
DRAWING: Final = "a drawing"

BY_HAND: Final[dict[str, dict[str, str]]] = {
    "docs/explanation.md": {
        "pytest: the controller": DRAWING,
    },
    "docs/robustness.md": {
        "pytest tests/robustness": TO_TYPE,
    },
    "docs/tutorial.md": {
        "pip install -c constraints.txt": TO_TYPE,
    },
}
"""Of each page the beginnings of such blocks."""

MADE_ELSEWHERE: Final = {
    "docs/comparison.md": "made by tests/compare/page.py",
    "docs/conformance.md": "made by tests/conformance/page.py",
    "docs/plugins.md": "made by tests/plugins/page.py",
}
"""Pages that are made as a whole."""

NOT_YET: Final = frozenset(
    f"{name}.md"
    for name in ("README", "CONTRIBUTING", "docs/how-to", "docs/many-machines", "docs/reference", "docs/tutorial")
)
"""Pages whose blocks have no files yet."""
