# SPDX-License-Identifier: Apache-2.0
"""The configuration file: defaults, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcgroup.daemon.config import BoundaryConfig, Config, Wish, load_config
from agentcgroup.errors import EXIT_BAD_CONFIG, ConfigError
from agentcgroup.types.sessions import Boundary, Mode, SessionSpec


def load(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_config(str(file))


def refusal(tmp_path: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.exit_code == EXIT_BAD_CONFIG
    assert str(caught.value).isprintable()
    return caught.value


def test_an_empty_file_is_complete(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()


def test_without_a_file_all_is_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = tmp_path / "absent.toml"
    monkeypatch.setattr("agentcgroup.daemon.config.DEFAULT_CONFIG_PATH", str(default))
    assert load_config() == Config()
    default.write_text('[daemon]\nmode = "off"\n')
    assert load_config().daemon.mode is Mode.OFF


def test_units_are_read_as_people_write_them(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[daemon]\nmode = "observe"\nguardian_timeout_s = "500ms"\n'
        '[host]\nmemory_reserve = "2GB"\n[call]\nmemory = "64M"\nmax_wait_s = "5m"\n'
        "[policy]\nstep = 1048576\n",
    )
    assert config.daemon.mode is Mode.OBSERVE
    assert config.daemon.guardian_timeout_s == 0.5
    assert config.host.memory_reserve == 2 * 10**9
    assert (config.call.memory, config.call.max_wait_s) == (64 << 20, 300.0)
    assert config.policy.step == 1 << 20
    assert config.session == Config().session


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("[daemon]\nmod = 5\n", "daemon.mod", ("no such field", "mode", "log_level")),
        ("[demon]\n", "demon", ("no such field", "daemon", "outcomes")),
        ("[call]\nMemory = 5\n", "call.Memory", ("no such field", "memory")),
        ("daemon = 5\n", "daemon", ("named fields",)),
        ('[daemon]\nmode = "of"\n', "daemon.mode", ("'enforce', 'observe' or 'off'",)),
        ("[daemon]\nguardian = 7\n", "daemon.guardian", ("boolean",)),
        ("[daemon]\nroot = 7\n", "daemon.root", ("must be a valid string",)),
        ('[daemon]\nlog_level = "loud"\n', "daemon.log_level", ("DEBUG|INFO",)),
        ('[daemon]\ncpu_layer = "magic"\n', "daemon.cpu_layer", ("auto|files",)),
        ('[call]\nmemory = "2GBs"\n', "call.memory", ("512M", "2GiB")),
        ('[boundary]\nadopted = "never"\n', "boundary.adopted", ("'declared' or 'exec'",)),
        ('[boundary]\nprograms = ["/bin/sh"]\n', "boundary.programs", ("base names", "no slash")),
        ("[boundary]\nprograms = 7\n", "boundary.programs", ("valid list",)),
        ('[boundary]\nsource = "magic"\n', "boundary.source", ("'auto', 'bpf' or 'connector'",)),
        ("[call]\nmemory = -1\n", "call.memory", ("between 0 and 8 EiB",)),
        ("[call]\nmemory = true\n", "call.memory", ("512M",)),
        ("[call]\nmemory = 1.5\n", "call.memory", ("512M",)),
        ("[call]\nmax_wait_s = 0\n", "call.max_wait_s", ("above 0",)),
        ("[call]\nmax_wait_s = nan\n", "call.max_wait_s", ("above 0",)),
        ("[call]\nmax_wait_s = inf\n", "call.max_wait_s", ("above 0",)),
        ("[session]\npids_max = 2\n", "session.pids_max", ("greater than or equal to 16",)),
        ('[session]\npids_max = "x"\n', "session.pids_max", ("must be a valid integer",)),
        ("[policy]\nthrottle_max_ms = 5\n", "policy.throttle_max_ms", ("equal to 10",)),
        ("[policy]\ndelay_max_ms = 0\n", "policy.delay_max_ms", ("equal to 1",)),
        ("[policy]\ndelay_max_ms = 2001\n", "policy.delay_max_ms", ("equal to 2000",)),
        ("[policy]\ndelay_burst_pct = 101\n", "policy.delay_burst_pct", ("equal to 100",)),
        ("[policy]\ndelay_window_pct = 0\n", "policy.delay_window_pct", ("equal to 1",)),
        ('[daemon]\nmemcg_ops = "yes"\n', "daemon.memcg_ops", ("'off', 'on' or 'required'",)),
        ('[daemon]\nmemory_layers = "gates"\n', "daemon.memory_layers", ("memcg_ops", "gate")),
        ('[daemon]\nmemory_layers = "gate"\n', "daemon.memory_layers", ("--cpu sched_ext",)),
        ("[daemon]\ncpu_require = 7\n", "daemon.cpu_require", ("boolean",)),
        ("[policy]\ngate_closed_ms = 0\n", "policy.gate_closed_ms", ("equal to 1",)),
        ("[policy]\ngate_closed_ms = 1001\n", "policy.gate_closed_ms", ("equal to 1000",)),
        ("[policy]\ngate_open_ms = 0\n", "policy.gate_open_ms", ("equal to 1",)),
        ("[policy]\ngate_open_ms = 1001\n", "policy.gate_open_ms", ("equal to 1000",)),
        ('[docker]\nhost = "tcp://there:2375"\n', "docker.host", ("unix",)),
        ('[docker]\nadopt = "=x"\n', "docker.adopt", ("KEY or KEY=VALUE",)),
        ("[outcomes]\nkeep = 0\n", "outcomes.keep", ("equal to 1",)),
        ("[outcomes]\nkeep_hours = -1\n", "outcomes.keep_hours", ("greater than 0",)),
    ],
)
def test_what_is_refused_is_named(
    tmp_path: Path, text: str, field: str, words: tuple[str, ...]
) -> None:
    error = refusal(tmp_path, text)
    assert error.field == field
    for word in words:
        assert word in error.remedy, error


@pytest.mark.parametrize(
    ("text", "events", "hooks"),
    [
        ("", True, Wish.OFF),
        ('memory_layers = "files"', False, Wish.OFF),
        ('memory_layers = "files,events"', True, Wish.OFF),
        ('memory_layers = "files, memcg_ops"', False, Wish.REQUIRED),
        ('memory_layers = "memcg_ops,events"', True, Wish.REQUIRED),
        ('memcg_ops = "on"', True, Wish.ON),
        ('memcg_ops = "required"\nmemory_layers = "files"', False, Wish.REQUIRED),
    ],
)
def test_which_memory_layers_are_wanted(
    tmp_path: Path, text: str, events: bool, hooks: Wish
) -> None:
    daemon = load(tmp_path, f"[daemon]\n{text}\n").daemon
    assert (daemon.wants_events, daemon.wants_hooks) == (events, hooks)


@pytest.mark.parametrize(
    "text", ["[daemon\n", "mode = \n", "[daemon]\nmode = 'off'\nmode = 'off'\n", "[a]\n[a]\n"]
)
def test_broken_toml_names_file_and_line(tmp_path: Path, text: str) -> None:
    error = refusal(tmp_path, text)
    assert error.field == "config" and "config.toml" in str(error.value)
    assert "correct the TOML" in error.remedy and "line" in error.remedy


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(str(tmp_path))
    (tmp_path / "latin").write_bytes(b"# \xe4\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(str(tmp_path / "latin"))


def test_hostile_values_are_quoted_and_cut(tmp_path: Path) -> None:
    error = refusal(tmp_path, '[daemon]\nmode = "' + "x" * 500 + '\\u001b[31m"\n')
    assert "x" * 60 in str(error) and "x" * 65 not in str(error)


@pytest.mark.parametrize(
    ("memory", "named", "wanted"),
    [("auto", False, True), ("files, events", False, False), ("files,gate", True, True)],
)
def test_auto_has_the_gate_and_naming_it_demands_it(
    tmp_path: Path, memory: str, named: bool, wanted: bool
) -> None:
    config = load(tmp_path, f'[daemon]\ncpu_layer = "sched_ext"\nmemory_layers = "{memory}"\n')
    assert (config.daemon.names_gate, config.daemon.wants_gate) == (named, wanted)


def test_a_boundary_for_sessions_that_do_not_say_it() -> None:
    boundary = BoundaryConfig()
    assert boundary.applied(SessionSpec(), adopted=True).boundary is Boundary.EXEC
    assert boundary.applied(SessionSpec(), adopted=False).boundary is Boundary.DECLARED
    said = SessionSpec.model_validate({"boundary": "declared", "boundary_programs": "bash, *"})
    assert boundary.applied(said, adopted=True).boundary is Boundary.DECLARED
    assert said.boundary_programs == ["bash", "*"]
