# SPDX-License-Identifier: Apache-2.0
"""agentcgroup-run as somebody's shell: ends, prints and reads as bash does."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shim_fake import WAIT_S, outcome, refusal

pytest_plugins = ["shim_program"]

SAME_AS_BASH = [
    ["-c", "echo out; echo err >&2; exit 3"],
    ["-c", 'echo "$0 $1 $#"', "name", "one", "two"],
    ["-lc", "shopt -q login_shell && echo login"],
    ["-c", "kill -TERM $$"],
    ["-c", "no-such-command"],
    ["-c", "cat"],
    ["-c", "if then"],
    ["-c", "--", "echo after"],
    ["-eo", "pipefail", "-c", "false | true; echo not reached"],
    ["+e", "-c", "false; echo reached"],
    ["--norc", "--noprofile", "-c", "true && (exit 42)"],
    ["-c", "trap 'echo bye' EXIT; exec 3<&0; read -r line <&3; echo \"got $line\""],
    ["-s", "one"],
    ["-c", ""],
]


@pytest.fixture
def shell(program: Path, tmp_path: Path) -> Path:
    """The program under a shell's name, as agents want it that look for one."""
    link = tmp_path / "agentcgroup-bash"
    link.symlink_to(program)
    return link


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    left_out = ("AGENTCGROUP_INTENT", "AGENT_RESOURCE_HINT", "AGENTCGROUP_SHELL")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    socket = str(tmp_path / "agent" / "agent.sock")
    return {**kept, "AGENTCGROUP_SOCKET": socket, "ASAN_OPTIONS": "exitcode=99:detect_leaks=0"}


def ran(program: str | Path, arguments: list[str], env: dict[str, str], text: str = "") -> Any:
    done = subprocess.run(
        [program, *arguments], input=text, capture_output=True, text=True, env=env,
        timeout=WAIT_S, check=False,
    )  # fmt: skip
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return status, done.stdout, done.stderr.replace(f"{program}: ", "bash: ")


@pytest.mark.parametrize("arguments", SAME_AS_BASH, ids=" ".join)
def test_as_bash(start_daemon, program, shell, env, arguments):
    daemon = start_daemon()
    text = "echo from stdin $1; exit 5\n"
    expected = ran("bash", arguments, env, text)
    assert ran(shell, arguments, env, text) == expected
    assert ran(program, arguments, env, text) == expected
    assert daemon.methods() == ["tool.begin", "tool.end"] * 2
    command = " ".join(["bash", *arguments])
    assert [r["params"]["intent"]["command"] for r in daemon.requests[::2]] == [command] * 2


def test_a_script_is_a_call(start_daemon, shell, env, tmp_path):
    daemon = start_daemon()
    script = tmp_path / "script"
    script.write_text('echo "script $1"; exit 9\n')
    assert ran(shell, [str(script), "x"], env) == (9, "script x\n", "")
    assert ran(shell, [], env, "exit 6\n")[0] == 6  # commands on stdin
    assert len(daemon.requests) == 4


def test_make_takes_it_for_its_shell(start_daemon, shell, env, tmp_path):
    daemon = start_daemon()
    (tmp_path / "Makefile").write_text("all:\n\t@echo made && exit 0\n\t@exit 7\n")
    done = subprocess.run(
        ["make", f"SHELL={shell}", "-C", tmp_path], env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "made" in done.stdout and "Error 7" in done.stderr
    assert daemon.methods().count("tool.begin") == 2


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("true # agentcgroup: memory=2G timeout=10m", {}, {"memory": "2G", "timeout_s": "10m"}),
        ("true # agentcgroup: memory-max=3G;cpu=2,\nfalse || true",
         {"AGENTCGROUP_INTENT": "memory=1G"}, {"memory_max": "3G", "cpu": "2"}),
        ("true", {"AGENTCGROUP_INTENT": "memory=1G"}, {"memory": "1G"}),
        ("true", {"AGENTCGROUP_INTENT": "memory=1G", "AGENT_RESOURCE_HINT": "memory:low"},
         {"memory": "1G"}),
        ("true", {"AGENT_RESOURCE_HINT": "memory:low"}, {"memory": "256M"}),
        ("true", {"AGENT_RESOURCE_HINT": "memory:medium"}, {"memory": "1G"}),
        ("true", {"AGENT_RESOURCE_HINT": "memory:3g"}, {"memory": "3g"}),
        ("true", {"AGENT_RESOURCE_HINT": "memory:high"}, {}),
        ("true", {"AGENTCGROUP_INTENT": "", "AGENT_RESOURCE_HINT": ""}, {}),
        ("true # not ours: memory=2G", {}, {}),
    ],
)  # fmt: skip
def test_what_the_model_says(start_daemon, program, env, text, variables, expected):
    daemon = start_daemon()
    assert ran(program, ["-c", text], {**env, **variables}) == (0, "", "")
    assert daemon.requests[0]["params"]["intent"] == {"command": f"bash -c {text}", **expected}


@pytest.mark.parametrize(
    ("text", "variables", "told"),
    [
        ("echo hi # agentcgroup: memory=2Q", {}, "# agentcgroup:: cannot use 'memory=2Q'"),
        ("echo hi # agentcgroup: cpu=1 memory", {}, "write pairs"),
        ("echo hi # agentcgroup: memry=1G", {}, "no such field"),
        (f"echo hi # agentcgroup: label={'x' * 2000}", {}, "1023 bytes"),
        ("echo hi", {"AGENTCGROUP_INTENT": "cpu=1;=2"}, "AGENTCGROUP_INTENT: cannot use"),
        ("echo hi", {"AGENT_RESOURCE_HINT": "memory:lots"}, "memory:<n>g"),
        ("echo hi", {"AGENT_RESOURCE_HINT": "memory:3x"}, "AGENT_RESOURCE_HINT: cannot use"),
    ],
)
def test_a_wrong_word_is_told_and_the_command_runs(
    start_daemon, program, env, text, variables, told
):
    daemon = start_daemon()
    status, out, err = ran(program, ["-c", text], {**env, **variables})
    assert (status, out) == (0, "hi\n") and told in err and err.count("\n") == 1
    assert set(daemon.requests[0]["params"]["intent"]) == {"command"}


words = st.lists(
    st.sampled_from(
        ["memory=1G", "memory=", "=", "timeout=9", ",", ";", " ", "cpu", "é\x1b[31m", "--"]
    )
    | st.text(st.characters(exclude_characters="\0\n", exclude_categories=("Cs",)), max_size=9),
    max_size=8,
).map("".join)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(words)
def test_any_words_run_the_command(start_daemon, program, env, said):
    daemon = start_daemon()
    for text, variables in (
        (f"echo hi # agentcgroup: {said}", {}),
        ("echo hi", {"AGENTCGROUP_INTENT": said}),
        ("echo hi", {"AGENT_RESOURCE_HINT": said}),
    ):
        status, out, err = ran(program, ["-c", text], {**env, **variables})
        assert (status, out) == (0, "hi\n"), err
        assert "\x1b" not in err and err.count("\n") <= 1
    assert daemon.methods() == ["tool.begin", "tool.end"] * 3


def test_options_of_ours_may_come_first(start_daemon, program, env):
    daemon = start_daemon()
    arguments = ["--session", "s1", "--memory", "1G", "-c", "exit 4"]
    assert ran(program, arguments, env)[0] == 4
    assert daemon.requests[0]["params"]["session"] == "s1"
    assert daemon.requests[0]["params"]["intent"]["memory"] == "1G"
    arguments = ["--memory", "1G", "-c", "true # agentcgroup: memory=2G cpu=2"]
    assert ran(program, arguments, env)[0] == 0
    intent = daemon.requests[2]["params"]["intent"]
    assert (intent["memory"], intent["cpu"]) == ("1G", "2")
    arguments = ["--memory", "1G", "-c", "true # agentcgroup: cpu=2 memory=2Q"]
    assert ran(program, arguments, env)[0] == 0
    intent = daemon.requests[4]["params"]["intent"]
    assert intent["memory"] == "1G" and "cpu" not in intent


def test_killed_and_refused(start_daemon, program, env):
    start_daemon(tool_end={"result": {"outcome": outcome("oom_killed", "Try less.")}})
    assert ran(program, ["-c", "true"], env) == (137, "", "agentcgroup: Try less.\n")
    start_daemon(tool_begin=refusal("refused", "it was killed before", "declare more"))
    status, out, err = ran(program, ["-c", "echo no"], env)
    assert (status, out) == (75, "") and "killed before" in err and "declare more" in err


@pytest.mark.parametrize(
    "kind", ["no_session", "not_permitted", "not_supported", "no_identity", "invalid_params",
             "target_refused", "not_found"],
)  # fmt: skip
def test_whoever_is_no_agent_still_has_a_shell(start_daemon, program, env, kind):
    start_daemon(tool_begin=refusal(kind, "you are nobody", "start a session"))
    status, out, err = ran(program, ["-c", "echo hi; exit 3"], env)
    assert (status, out) == (3, "hi\n")
    assert "you are nobody" in err and "the command runs without limits" in err


def test_without_a_daemon(program, env):
    status, out, err = ran(program, ["-c", "echo hi; exit 3"], env)
    assert (status, out) == (3, "hi\n") and "the command runs without limits" in err


def test_its_own_name_is_no_shell(program, env):
    status, _, err = ran(program, ["-c", "true"], {**env, "AGENTCGROUP_SHELL": str(program)})
    assert status == 78 and "AGENTCGROUP_SHELL" in err
    told = {**env, "AGENTCGROUP_SHELL": "/bin/dash"}
    assert ran(program, ["-c", 'echo "$0"'], told)[1] == "/bin/dash\n"


def on_terminal(
    arguments: list[Any], env: dict[str, str], typed: bytes, after: bytes = b""
) -> tuple[int, str]:
    """Exit status and all that a terminal showed; typed when it has shown `after`."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        arguments, stdin=child, stdout=child, stderr=child, env={**env, "PS1": "% "},
        start_new_session=True,
    )  # fmt: skip
    os.close(child)
    shown = b""
    while True:
        if typed and after in shown:
            os.write(parent, typed)
            typed = b""
        try:
            shown += os.read(parent, 4096)
        except OSError:  # the last one that had it open is gone
            break
    os.close(parent)
    return process.wait(WAIT_S), shown.decode()


def test_an_interactive_shell_is_nobodys_call(start_daemon, shell, env):
    daemon = start_daemon()
    typed = b"shopt -q login_shell || echo plain; exit 4\n"
    status, shown = on_terminal([shell, "--norc"], env, typed)
    assert status == 4 and "\rplain\r" in shown
    assert daemon.requests == []


def test_a_command_keeps_the_terminal(start_daemon, shell, env):
    daemon = start_daemon()
    script = 'read -r line; test -t 0 && test -t 1 && test -t 2 && echo "tty $line"; exit 5'
    status, shown = on_terminal([shell, "-c", script], env, b"typed\n")
    assert status == 5 and "tty typed" in shown
    assert daemon.methods() == ["tool.begin", "tool.end"]


def test_interrupt_from_the_terminal(start_daemon, shell, env):
    daemon = start_daemon()
    command = ["setsid", "-wc", shell, "-c", "echo ready; sleep 60"]
    assert on_terminal(command, env, b"\x03", after=b"ready")[0] == 130
    assert daemon.requests[-1]["params"] == {"call": "c1", "signal": 2}
