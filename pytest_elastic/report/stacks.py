"""Python stacks as faulthandler wrote them: where a rank was, in one line; ranks that were at one place, folded."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

_FRAME: Final = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$')
_PACKAGES: Final = ("pytest_elastic", "_pytest", "pluggy", "torch", "hypothesis")
_TELLING: Final = ("hypothesis_example_ended",)
"""Functions that say more of where a rank is than the one that the user called."""
_INTERNAL: Final = re.compile(
    rf"""^<(string|frozen\ )
    | [/\\](site|dist)-packages[/\\](({"|".join(_PACKAGES)})[/\\]|typing_extensions\.py$)   # which wraps torch's
    | [/\\]lib[/\\]python3\.\d+[/\\](?!(site|dist)-packages)   # the standard library
    """,
    re.VERBOSE,
)
_OURS: Final = re.compile(r'^  File ".*[/\\]pytest_elastic[/\\]worker[/\\]regularly\.py"')
_THREAD: Final = re.compile(r"^((?:Current t|T)hread) 0x[0-9a-f]+")
_SHOWN_STACK: Final = 60


def read_stacks(directory: Path) -> str:
    """Return the stacks that a rank wrote last; an empty text if there are none."""
    try:
        text = (directory / "stacks.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.strip()


def shown(stack: str) -> str:
    """Return stacks as a report shows them: without the frames, the same in each, by which a rank comes to its work."""
    return "\n".join(without_our_frames(stack)[:_SHOWN_STACK]).strip()


def without_our_frames(stack: str) -> list[str]:
    """Return the lines of stacks, and of what is written around them, but not the frames outside of the user's."""
    blocks: list[list[str]] = [[]]
    for line in stack.splitlines():
        if line.startswith(("Thread ", "Current thread ")):
            blocks.append([])
        if not line.startswith("Extension modules:"):
            # Ranks that are at one place have threads of different numbers.
            blocks[-1].append(_THREAD.sub(r"\1", line))
    return [line for block in blocks if not _is_ours(block) for line in _down_to_the_work(block)]


def _is_ours(block: list[str]) -> bool:
    """Tell whether a thread is one that this package has started in a rank."""
    return any(_OURS.search(line) for line in block)


def _down_to_the_work(block: list[str]) -> list[str]:
    """Drop the outermost frames of a thread that are not the user's; keep all if none is."""
    last = max((i for i, line in enumerate(block) if _is_users(line)), default=len(block))
    return [line for i, line in enumerate(block) if i <= last or _FRAME.match(line) is None]


def _is_users(line: str) -> bool:
    frame = _FRAME.match(line)
    return frame is not None and not is_internal(frame["file"])


def is_internal(file: str) -> bool:
    """Tell whether a frame's file is none of the user's: of Python, torch, pytest or this package.

    A user's own directory may be called ``torch``, so only the packages' real places count.
    """
    return _INTERNAL.search(file) is not None or file.startswith(_package_directories())


def _package_directories() -> tuple[str, ...]:
    """Return where the packages are, for those that are not in ``site-packages``: a checkout of torch, say."""
    places = [Path(__file__).parents[1]]
    for name in _PACKAGES:
        module = sys.modules.get(name)
        if module is not None and module.__file__ is not None:
            places.append(Path(module.__file__).parent)
    return tuple(f"{place}{os.sep}" for place in places)


def where(stack: str) -> str:
    """Say in a few words where the main thread was: ``all_reduce at test_x.py:17``; empty if nobody knows.

    Args:
        stack: Stacks of all threads, newest frame first, as faulthandler writes them.
    """
    matches = [match for match in map(_FRAME.match, _main_thread(stack)) if match]
    return place([(match["file"], match["line"], match["function"]) for match in matches])


def place(frames: Sequence[tuple[str, str | int, str]]) -> str:
    """Say in a few words where some frames are: the user's line, and what was called there; empty if there are none.

    Args:
        frames: File, line and function, newest first.
    """
    if not frames:
        return ""
    outer = next((i for i, (file, _, _) in enumerate(frames) if not is_internal(file)), 0)
    file, line, function = frames[outer]
    # Frames of torch's around the call say nothing that the called function's name does not.
    names = [name for _, _, name in reversed(frames[:outer])]
    called = next((name for name in names if name in _TELLING), None)
    called = called or next((name for name in names if name not in ("wrapper", "inner")), function)
    return f"{called} at {Path(file).name}:{line}"


def _main_thread(stack: str) -> list[str]:
    blocks: list[list[str]] = []
    for line in stack.splitlines():
        if line.startswith(("Thread ", "Current thread ")):
            blocks.append([])
        elif blocks:
            blocks[-1].append(line)
    # faulthandler writes the main thread last.
    return blocks[-1] if blocks else []


def fold(ranks: Iterable[int]) -> str:
    """Write a set of ranks shortly: ``rank 2``, ``ranks 0-1,3``."""
    numbers = sorted(ranks)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"rank{'' if len(numbers) == 1 else 's'} {text}"
