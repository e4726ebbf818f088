"""Who waits for the output of ranks is woken by it, whenever their files appear."""

from __future__ import annotations

import selectors
import sys
from pathlib import Path

import pytest

from pytest_elastic.controller.output_watch import OutputWatch, files_of
from pytest_elastic.controller.peers import RankState
from pytest_elastic.messages import RankId


@pytest.mark.skipif(sys.platform != "linux", reason="there is no inotify")
def test_a_rank_that_is_heard_of_before_it_has_files(tmp_path: Path) -> None:
    rank = RankState(RankId(world="w", rank=0, local_rank=0, node=0, group_rank=0, world_size=1, restart=0))
    stdout, _ = files_of(rank, tmp_path)
    with selectors.DefaultSelector() as selector:
        watch = OutputWatch(tmp_path, selector)
        watch.follow([rank])
        stdout.parent.mkdir(parents=True)
        watch.follow([rank])  # its agent has told of it, its process has not begun
        stdout.touch()
        assert not selector.select(0)

        stdout.write_text("step 3\n")
        [(woken, _)] = selector.select(10)
        woken.data()
        assert not selector.select(0), "what woke it was read"
        watch.close()
