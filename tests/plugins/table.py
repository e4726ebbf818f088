"""Every plugin that was tried beside tests on ranks: what works, what is different, and the test that says so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One plugin.

    Attributes:
        name: The distribution; ``pytest`` itself for what is built in.
        works: What works with tests on ranks, in Markdown.
        differs: What is different there; empty if nothing is.
        tests: The tests that say so, by file in ``tests/`` and name.
        what: Which of its parts, where it has several.
    """

    name: str
    works: str
    tests: tuple[str, ...]
    differs: str = ""
    what: str = ""


_OTHER = "integration/test_other_plugins.py"
_SESSION = "integration/test_session_plugins.py"

_XDIST = "integration/test_xdist.py"
_SLOTS = "integration/test_slots.py"
_COVERAGE = "integration/test_coverage.py"
_DEBUGGER = "integration/test_debugger.py"

WORKERS = (
    Row(
        name="pytest-xdist",
        works="`-n`, each `--dist`, `--maxfail`, `--max-worker-restart`: the same outcomes as in one process; `etcd_server` and controller fixtures of the session once for all workers; no port twice; a killed worker leaves no rank",
        differs="launches [take turns](reference/resources.md#slots), one rank on each core at a time; each worker imports torch for itself",
        tests=(
            f"{_XDIST}::test_forty_tests_of_mixed_sizes_end_as_in_one_process",
            f"{_XDIST}::test_a_killed_worker_leaves_no_rank_and_another_takes_its_place",
            f"{_XDIST}::test_ways_to_distribute_and_maxfail",
            f"{_SESSION}::test_xdist_reports_every_test_once_and_ranks_start_no_workers",
            f"{_SLOTS}::test_workers_queue_for_cpus_and_a_test_larger_than_the_machine_runs_alone",
            f"{_SLOTS}::test_no_two_launches_of_two_runs_have_the_same_device",
            "integration/test_etcd_server.py::test_it_stays_when_the_worker_that_started_it_is_killed",
            "integration/test_controller_fixtures.py::test_workers_of_xdist_share_those_of_the_session",
        ),
    ),
)
LOOKING = (
    Row(
        name="pytest-cov",
        works="lines and branches that ranks run, of tests, functions and scripts, in one result; `-n`, `--cov-context=test`, `no_cover`",
        differs="of a rank that is killed the last tenth of a second may be missing, see [coverage](reference/coverage.md)",
        tests=(f"{_COVERAGE}::test_pytest_cov", f"{_COVERAGE}::test_pytest_cov_with_xdist"),
    ),
    Row(
        name="coverage",
        what="`coverage run -m pytest`",
        works="the same; also with `patch = subprocess`, ranks that are spawned, and a rank's own subprocesses",
        differs="as above",
        tests=(f"{_COVERAGE}::test_coverage_run",),
    ),
    Row(
        name="pytest",
        what="`breakpoint()`, `--pdb`, `--trace`",
        works="the terminal goes to one rank, while the others and all deadlines wait; `--pdb` looks into the rank that failed first",
        differs="`--elastic-pdb-rank` chooses the rank, see [debuggers](reference/debuggers.md); a worker of pytest-xdist has no terminal",
        tests=(
            f"{_DEBUGGER}::test_breakpoints",
            f"{_DEBUGGER}::test_post_mortem",
            f"{_DEBUGGER}::test_trace_and_death_and_the_shell",
            f"{_DEBUGGER}::test_commands_come_from_a_pipe_until_it_ends",
            f"{_DEBUGGER}::test_a_worker_of_xdist_has_no_terminal",
        ),
    ),
)
TIME = (
    Row(
        name="pytest-timeout",
        works="marker, `--timeout`, ini key and `PYTEST_TIMEOUT` are deadlines of the launch, for each attempt anew; the smaller of this one and `timeout=` holds; `func_only` counts from the beginning of the call to its end on all ranks",
        differs="the verdict is that of a deadline, with the stacks of all ranks; `method` does not matter: the session goes on. Its own timer holds while controller fixtures are set up, not while the launch waits for slots, and 15 s after the deadline of the launch. At the beginning of a session a limit includes what the server still needs to import torch, which takes seconds: leave room for it. With `max_restarts`, `func_only` has one limit for all attempts, from the first call on, which holds in the teardown too if the last attempt fails",
        tests=(f"{_OTHER}::test_limits_of_pytest_timeout_are_deadlines",),
    ),
    Row(
        name="pytest-rerunfailures",
        works="each attempt has fresh ranks, with `isolation=` too; `only_rerun` sees the exception of the rank that failed first",
        tests=(f"{_SESSION}::test_reruns_have_fresh_ranks",),
    ),
    Row(
        name="pytest-repeat",
        works="`--count` and the marker, also with a list in `nproc`",
        tests=(
            f"{_OTHER}::test_several_plugins_at_once",
            f"{_SESSION}::test_randomly_uses_the_seed_of_the_header",
        ),
    ),
)
RANDOM = (
    Row(
        name="pytest-randomly",
        works="ranks have the seed that the header shows, and all of them the same",
        differs="`seed=` of the marker comes after it",
        tests=(f"{_SESSION}::test_randomly_uses_the_seed_of_the_header",),
    ),
    Row(
        name="hypothesis",
        works="all ranks draw the same examples, other ones in each run, and shrink the same failing one; `--hypothesis-seed`; the database, statistics",
        differs="see [below](#hypothesis)",
        tests=(
            f"{_OTHER}::test_hypothesis_draws_the_same_on_all_ranks",
            f"{_OTHER}::test_hypothesis_draws_by_the_seed_of_the_command_line",
        ),
    ),
)
RUNNING = (
    Row(
        name="pytest",
        what="unittest, `subtests`",
        works="methods, `setUpClass`, `skipTest`, `expectedFailure`, `subTest`; a subtest that fails on one rank fails the test",
        differs="no line of its own for a subtest",
        tests=(f"{_SESSION}::test_unittest_methods",),
    ),
    Row(
        name="pytest-asyncio",
        works="async tests and fixtures, each rank with its own loop; `@given` on an async test keeps ranks together",
        tests=(f"{_SESSION}::test_asynchronous_tests",),
    ),
    Row(
        name="anyio",
        works="async tests and fixtures, each rank with its own loop; `@given` on an async test keeps ranks together",
        tests=(f"{_SESSION}::test_asynchronous_tests",),
    ),
    Row(
        name="pytest-mock",
        works="`mocker`, in each rank",
        tests=(f"{_SESSION}::test_plugins_that_do_their_work_once",),
    ),
    Row(
        name="pytest-check",
        works="checks that fail on one rank fail the test, and are listed",
        tests=(f"{_OTHER}::test_several_plugins_at_once",),
    ),
    Row(
        name="pytest-env",
        works="variables are there in all ranks",
        tests=(f"{_OTHER}::test_several_plugins_at_once",),
    ),
)
COMPARING = (
    Row(
        name="syrupy",
        works="ranks compare with the snapshots; `--snapshot-update` writes each once and deletes none that ranks use, or had no time to use because they died or were ended, with `-n` too; the summary counts each once",
        differs="a snapshot that is to be written and differs from rank to rank is an error, and not written: give it a name by `snapshot(name=...)`",
        tests=(f"{_OTHER}::test_snapshots_of_syrupy_are_written_once",),
    ),
    Row(
        name="pytest-benchmark",
        works="the function runs once on each rank",
        differs="nothing is measured, and a warning says so: ranks wait for each other, and each would choose a number of rounds of its own",
        tests=(f"{_OTHER}::test_several_plugins_at_once",),
    ),
)
REPORTING = (
    Row(
        name="pytest",
        what="`--junitxml`",
        works="one case a test; `record_property`, once or by rank",
        differs="`record_xml_attribute` and `record_testsuite_property` of ranks are lost",
        tests=(
            f"{_OTHER}::test_several_plugins_at_once",
            f"{_SESSION}::test_plugins_that_do_their_work_once",
        ),
    ),
    Row(
        name="pytest-html",
        works="one row a test, with a picture of what its ranks did; `extras` of ranks, those that differ with the rank in their name",
        tests=(
            f"{_OTHER}::test_several_plugins_at_once",
            f"{_SESSION}::test_plugins_that_do_their_work_once",
        ),
    ),
    Row(
        name="pytest-json-report",
        works="one entry a test",
        differs="`json_metadata` of ranks is lost; `record_property` is not",
        tests=(f"{_SESSION}::test_plugins_that_do_their_work_once",),
    ),
    Row(
        name="pytest-reportlog",
        works="the lines of one test, one for each phase",
        tests=(f"{_SESSION}::test_plugins_that_do_their_work_once",),
    ),
    Row(
        name="pytest-sugar",
        works="one line a test, failures at once",
        differs="it does not say on how many ranks a test ran",
        tests=(f"{_OTHER}::test_one_line_a_test_in_the_terminal_of_pytest_sugar",),
    ),
    Row(
        name="pytest-pretty",
        works="one line a test, with the number of ranks by `-v`; the table of failures",
        tests=(f"{_OTHER}::test_several_plugins_at_once",),
    ),
)
CHOOSING = (
    Row(
        name="pytest-order",
        works="the order of tests",
        tests=(f"{_OTHER}::test_several_plugins_at_once",),
    ),
    Row(
        name="pytest-dependency",
        works="a test is skipped where the one that it depends on has failed",
        tests=(f"{_SESSION}::test_plugins_that_do_their_work_once",),
    ),
    Row(
        name="pytest-describe",
        works="tests in `describe_` blocks",
        tests=(f"{_OTHER}::test_several_plugins_at_once",),
    ),
    Row(
        name="pytest-split",
        works="groups of tests",
        tests=(f"{_OTHER}::test_several_plugins_at_once",),
    ),
)

GROUPS = {
    "Workers": WORKERS,
    "Coverage and debuggers": LOOKING,
    "Time limits and attempts": TIME,
    "Random numbers and examples": RANDOM,
    "What tests are made of": RUNNING,
    "Snapshots and measurements": COMPARING,
    "Reports and terminals": REPORTING,
    "Which tests run, and when": CHOOSING,
}
