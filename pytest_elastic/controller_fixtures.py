"""Fixtures that are set up once, in the controller, and whose values ranks get. PYTEST_DONT_REWRITE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

import pytest

from pytest_elastic.roles import GIVEN

if TYPE_CHECKING:
    Scope = Literal["session", "package", "module", "class", "function"]
    ScopeOf = Scope | Callable[[str, pytest.Config], Scope]
    Ids = Sequence[object | None] | Callable[[Any], object | None]

Kind = Literal["users", "own", "factory"]
"""Whose such a fixture is; ``"factory"`` is one of ours whose value is a function that the controller calls."""

F = TypeVar("F", bound=Callable[..., object])

MARK: Final = "_elastic_controller_fixture"
"""Attribute of a fixture function; its value is a :data:`Kind`."""

SETTING_UP: Final = pytest.StashKey[str]()
"""Name of the controller fixture that is being set up for ranks."""


@overload
def controller_fixture(
    fixture_function: Callable[..., object],
    *,
    scope: ScopeOf = ...,
    params: Iterable[object] | None = ...,
    autouse: bool = ...,
    ids: Ids | None = ...,
    name: str | None = ...,
) -> Any: ...


@overload
def controller_fixture(
    fixture_function: None = ...,
    *,
    scope: ScopeOf = ...,
    params: Iterable[object] | None = ...,
    autouse: bool = ...,
    ids: Ids | None = ...,
    name: str | None = ...,
) -> Callable[[Callable[..., object]], Any]: ...


def controller_fixture(
    fixture_function: Callable[..., object] | None = None,
    *,
    scope: ScopeOf = "function",
    params: Iterable[object] | None = None,
    autouse: bool = False,
    ids: Ids | None = None,
    name: str | None = None,
) -> Any:
    """Declare a fixture that is set up and torn down once, in the pytest process, also for tests that run on ranks.

    Ranks get its value by pickle. It may request only what exists in the pytest process, so not ``rank``. With
    ``scope="session"`` the workers of pytest-xdist share one.

    Args:
        fixture_function: The fixture function, where the decorator is used without parentheses.
        scope: As in ``pytest.fixture``, as all others are.
        params: Parameters; each makes one more test.
        autouse: Used by every test that can see it.
        ids: Ids of the parameters.
        name: Name of the fixture, if not that of the function.
    """

    def declare(function: Callable[..., object]) -> Any:
        # A staticmethod or classmethod keeps the function that pytest is going to call.
        set_kind(getattr(function, "__func__", function), "users")
        return pytest.fixture(scope=scope, params=params, autouse=autouse, ids=ids, name=name)(function)

    return declare if fixture_function is None else declare(fixture_function)


def set_kind(function: object, kind: Kind) -> None:
    """Note on a fixture function that it is the controller's."""
    setattr(function, MARK, kind)


def moved(kind: Kind) -> Callable[[F], F]:
    """Return a decorator, below ``pytest.fixture``, for a fixture of this plugin's that is the controller's."""

    def mark(function: F) -> F:
        set_kind(function, kind)
        return function

    return mark


def named_in_ini(config: pytest.Config) -> tuple[str, ...]:
    """Return the names that the ini key ``elastic_controller_fixtures`` gives."""
    given = config.stash[GIVEN].get("controller_fixtures")
    return given.value if given is not None else ()


def kind_of(definition: Any, named: Sequence[str]) -> Kind | None:
    """Tell whether a fixture is the controller's, by a mark or by its name; ``None`` if it is not.

    Args:
        definition: pytest's definition of the fixture.
        named: Names from the ini file.
    """
    kind: Kind | None = getattr(definition.func, MARK, None)
    return kind or ("users" if definition.argname in named else None)


class NotSent:
    """Stands for a value that cannot be pickled, of a fixture that nobody asked for by its name."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __reduce__(self) -> tuple[type[NotSent], tuple[str]]:
        return type(self), (self._why,)

    def __repr__(self) -> str:
        return f"<{self._why}>"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(vars(self).get("_why", name))


def unsendable(name: str, value: object, error: BaseException, to: str = "ranks") -> str:
    """Say in one line that the value of a fixture cannot be pickled."""
    why = str(error).partition("\n")[0]
    return (
        f"controller fixture {name!r} has a value of type {type(value).__qualname__!r} that cannot be sent to {to} "
        f"({type(error).__name__}: {why}); give it one that pickles, such as an address"
    )
