"""Rows that concern the whole session, and so have one of their own."""

from __future__ import annotations

from .row import Row

WHOLE = (
    Row(
        file="configure_fails",
        outcome="failed",
        when="setup",
        message="the preloaded server could not start: LookupError: no licence for ranks",
        words=(
            "the preloaded server could not start: LookupError: no licence for ranks",
            '  File "*conftest.py", line 8, in pytest_configure',
        ),
        session="alone",
        plain=(("test_plain", "passed"),),
    ),
    Row(
        file="computes_when_imported",
        outcome="passed",
        session="alone",
        exitcode=0,
    ),
    Row(
        file="starts_a_thread_when_imported",
        outcome="passed",
        warnings_if_forked=("ElasticWarning: starts_a_thread_when_imported.py: importing it started 1 thread*",),
        session="alone",
        exitcode=0,
    ),
    Row(
        file="exits_pytest",
        outcome="none",
        session="alone",
        exitcode=7,
        prints=("*_pytest.outcomes.Exit: *the machine is on fire*",),
        plain=(("test_never", "not run"),),
    ),
    Row(
        file="stops_the_session",
        outcome="passed",
        session="alone",
        exitcode=2,
        prints=("*that is enough*",),
        plain=(("test_never", "not run"),),
    ),
)
