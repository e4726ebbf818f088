"""Pages show what is in the files of the suite, and what commands print."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..ready.popen import Zygote, popen_by
from .by_hand import BY_HAND, MADE_ELSEWHERE
from .pages import ROOT, Block, blocks, fill, pages
from .running import OUTPUT, masked, run, stored
from .runs import RUNS

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.stop()


def test_blocks_are_filled() -> None:
    wrong = fill(check=True)
    assert not wrong, f"fill them: python -m tests.examples.write --pages\n{wrong}"


def test_blocks_by_hand_are_listed() -> None:
    found = [block for path in pages() for block in blocks(path) if block.page not in MADE_ELSEWHERE]
    # What has braces is a directive of the page itself.
    by_hand = [block for block in found if not block.generated and not block.language.startswith("{")]
    listed = {(page, beginning) for page, lines in BY_HAND.items() for beginning in lines}
    seen = {
        block: {(page, text) for page, text in listed if page == block.page and block.text.lstrip().startswith(text)}
        for block in by_hand
    }
    unlisted = [f"{block.page}:{block.line}: {block.text.splitlines()[0]}" for block in by_hand if not seen[block]]
    assert not unlisted, "neither made from a file that runs nor listed in by_hand.py:\n" + "\n".join(unlisted)
    assert not listed - set().union(*seen.values()), "listed in by_hand.py, and not there"


def test_every_example_is_run() -> None:
    files = {path for path in FOLDER.glob("*/**/*.py") if path.parent.name != "output"}
    shown = {ROOT / source for each in RUNS.values() for source in each.files.values()}
    collected = {path for path in files if path.name.startswith("test_") and "failing" not in path.parts}
    imported = {path for path in files if path.name == "conftest.py"}
    migrated = {path for path in files if path.name == "before.py"}  # run by test_migrating.py
    assert not files - shown - collected - imported - migrated


def test_every_output_belongs_to_a_run() -> None:
    assert {path.stem for path in OUTPUT.glob("*.txt")} == set(RUNS)


def test_outputs_name_no_place_of_this_machine() -> None:
    ours = (str(ROOT), sys.prefix, tempfile.gettempdir() + "/", str(Path.home()) + "/.")
    assert not [path.name for path in OUTPUT.glob("*.txt") if any(place in path.read_text() for place in ours)]


@pytest.mark.parametrize(
    "name", [pytest.param(each.name, marks=() if each.quick else pytest.mark.soak) for each in RUNS.values()]
)
def test_commands_print_what_is_shown(name: str, zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
    each = RUNS[name]
    monkeypatch.setattr(subprocess, "Popen", popen_by(zygote))
    assert masked(each, run(each)) == masked(each, stored(each)), f"run it: python -m tests.examples.write {name}"


def test_blocks_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.examples.pages.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```sh\nmake\n```\n<!-- [[[cog x ]]] -->\n````\n```\ninner\n````\n<!-- [[[end]]] -->\n")
    assert list(blocks(page)) == [
        Block(page="page.md", line=1, language="sh", text="make", generated=False),
        Block(page="page.md", line=5, language="", text="```\ninner", generated=True),
    ]
