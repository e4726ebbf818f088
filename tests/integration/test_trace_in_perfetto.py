"""The trace, in Perfetto's own trace processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_elastic.report.trace import make_trace

from ..seeing import samples
from ..seeing.browser import chromium
from ..seeing.perfetto import trace_processor

SLICES = """
select process.name, slice.name, slice.depth, slice.dur / 1000000 from slice
join thread_track on slice.track_id = thread_track.id join thread using (utid) join process using (upid)
"""


@pytest.mark.soak
def test_perfetto_reads_the_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps(make_trace(samples.session())))
    with chromium() as browser, trace_processor(browser, trace) as perfetto:
        wrong = perfetto.query("select name, value from stats where value > 0 and severity in ('error', 'data_loss')")
        assert wrong == []
        names = perfetto.query("select name from process where pid > 0 order by pid")
        assert names == [["tests"], ["rank 0"], ["rank 1"], ["rank 2"], ["rank 3"]]
        calls = perfetto.query(f"{SLICES} where process.name = 'rank 2' and slice.name = 'call' order by ts")
        assert calls == [["rank 2", "call", 1, 700]] * 3
        waits = perfetto.query(f"{SLICES} where process.name = 'rank 2' and slice.name = 'waiting' and depth = 2")
        assert waits == [["rank 2", "waiting", 2, 500]] * 3
        memory = perfetto.query(
            "select process.name, max(value) from counter join process_counter_track on "
            "counter.track_id = process_counter_track.id join process using (upid) group by 1 order by 1"
        )
        assert memory == [[f"rank {rank}", 100.0 + rank] for rank in range(4)]
        marks = perfetto.query("select slice.name from slice where category = 'failure'")
        assert marks == [["rank 2 failed first: assert 1 == 2"]]
