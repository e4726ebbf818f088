"""The suite with other versions of Python, torch and pytest: ``nox -l`` lists them, ``nox`` runs them all.

Each gets an environment of several GB: PyPI's torch comes with CUDA. ``nox -- tests/unit`` runs less of the suite in
each; ``docs/versions.md`` says what was run.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

MATRIX = [
    ("3.10", "2.9.1", "8.4"),
    ("3.11", "2.9.1", "9"),
    ("3.11", "2.13.0", "8.4"),
    ("3.11", "2.14.1", "9"),
    ("3.12", "2.13.0", "9"),
    ("3.13", "2.14.1", "9"),
]
"""Beside what ``make test`` runs: Python, torch and pytest."""
SUITE = ["-n", "3", "--dist", "loadfile", "-m", "not soak", "tests", "examples", "--ignore=examples/failing"]


@nox.session
@nox.parametrize("python,torch,pytest", MATRIX)
def versions(session: nox.Session, torch: str, pytest: str) -> None:
    """Run the suite, or what is given behind ``--``."""
    pins = [f"torch=={torch}", f"pytest=={pytest}.*"]
    session.install("pip>=25.1")
    # At once, so that nothing takes another version along.
    session.install(*pins, "-e", ".[etcd]", "numpy", "--group", "test")
    session.run("pytest", *(session.posargs or SUITE))
