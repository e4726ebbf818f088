"""What fills the code blocks of a page: a comment beside the block calls these functions, and cog writes the block.

<!-- [[[cog show("tests/examples/tutorial/test_sums.py", "test_sum_of_ranks") ]]] -->
<!-- [[[end]]] -->
<!-- [[[cog output("sums") ]]] -->
<!-- [[[end]]] -->
"""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path
from posixpath import normpath
from typing import Final, TypeAlias

from .running import stored
from .runs import RUNS

ROOT: Final = Path(__file__).parents[2]
_FOLDERS: Final = ("tests/examples/", "examples/", "tests/integration/existing/")
"""Where files are that the suite runs, and that a page may show."""
_LANGUAGES: Final = {".py": "python", ".sh": "sh", ".yml": "yaml", ".yaml": "yaml", ".toml": "toml", ".ini": "ini"}
_FROM: Final = re.compile(r"\s*# \[(\w[\w -]*)\]$")
_TO: Final = re.compile(r"\s*# \[/(\w[\w -]*)\]$")
_DEFINES: Final = re.compile(r"def |class |async |@")
_LEFT_OUT: Final = "..."
Piece: TypeAlias = str | tuple[str, str]


def show(path: str, *parts: str) -> None:
    """Print a file as a block, or parts of it.

    Args:
        path: The file, from the root of the repository.
        *parts: The name of a function, class (``Class.method`` too) or variable; of lines between the comments
            ``# [name]`` and ``# [/name]``; or ``imports``, those at the beginning of the file.
    """
    if not path.startswith(_FOLDERS):
        raise ValueError(f"show: {path!r} is in none of {', '.join(_FOLDERS)}, whose files the suite runs")
    source = (ROOT / path).read_text()
    found = [_without_comments(part_of(source, part, path)) for part in parts] or [_without_comments(source)]
    text = found[0]
    for before, after in pairwise(found):
        apart = "\n\n\n" if _DEFINES.match(after) or _DEFINES.match(before) else "\n\n"
        text += apart + after
    _block(text, _LANGUAGES.get(Path(path).suffix, ""))


def output(name: str, *pieces: Piece) -> None:
    r"""Print what the commands of a run print as a block.

    Args:
        name: The name of the run in ``runs.py``.
        *pieces: Which lines: a regular expression that is found in a line, or two of them, for all from the first
            such line to the next one of the other (``\Z``: to the end). Without pieces, what is above the first test is
            left out. Where there are several commands, each is searched for all of them.
    """
    wanted = pieces or (_HEADLESS,)
    unseen = set(wanted) - {_HEADLESS}
    transcripts = []
    for command, text in stored(RUNS[name]):
        lines, seen = _pieces(text.splitlines(), wanted)
        unseen -= seen
        transcripts.append("\n".join([f"$ {command}", *lines]))
    if unseen:
        raise ValueError(f"output: run {name!r} printed no line with {', '.join(map(repr, unseen))}")
    _block("\n\n".join(transcripts), "")


def section(path: str, heading: str) -> None:
    """Print what is below a heading of another page, for a page in the root of the repository."""
    text = (ROOT / path).read_text()
    body = re.split(rf"^#+ {re.escape(heading)}\n", text, flags=re.MULTILINE)[1]
    body = re.split(r"^#", body, maxsplit=1, flags=re.MULTILINE)[0].strip()
    folder = Path(path).parent.as_posix()
    print(re.sub(r"\]\((?!\w+:)([^)\s]+)\)", lambda link: f"]({normpath(f'{folder}/{link[1]}')})", body))


_HEADLESS: Final = (r"^(collected|collecting|record:) ?.*", r"\Z")


def part_of(source: str, part: str, path: str) -> str:
    """Return a part of a file."""
    lines = source.splitlines()
    begin, end = _between(lines, part) or _definition(source, lines, part) or (0, 0)
    if begin == end:
        raise ValueError(f"show: {path} has no {part!r}")
    text = "\n".join(lines[begin:end])
    indent = len(text) - len(text.lstrip())
    return "\n".join(line[indent:] for line in text.splitlines())


def _between(lines: list[str], part: str) -> tuple[int, int] | None:
    found = [_FROM.match(line) or _TO.match(line) for line in lines]
    marks = [number for number, mark in enumerate(found) if mark is not None and mark[1] == part]
    return (marks[0] + 1, marks[1]) if len(marks) == 2 else None


def _definition(source: str, lines: list[str], part: str) -> tuple[int, int] | None:
    body = ast.parse(source).body
    if part == "imports":
        return _imports(body)
    *classes, last = part.split(".")
    for name in classes:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name), [])
    for node in body:
        if last in _names(node):
            begin = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))]) - 1
            while begin and lines[begin - 1].lstrip().startswith("# "):
                begin -= 1
            return begin, node.end_lineno or begin
    return None


def _imports(body: list[ast.stmt]) -> tuple[int, int] | None:
    nodes = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return (nodes[0].lineno - 1, nodes[-1].end_lineno or 0) if nodes else None


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _without_comments(text: str) -> str:
    """Leave out what is there for these functions, and for ruff."""
    lines = [line for line in text.splitlines() if not _FROM.match(line) and not _TO.match(line)]
    return "\n".join(re.sub(r"  # (noqa|type: ignore).*", "", line) for line in lines).strip("\n")


def _pieces(lines: list[str], pieces: tuple[Piece, ...]) -> tuple[list[str], set[Piece]]:
    """Return the lines to show of what a command printed, and which of the pieces are among them."""
    shown: list[str] = []
    seen: set[Piece] = set()
    at = 0
    for piece in pieces:
        first, last = piece if isinstance(piece, tuple) else (piece, None)
        begin = _find(lines, first, at)
        if begin is None:
            continue
        end = len(lines) - 1 if last == r"\Z" else begin if last is None else _find(lines, last, begin)
        if end is None:
            continue
        shown += [_LEFT_OUT] * (begin > at) + lines[begin : end + 1]
        at = end + 1
        seen.add(piece)
    if pieces == (_HEADLESS,) and not seen:
        return lines, seen
    return shown + [_LEFT_OUT] * (at < len(lines)), seen


def _find(lines: list[str], pattern: str, at: int) -> int | None:
    return next((number for number in range(at, len(lines)) if re.search(pattern, lines[number])), None)


def _block(text: str, language: str) -> None:
    fence = "````" if "```" in text else "```"
    print(f"{fence}{language}\n{text.rstrip()}\n{fence}")
