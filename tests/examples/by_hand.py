"""The code blocks of pages that are written by hand, and why; all others are made from files that the suite runs."""

from __future__ import annotations

from typing import Final

TO_TYPE: Final = "commands to type"
SETTINGS: Final = "a few lines of a settings file"
HOSTS: Final = "printed on several hosts; tests/cluster has such runs"

BY_HAND: Final[dict[str, dict[str, str]]] = {
    "CONTRIBUTING.md": {
        "make demo": TO_TYPE,
        ".venv/bin/python -m ruff": TO_TYPE,
        ".venv/bin/python -m tests.examples": TO_TYPE,
        "for core in": TO_TYPE,
    },
    "docs/how-to/configure.md": {
        "[tool.pytest.ini_options]": SETTINGS,
    },
    "docs/how-to/existing-suites.md": {
        "$ pytest --elastic-spawn=forkserver": TO_TYPE,
        "[tool.pytest.ini_options]": SETTINGS,
    },
    "docs/how-to/share.md": {
        "[tool.pytest.ini_options]": SETTINGS,
    },
    "docs/how-to/workers.md": {
        "$ pytest -n 4": TO_TYPE,
        "[tool.pytest.ini_options]": SETTINGS,
    },
    "docs/many-machines.md": {
        "collecting ... collected": HOSTS,
        "torchrun --nnodes": TO_TYPE,
        "#SBATCH": TO_TYPE,
        "torchx run": TO_TYPE,
        "pytest -p elastic": TO_TYPE,
        "node 1 (host1) was lost": HOSTS,
        "elastic: 4 ranks in place": HOSTS,
    },
    "docs/migrating/torchrun.md": {
        "torchrun --nproc-per-node=2": TO_TYPE,
    },
    "docs/reference/shown.md": {
        "test_slow: rank 2 running": "a line of a terminal that is gone a moment later",
    },
    "README.md": {
        "make demo": TO_TYPE,
        "$ pytest --elastic-spawn=forkserver": TO_TYPE,
    },
    "docs/robustness.md": {
        "pytest tests/robustness": TO_TYPE,
    },
    "docs/tutorial.md": {
        "python3 -m venv .venv": TO_TYPE,
    },
}
"""Of each page the beginnings of such blocks."""

MADE_ELSEWHERE: Final = {
    "docs/comparison.md": "made by tests/compare/page.py",
    "docs/conformance.md": "made by tests/conformance/page.py",
    "docs/plugins.md": "made by tests/plugins/page.py",
}
"""Pages that are made as a whole."""
