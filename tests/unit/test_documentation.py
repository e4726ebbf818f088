"""Pages name what is there: links lead somewhere, and the drawing of the architecture has the folders that exist."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pytest_elastic
from pytest_elastic import hookspecs, plugin
from pytest_elastic.options import SETTINGS

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGE: Final = ROOT / "pytest_elastic"
FOLDERS: Final = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_FENCED: Final = re.compile(r"^(`{3,})[^`]*?^\1$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return what a link may name after ``#``, as GitHub and MyST make it of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> Iterator[str]:
    for target in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or not found.is_relative_to(ROOT):
            yield f"{target}: no such file"
        elif anchor and found.suffix == ".md" and anchor not in anchors(found):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("page", [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    assert not list(broken(page))


def test_architecture_has_the_folders_that_exist() -> None:
    drawn = (ROOT / "docs/architecture.svg").read_text()
    assert set(re.findall(r">(\w+)/<", drawn)) == FOLDERS
    page = (ROOT / "docs/architecture.md").read_text()
    assert set(re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE)) == FOLDERS
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"^\| `pytest_elastic/(\w+)/` \|", contributing, re.MULTILINE)) <= FOLDERS


def test_architecture_names_files_that_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    drawn = (ROOT / "docs/architecture.svg").read_text()
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", page) + re.findall(r"\b(\w+\.py)\b", drawn)
    absent = [name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()]
    assert named
    assert not absent


def test_everything_public_is_on_the_page_about_the_api() -> None:
    page = (ROOT / "docs/reference/api.md").read_text()
    assert set(re.findall(r"auto\w+:: pytest_elastic\.(\w+)(?:\(\))?$", page, re.MULTILINE)) == set(
        pytest_elastic.__all__
    ) | {"hookspecs"}


def test_every_setting_is_on_the_page_about_settings() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    rows = re.findall(r"^\| (?:`(\w+)`)? *\| (?:`(--[\w-]+)`)? *\| (?:`(\w+)`)? *\|", page, re.MULTILINE)
    arguments, options, keys = ({name for name in column if name} for column in zip(*rows, strict=True))
    assert arguments == {setting.name for setting in SETTINGS.values() if setting.launch}
    assert options == {setting.flag_name for setting in SETTINGS.values() if setting.option}
    assert keys == {setting.ini for setting in SETTINGS.values() if setting.in_ini}


def test_every_fixture_is_on_the_page_about_fixtures() -> None:
    page = (ROOT / "docs/reference/fixtures.md").read_text()
    named = {
        name for cell in re.findall(r"^\| (`\w+`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    made = {name for name, value in vars(plugin).items() if type(value).__name__ == "FixtureFunctionDefinition"}
    assert named == {name for name in made if not name.startswith("_")}


def test_every_hook_is_on_the_page_about_hooks() -> None:
    page = (ROOT / "docs/reference/hooks.md").read_text()
    # A hook's line begins with its call, arguments and all.
    told = dict(re.findall(r"^\| `(pytest_elastic_\w+)\((.*?)\)` \|", page, re.MULTILINE))
    made = {name: value for name, value in vars(hookspecs).items() if name.startswith("pytest_elastic_")}
    assert told == {name: ", ".join(inspect.signature(value).parameters) for name, value in made.items()}


def test_drawings_are_told_in_words() -> None:
    for drawing in (ROOT / "docs").glob("*.svg"):
        text = drawing.read_text()
        assert "<title" in text
        assert "<desc" in text
