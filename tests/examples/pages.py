"""The pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cogapp import Cog

ROOT: Final = Path(__file__).parents[2]
_COG: Final = ("--verbosity=1", "-P", "-p", "from tests.examples.blocks import output, section, show")
_FENCE: Final = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    generated: bool


def pages() -> list[Path]:
    """Return the pages, in order of their names."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> Iterator[Block]:
    """Find the fenced blocks of a page."""
    generated, fence, at, language = False, "", 0, ""
    text: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        found = _FENCE.match(line)
        if fence:
            if found and found[2] == fence and not found[3].strip():
                page = path.relative_to(ROOT).as_posix()
                yield Block(page=page, line=at, language=language, text="\n".join(text), generated=generated)
                fence = ""
            else:
                text.append(line)
        elif found:
            fence, text, at, language = found[2], [], number, found[3].strip()
        elif "[[[cog" in line:
            generated = True
        elif "[[[end]]]" in line:
            generated = False


def fill(*, check: bool = False) -> str:
    """Have cog write the blocks of all pages, or with ``check`` see whether they are as it would write them.

    Returns:
        What is wrong; empty if nothing is.
    """
    printed = io.StringIO()
    arguments = ["cog", "--check", "--diff"] if check else ["cog", "-r"]
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            code = Cog().main([*arguments, *_COG, *(path.relative_to(ROOT).as_posix() for path in pages())])
    finally:
        os.chdir(before)
    return printed.getvalue() if code else ""
