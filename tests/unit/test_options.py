from __future__ import annotations

from typing import Any

import pytest

from pytest_elastic.options import SETTINGS, Given, Setting, may_be_member, read_options, split_endpoint

GOOD: dict[str, tuple[str, Any]] = {
    "nproc": ("4", 4),
    "nnodes": ("1:2", "1:2"),
    "backend": ("gloo", "gloo"),
    "device": ("cuda", "cuda"),
    "timeout": ("2.5", 2.5),
    "max_restarts": ("3", 3),
    "rdzv_backend": ("c10d", "c10d"),
    "isolation": ("module", "module"),
    "start_method": ("spawn", "spawn"),
    "env": ("A=1\nB=x=y", {"A": "1", "B": "x=y"}),
    "seed": ("7", 7),
    "grace": ("0.5", 0.5),
    "log_dir": ("logs", "logs"),
    "show_output": ("all", "all"),
    "pdb_rank": ("3", 3),
    "record": ("kept/record", "kept/record"),
    "report": ("kept/page.html", "kept/page.html"),
    "serve": ("on", True),
    "trace": ("trace.json", "trace.json"),
    "durations": ("0", 0),
    "debug": ("collectives", "collectives"),
    "strict": ("true", True),
    "cpu_slots": ("4", 4),
    "group": ("yes", True),
    "controller_fixtures": ("docker_services, db_url\nother", ("docker_services", "db_url", "other")),
    "spawn": ("forkserver", "forkserver"),
    "preload": ("auto, package.part\nother", ("auto", "package.part", "other")),
    "nodes": ("2", 2),
    "node_rank": ("1", 1),
    "rdzv_endpoint": ("[::1]:29400", "[::1]:29400"),
    "key_file": ("key", "key"),
    "node_timeout": ("2.5", 2.5),
    "join_timeout": ("60", 60.0),
    "pack": ("on", True),
}
BAD = {
    "nproc": "2.5",
    "nnodes": "2:1",
    "backend": " ",
    "device": "cuda:1",
    "timeout": "abc",
    "max_restarts": "-1",
    "rdzv_backend": "zk",
    "isolation": "package",
    "start_method": "fork",
    "env": "A",
    "seed": "x",
    "grace": "0",
    "log_dir": "",
    "show_output": "some",
    "pdb_rank": "-1",
    "record": "",
    "report": "",
    "serve": "perhaps",
    "trace": " ",
    "durations": "-1",
    "debug": "everything",
    "strict": "perhaps",
    "cpu_slots": "0",
    "group": "perhaps",
    "controller_fixtures": "db.url",
    "spawn": "fork",
    "preload": "a-b",
    "nodes": "0",
    "node_rank": "-1",
    "rdzv_endpoint": "::1:29400",
    "key_file": "",
    "node_timeout": "0",
    "join_timeout": "0",
    "pack": "perhaps",
}


class FakeConfig:
    """Only what ``read_options`` asks of pytest's configuration."""

    def __init__(self, *, options: dict[str, str] | None = None, ini: dict[str, str] | None = None) -> None:
        self._options, self._ini = options or {}, ini or {}

    def getoption(self, name: str, default: object) -> object:
        return self._options.get(name, default)

    def getini(self, name: str) -> object:
        return self._ini.get(name)


def read(**kwargs: dict[str, str]) -> dict[str, Any]:
    return {name: given.value for name, given in read_options(FakeConfig(**kwargs)).items()}  # type: ignore[arg-type]


def test_every_setting_is_tried() -> None:
    assert set(GOOD) == set(BAD) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_from_the_ini_file(name: str) -> None:
    text, value = GOOD[name]
    assert read(ini={f"elastic_{name}": text}) == ({name: value} if SETTINGS[name].in_ini else {})


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS.values() if setting.option])
def test_a_setting_from_an_option(name: str) -> None:
    text, value = GOOD[name]
    assert read(options={f"elastic_{name}": text}) == {name: value}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_absent_setting_is_not_given(name: str) -> None:
    assert name not in read()


def test_the_option_wins_over_the_ini_file() -> None:
    assert read(options={"elastic_nproc": "8"}, ini={"elastic_nproc": "2"}) == {"nproc": 8}


@pytest.mark.parametrize("setting", [s for s in SETTINGS.values() if BAD[s.name].strip()], ids=lambda s: str(s.name))
def test_a_bad_setting_is_one_line_that_names_its_source(setting: Setting) -> None:
    for kwargs, source in (
        ({"ini": {setting.ini: BAD[setting.name]}}, f"ini {setting.ini}"),
        ({"options": {setting.ini: BAD[setting.name]}}, setting.flag_name),
    )[0 if setting.in_ini else 1 :]:
        with pytest.raises(pytest.UsageError) as error:
            read(**kwargs)
        assert str(error.value) == f"{source}: got {BAD[setting.name]!r}, expected {setting.allowed}"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("timeout", "none", None), ("seed", "none", None), ("backend", "none", None), ("debug", "none", None)],
)
def test_none_can_be_written(name: str, text: str, value: object) -> None:
    assert read(ini={f"elastic_{name}": text}) == {name: value}


def test_option_names() -> None:
    flags = {setting.flag_name for setting in SETTINGS.values() if setting.option}
    assert flags == {
        "--elastic-nproc",
        "--elastic-report",
        "--elastic-serve",
        "--elastic-trace",
        "--elastic-durations",
        "--elastic-debug",
        "--elastic-timeout",
        "--elastic-backend",
        "--elastic-device",
        "--elastic-start-method",
        "--elastic-isolation",
        "--elastic-strict",
        "--elastic-cpu-slots",
        "--elastic-group",
        "--elastic-show-output",
        "--elastic-log-dir",
        "--elastic-pdb-rank",
        "--elastic-record",
        "--elastic-spawn",
        "--elastic-nodes",
        "--elastic-node-rank",
        "--elastic-rdzv-endpoint",
        "--elastic-key-file",
        "--elastic-node-timeout",
        "--elastic-join-timeout",
        "--elastic-pack",
    }


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS.values() if s.option and not s.flag], ids=lambda s: str(s.name)
)
def test_an_empty_option_is_refused_and_an_empty_ini_key_is_none(setting: Setting) -> None:
    assert read(ini={setting.ini: ""}) == {}
    with pytest.raises(pytest.UsageError) as error:
        read(options={setting.ini: ""})
    assert str(error.value) == f"{setting.flag_name}: got '', expected {setting.allowed}"


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("head:29400", ("head", 29400)),
        ("node-1.pods.default.svc.cluster.local:1", ("node-1.pods.default.svc.cluster.local", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:29400", ("::1", 29400)),
        ("[fe80::1:2]:80", ("fe80::1:2", 80)),
        ("[::ffff:10.0.0.1]:80", ("::ffff:10.0.0.1", 80)),
        ("head", None),
        ("head:", None),
        (":29400", None),
        ("head:0", None),
        ("head:65536", None),
        ("head:٣", None),
        ("::1:29400", None),
        ("1:29400", None),
        ("10.1:29400", None),
        ("[::1]", None),
        ("[head]:29400", None),
        ("-head:29400", None),
        ("tcp://head:29400", None),
        ("a b:29400", None),
        ("head:29400\n", None),
    ],
)
def test_endpoints(text: str, split: tuple[str, int] | None) -> None:
    assert split_endpoint(text) == split


def test_a_look_at_a_few_names_tells_whether_there_may_be_other_members() -> None:
    assert not may_be_member({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "SLURM_JOB_ID": "1"}, {})
    assert not may_be_member({"JOB_COMPLETION_INDEX": "1"}, {"nproc": Given(2, "--elastic-nproc")})
    for name in ("TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_STEP_ID"):
        assert may_be_member({name: ""}, {})
    for name in ("nodes", "node_rank", "rdzv_endpoint"):
        assert may_be_member({}, {name: Given(2, "--elastic-x")})
