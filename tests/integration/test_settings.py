"""What the options of the run do."""

from __future__ import annotations

from pathlib import Path

import pytest

ONE_FAILS = """
import os, sys, threading
import pytest
import torch.distributed as dist

@pytest.mark.elastic(nproc=3, backend="gloo", timeout=60)
def test_bad(rank):
    print("spoken by", rank)
    dist.barrier()  # or rank 0 might be gone before the others have spoken
    if rank != 1:
        if rank == 0:
            sys.exit(3)
        threading.Event().wait()
"""


def files_of(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_log_dir_keeps_the_output_of_every_rank_and_no_secret(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "hunter2hunter2")
    pytester.makepyfile(
        test_it="def speak():\n"
        "    import os; print('rank', os.environ['RANK'], 'speaks')\n"
        "def test_it(elastic_launch):\n"
        "    result = elastic_launch(speak, nproc=2, timeout=60)\n"
        "    assert result.log_dir.is_dir()\n"
    )
    pytester.runpytest_subprocess("--elastic-log-dir=kept").assert_outcomes(passed=1)
    kept = files_of(pytester.path / "kept")
    texts = {path.name: path.read_text(errors="replace") for path in kept if path.name == "stdout.log"}
    assert texts
    assert sorted(p.read_text() for p in kept if p.name == "stdout.log") == ["rank 0 speaks\n", "rank 1 speaks\n"]
    assert not [path for path in kept if b"hunter2" in path.read_bytes()]
    assert {path.parent.name for path in kept if path.name == "stdout.log"} == {"0", "1"}


def test_without_log_dir_nothing_is_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="import os\n"
        "where = []\n"
        "def test_it(elastic_launch): where.append(elastic_launch(int, nproc=1, timeout=60).log_dir)\n"
        "def test_after(): assert not os.path.exists(where[0])\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_log_dir_that_cannot_be_made_fails_the_test_with_the_reason(pytester: pytest.Pytester) -> None:
    (pytester.path / "taken").write_text("a file")
    pytester.makepyfile(
        test_it="def test_it(elastic_launch): elastic_launch(int, nproc=1, timeout=60)\ndef test_plain(): pass\n"
    )
    result = pytester.runpytest_subprocess("--elastic-log-dir=taken")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines("*ElasticError: --elastic-log-dir: cannot make *taken*")


@pytest.mark.parametrize(("show", "shown"), [("failed", [0]), ("all", [0, 1, 2]), ("none", [])])
def test_show_output(pytester: pytest.Pytester, show: str, shown: list[int]) -> None:
    pytester.makepyfile(test_it=ONE_FAILS)
    result = pytester.runpytest_subprocess(f"--elastic-show-output={show}")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert [rank for rank in range(3) if f"spoken by {rank}" in text] == shown


def test_help_lists_every_option_and_ini_key(pytester: pytest.Pytester) -> None:
    text = pytester.runpytest_subprocess("--help").stdout.str()
    for name in ("nproc", "timeout", "backend", "device", "start-method", "isolation", "group", "strict", "log-dir"):
        assert f"--elastic-{name}" in text
    for name in ("nproc", "nnodes", "max_restarts", "rdzv_backend", "env", "seed", "grace"):
        assert f"elastic_{name}" in text
