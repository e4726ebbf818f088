"""``--elastic-spawn=forkserver``: what tests spawn is forked from a preloaded server. PYTEST_DONT_REWRITE."""

from __future__ import annotations

import ast
import os
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import context, popen_spawn_posix, process, spawn
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_elastic import kernel
from pytest_elastic.controller.environment import needs_fresh_interpreter
from pytest_elastic.controller.measuring import FOR_SUBPROCESSES
from pytest_elastic.controller.reaping import Reaper
from pytest_elastic.controller.server import (
    SINGLE_THREADED,
    PreloadedServer,
    make_run_directory,
    remove_run_directory,
)
from pytest_elastic.controller.spawn_popen import Popen, ServerGoneError, TooManyDescriptorsError
from pytest_elastic.controller.steady_thread import SteadyThread
from pytest_elastic.forking import wants_fresh_interpreters
from pytest_elastic.messages import PreloadOrder
from pytest_elastic.options import SETTINGS
from pytest_elastic.roles import GIVEN
from pytest_elastic.warning import ElasticWarning

_AUTO: Final = "auto"
_AUTO_ROOTS: Final = ("torch", "numpy")
_HINTS: Final = (b"multiprocessing", b"MultiProc", b"distributed", b"spawn")
"""What is in test files that spawn processes, or import a base class that does."""
_PATIENCE: Final = 300.0
"""Seconds for the preload."""
"""Variables by which a fresh interpreter is told to begin to measure before it does anything else."""
_READ_AT_START: Final = (
    *("PYTHON", "LANG", "LC_", "GLIBC_", "GOMP_", "OMP_", "MKL_", "OPENBLAS_"),
    *("PYTORCH_", "TORCH_CPP_LOG_LEVEL", "TORCH_COMPILE", "TORCH_TRACE", "TORCHDYNAMO_", "TORCHINDUCTOR_"),
)
_READ_LATER: Final = frozenset({"PYTHONPATH", "OMP_NUM_THREADS"})
"""Variables of such a name that a forked process applies all the same: the first is in ``sys.path``."""


class Spawning:
    """A plugin that lives in sessions with the option.

    Nothing is started before a file shows that it is going to be needed, or a process is spawned.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        given = config.stash[GIVEN]
        preload = given["preload"].value if "preload" in given else SETTINGS["preload"].default
        self._named: Final[tuple[str, ...]] = preload
        self._cwd: Final = config.invocation_params.dir
        self._owner: Final = kernel.own_pid()
        self._executable: Final = spawn.get_executable()
        self._lock = threading.Lock()
        self._starter = SteadyThread()
        self._directory: Path | None = None
        self._reaper: Reaper | None = None
        self._server: PreloadedServer | None = None
        self._environ: dict[str, str] = {}
        self._hinted: set[Path] = set()
        self._ready = False
        self._off = False
        config.add_cleanup(self.close)

    # --- hooks ---

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path) -> None:
        """Start the server while tests are still being collected: both import torch at the same time."""
        try:
            source = module_path.read_bytes()
        except OSError:
            return  # pytest says so when it imports the file.
        if any(hint in source for hint in _HINTS):
            self._hinted.add(module_path)
            early = torch_imports(source) if _AUTO in self._named else ()
            with self._lock:
                self._start(early)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell the server what to import, or end it if none of the files that it was started for is left."""
        with self._lock:
            if self._server is None:
                return
            wanted = any(item.path in self._hinted for item in session.items)
            if wanted and self._changed(os.environ) is None:
                self._server.preload(self._order())
                return
            self._end()
            if wanted:  # What was imported has read variables that a conftest or test file has changed since.
                self._start()
                self._server.preload(self._order())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Have processes forked while tests run."""
        with self._in_place_of_spawn():
            return (yield)

    # --- the start method ---

    @contextmanager
    def _in_place_of_spawn(self) -> Iterator[None]:
        # In the class of the processes, not in multiprocessing's register of contexts: a context, a default start
        # method and a class that somebody holds since before are meant too.
        spawned: Any = context.SpawnProcess
        before = vars(spawned)["_Popen"]
        spawned._Popen = staticmethod(self._popen)
        try:
            yield
        finally:
            spawned._Popen = before

    def _popen(self, process_obj: process.BaseProcess) -> Any:
        server = self._server_for_spawn()
        if server is not None:
            try:
                return Popen(process_obj, server)
            except TooManyDescriptorsError:
                pass
            except ServerGoneError as error:
                self._give_up(f"the preloaded server is lost ({error})")
        return popen_spawn_posix.Popen(process_obj)

    def _server_for_spawn(self) -> PreloadedServer | None:
        if (
            self._off
            or kernel.own_pid() != self._owner
            or wants_fresh_interpreters()
            or spawn.get_executable() != self._executable
            or any(name in os.environ for name in FOR_SUBPROCESSES)
        ):
            return None
        with self._lock:
            if self._server is None:
                self._start()
            assert self._server is not None
            server = self._server
            if self._changed(os.environ) is not None:
                return None
            problem = None if self._ready else self._wait_until_ready(server)
            self._ready = problem is None
        if problem is not None:
            self._give_up(problem)
            return None
        return server

    def _wait_until_ready(self, server: PreloadedServer) -> str | None:
        server.preload(self._order())
        said = server.preloaded(_PATIENCE)
        if said is None:
            if server.alive():
                return f"the preloaded server was not ready within {_PATIENCE:g} s"
            return f"the preloaded server ended while it imported modules:\n{server.last_words()}"
        if said.broken is not None:
            return f"the preloaded server could not import its modules:\n{said.broken}"
        if said.unsafe is not None:
            return f"{said.unsafe}, and a process with threads or a device in use cannot be forked safely"
        return None

    def _give_up(self, why: str) -> None:
        with self._lock:
            told, self._off = self._off, True
            self._end()
        if not told:
            warnings.warn(
                ElasticWarning(
                    f"--elastic-spawn=forkserver: {why}; processes of this session are spawned from here on. "
                    "The ini key elastic_preload names the modules that are imported beforehand."
                ),
                stacklevel=5,
            )

    # --- the server ---

    def _start(self, early: tuple[str, ...] = ()) -> None:
        if self._server is not None or self._off:
            return
        if self._directory is None:
            self._directory = make_run_directory()
            self._reaper = Reaper(self._directory)
        directory = self._directory
        self._environ = dict(os.environ)
        self._server = self._starter.call(
            lambda: PreloadedServer(invocation_dir=self._cwd, directory=directory, early=early)
        )

    def _order(self) -> PreloadOrder:
        modules: dict[str, None] = {}
        tolerated: set[str] = set()
        for name in self._named:
            if name == _AUTO:
                found = imported_modules(_AUTO_ROOTS)
                modules.update(dict.fromkeys(found))
                tolerated.update(found)
            else:
                modules[name] = None
        named = frozenset(self._named)
        return PreloadOrder(
            session=None,
            modules=tuple(modules),
            tolerated=frozenset(tolerated - named),
            sys_path=tuple(sys.path),
            environ={name: value for name, value in os.environ.items() if name not in SINGLE_THREADED},
        )

    def _changed(self, environ: Mapping[str, str]) -> str | None:
        """Return a variable that the server has read already and that differs now."""
        return needs_fresh_interpreter(environ, self._environ) or next(
            (
                name
                for name in sorted({*environ, *self._environ})
                if name.startswith(_READ_AT_START)
                and name not in _READ_LATER
                and environ.get(name) != self._environ.get(name)
            ),
            None,
        )

    def _end(self) -> None:
        server, self._server = self._server, None
        self._ready = False
        if server is not None:
            server.stop()

    def close(self) -> None:
        """End the server and every process that it forked."""
        if kernel.own_pid() != self._owner:
            return  # a fork of pytest: nothing of this is its own
        with self._lock:
            self._off = True
            self._end()
            self._starter.end()
            if self._reaper is not None:
                self._reaper.dismiss()
                self._reaper = None
            if self._directory is not None:
                remove_run_directory(self._directory)
                self._directory = None


def torch_imports(source: bytes) -> tuple[str, ...]:
    """Return the modules of torch that a file imports at its top level; of ``from x import y`` only ``x``."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()  # pytest says so when it imports the file
    found: dict[str, None] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            found.update((alias.name, None) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module is not None and statement.level == 0:
            found[statement.module] = None
    return tuple(name for name in found if name.partition(".")[0] == "torch")


def imported_modules(roots: tuple[str, ...]) -> list[str]:
    """Return the modules of some packages that this process has imported, in the order in which it began to."""
    found = []
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if name.partition(".")[0] in roots and getattr(spec, "name", None) == name:
            found.append(name)
    return found
