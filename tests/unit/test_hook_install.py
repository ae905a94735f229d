# SPDX-License-Identifier: Apache-2.0
"""Hooks in and out of an agent's settings: shown, idempotent, byte-identical afterwards."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cli_fake import Run
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.integrations.hook_agents import AGENTS, agent_named
from agentcgroup.integrations.hook_install import apply, plan_install, plan_uninstall

pytest_plugins = ["cli_fixtures"]

EVENTS = {
    "claude-code": ["PreToolUse", "PostToolUse", "PostToolUseFailure"],
    "codex": ["PreToolUse", "PostToolUse"],
}
FILES = {
    "nothing": None,
    "empty": "{}\n",
    "open": "{\n}\n",
    "one line": '{"model": "opus"}',
    "settings": '{\n  "model": "opus",\n  "permissions": {"allow": ["Bash"]}\n}\n',
    "tabs and crlf": '{\r\n\t"model": "\\u006f"\r\n}\r\n',
    "empty hooks": '{\n  "hooks": {}\n}',
    "empty event": '{\n  "hooks": {"PreToolUse": [ ]},\n  "a": 1\n}',
    "others": '{\n    "hooks": {\n        "PreToolUse": [\n            {"matcher": "Bash", "hooks":'
    ' [{"type": "command", "command": "mine"}]}\n        ]\n    },\n    "z": [1,2 ]\n}\n',
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for agent in AGENTS:
        monkeypatch.delenv(agent.home_variable, raising=False)
    return tmp_path


def settings(home: Path, agent: str) -> Path:
    return home / (".claude/settings.json" if agent == "claude-code" else ".codex/hooks.json")


def ours(record: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {event: [] for event in record["hooks"]}
    for event, groups in record["hooks"].items():
        commands = [handler["command"] for group in groups for handler in group["hooks"]]
        found[event] = [command for command in commands if "hook run" in command]
    return found


@pytest.mark.parametrize("agent", list(EVENTS))
@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_in_and_out(home: Path, run: Run, agent: str, text: str | None) -> None:
    file = settings(home, agent)
    if text is not None:
        file.parent.mkdir()
        file.write_bytes(text.encode())
        file.chmod(0o640)
    code, out, _ = run("hook", "install", agent)
    assert code == 0 and "+" in out and "hook run " + agent in out
    installed = file.read_bytes()
    record = json.loads(installed)
    assert list(ours(record)) == EVENTS[agent]
    assert all(len(commands) == 1 for commands in ours(record).values())
    assert {**(json.loads(text) if text else {}), "hooks": 0} == {**record, "hooks": 0}
    assert stat.S_IMODE(file.stat().st_mode) == (0o644 if text is None else 0o640)

    code, out, _ = run("hook", "install", agent)
    assert code == 0 and "nothing to change" in out and file.read_bytes() == installed
    assert run("hook", "install", agent, "--mode", "declare")[0] == 0
    assert all("--mode declare" in c[0] for c in ours(json.loads(file.read_bytes())).values())

    assert run("hook", "uninstall", agent)[0] == 0
    assert (file.read_bytes() if file.exists() else None) == (text and text.encode())
    assert [p.name for p in file.parent.iterdir()] == ([] if text is None else [file.name])
    assert "nothing to change" in run("hook", "uninstall", agent)[1]


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_what_the_user_changed_meanwhile_stays(home: Path, run: Run, text: str | None) -> None:
    file = settings(home, "claude-code")
    if text is not None:
        file.parent.mkdir()
        file.write_text(text)
    run("hook", "install", "claude-code")
    record = json.loads(file.read_text())
    record["mine"] = {"é": 1}
    record["hooks"]["PreToolUse"][-1]["hooks"].insert(0, {"type": "command", "command": "other"})
    file.write_text(json.dumps(record, indent=1))
    run("hook", "uninstall", "claude-code")
    left = json.loads(file.read_text())
    assert left["mine"] == {"é": 1}
    assert left["hooks"]["PreToolUse"][-1]["hooks"] == [{"type": "command", "command": "other"}]
    assert "hook run" not in file.read_text()


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)
groups = st.lists(
    st.fixed_dictionaries(
        {"hooks": st.lists(st.fixed_dictionaries({"command": st.text(max_size=5)}), max_size=2)}
    ) | json_values,
    max_size=2,
)  # fmt: skip


@given(
    st.dictionaries(st.text(max_size=4), json_values, max_size=2),
    st.none() | st.dictionaries(st.sampled_from(["PreToolUse", "PostToolUse", "Stop"]), groups),
    st.sampled_from([None, 2, "\t"]),
)
def test_any_file_is_given_back(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any], hooks: Any, indent: Any
) -> None:
    record.pop("hooks", None)
    if hooks is not None:
        record["hooks"] = hooks
    before = json.dumps(record, indent=indent).encode()
    file = tmp_path_factory.mktemp("agent") / "settings.json"
    file.write_bytes(before)
    apply(plan_install(agent_named("claude-code"), file, "agentcgroup", "auto"))
    kept = file.with_name("settings.json.before-agentcgroup")
    assert kept.read_bytes() == before
    apply(plan_uninstall(file))
    assert file.read_bytes() == before and not kept.exists()


def test_shown_and_not_written(home: Path, run: Run) -> None:
    code, out, _ = run("hook", "install", "codex", "--dry-run")
    assert code == 0 and '"PreToolUse"' in out
    assert not (home / ".codex").exists()


def test_a_link_stays_a_link(home: Path, run: Run) -> None:
    target = home / "dotfiles.json"
    target.write_text("{}\n")
    file = settings(home, "claude-code")
    file.parent.mkdir()
    file.symlink_to(target)
    run("hook", "install", "claude-code")
    assert file.is_symlink() and "hook run" in target.read_text()
    run("hook", "uninstall", "claude-code")
    assert file.is_symlink() and target.read_text() == "{}\n"


def test_other_places(
    home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("hook", "install", "claude-code", "--scope", "local")[0] == 0
    assert (tmp_path / ".claude" / "settings.local.json").exists()
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "elsewhere"))
    assert run("hook", "install", "codex")[0] == 0
    assert (tmp_path / "elsewhere" / "hooks.json").exists()
    code, _, err = run("hook", "install", "codex", "--scope", "local")
    assert code == 2 and "--scope" in err
    assert run("hook", "install", "vim")[0] == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [('{"a": 1', "not JSON"), ("[]", "hooks must be"), ('{"hooks": []}', "hooks must be"),
     ('{"hooks": {"PreToolUse": {}}}', "hooks must be"), ("{} // note", "line 1")],
)  # fmt: skip
def test_a_file_that_is_not_as_documented_stays(home: Path, run: Run, text: str, told: str) -> None:
    file = settings(home, "claude-code")
    file.parent.mkdir()
    file.write_text(text)
    for verb in ("install", "uninstall"):
        code, _, err = run("hook", verb, "claude-code")
        assert code == 78 and str(file)[:20] in err and told in err
    assert file.read_text() == text
