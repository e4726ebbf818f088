"""The grid: a few of its cells every day, all of them by ``make soak``."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from .grid import PHASES, Cell, a_few, all_cells
from .grid.running import in_chunks, wrong_in
from .sessions import measure_pace
from .table import deadline_for

AT_A_TIME = 3
"""Sessions that run side by side: much of a cell is waiting."""
PATIENCE = 2
"""How many times as long as other rows those that hang may take: ranks of several sessions start side by side."""


def wrong_among(lots: list[list[Cell]], timeout: float) -> list[str]:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return [text for wrong in pool.map(lambda lot: wrong_in(lot, timeout), lots) for text in wrong]


def report_of(wrong: list[str]) -> str:
    return "\n".join([f"{len(wrong)} wrong", *wrong])


def cells_of(phase: str) -> list[Cell]:
    """Return the cells of a phase; ``GRID`` in the environment leaves only those whose names have a word in them."""
    return [cell for cell in all_cells() if cell.phase == phase and os.environ.get("GRID", "") in cell.id]


def test_a_few_cells_have_the_verdict_that_the_rule_says() -> None:
    # Chosen so that as many pairs of dimensions as possible meet; all of them are in the soak.
    some = a_few((cell for cell in all_cells() if not cell.alone), most=16)
    wrong = wrong_in(in_chunks(some)[0], PATIENCE * deadline_for("forkserver", measure_pace()))
    assert not wrong, report_of(wrong)


@pytest.mark.soak
@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "import"])
def test_every_cell_has_the_verdict_that_the_rule_says(phase: str) -> None:
    wrong = wrong_among(in_chunks(cells_of(phase)), PATIENCE * deadline_for("forkserver", measure_pace()))
    assert not wrong, report_of(wrong)


@pytest.mark.soak
@pytest.mark.parametrize("phase", ["import", "server-import", "server-collection"])
def test_every_cell_that_is_about_a_session_has_the_verdict_that_the_rule_says(phase: str) -> None:
    timeout = deadline_for("spawn", measure_pace())  # the server has not even imported torch when it begins
    wrong = wrong_among([[cell] for cell in cells_of(phase)], timeout)
    assert not wrong, report_of(wrong)
