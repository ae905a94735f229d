# SPDX-License-Identifier: Apache-2.0
"""with client.shell(): one bash for many commands, whatever they are, each a tool call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fake_daemon import FakeDaemon, pid_of

from agentcgroup import Client, Intent
from agentcgroup.client import Shell, child
from agentcgroup.errors import InvalidValueError
from agentcgroup.types.outcomes import Reason


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path) as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.agent_path, timeout_s=10) as made:
        yield made


@pytest.fixture
def shell(client: Client) -> Iterator[Shell]:
    with client.shell(text=True) as made:
        yield made


def test_every_command_is_a_call_of_the_same_shell(
    daemon: FakeDaemon, shell: Shell, tmp_path: Path
) -> None:
    programs = []

    def begin(params: dict[str, Any], fd: int | None) -> dict[str, Any]:
        programs.append(Path(f"/proc/{pid_of(fd)}/comm").read_text().strip())
        return FakeDaemon._tool_begin(daemon, params, fd)

    daemon.handlers["tool.begin"] = begin
    assert (shell.alive, shell.call, daemon.methods()) == (False, None, [])
    first = shell.run("echo $$; echo problem >&2; exit_like() { return 7; }")
    second = shell.run("echo $$; exit_like", Intent(memory="2G"), timeout_s="10m", label="x")
    assert (first.returncode, first.stderr, second.returncode) == (0, "problem\n", 7)
    assert (first.args, second.args) == (
        "echo $$; echo problem >&2; exit_like() { return 7; }", "echo $$; exit_like",
    )  # fmt: skip
    assert first.stdout == second.stdout
    assert programs[0] != "bash" == programs[1]
    begun = [(params, pid) for _, m, params, pid in daemon.requests if m == "tool.begin"]
    assert [pid for _, pid in begun] == [int(first.stdout)] * 2
    assert all(params["shell"] is True for params, _ in begun)
    assert begun[0][0]["intent"] == {"command": first.args}
    assert begun[1][0]["intent"] == {
        "memory": 2 << 30, "timeout_s": 600.0, "label": "x", "command": second.args,
    }  # fmt: skip
    assert daemon.params("tool.end") == [
        {"call": "c-1", "exit_code": 0}, {"call": "c-2", "exit_code": 7},
    ]  # fmt: skip
    assert second.outcome is second.call.outcome is not None and shell.call is second.call
    assert (second.outcome.reason, second.call.id) == (Reason.FAILED, "c-2")
    assert shell.alive and not shell.restarted and not second.shell_ended


def test_what_a_command_leaves_in_the_shell_stays(shell: Shell, tmp_path: Path) -> None:
    shell.run(f"cd {tmp_path} && export X=1; y=2; declare -A map=([a]=b); f() {{ echo f$1; }}")
    shell.run("set -o pipefail; shopt -s nullglob; exec 9>nine {ten}>ten; false")
    kept = shell.run("echo $? $PWD $y ${map[a]} $(f 3); sh -c 'echo $X'; echo x >&9; echo y >&$ten")
    assert kept.stdout == f"1 {tmp_path} 2 b f3\n1\n"
    assert shell.run("cat nine ten; echo no*such").stdout == "x\ny\n\n"


def test_without_our_launcher_the_system_shell_holds_it_back(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "static_launcher", lambda: None)
    with client.shell(text=True) as shell:
        assert shell.run("echo $0; cat", input="x").stdout == "bash\nx"


def test_directory_and_environment_at_first(client: Client, tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "MARK": "m"}
    with client.shell(cwd=tmp_path, env=env, stderr=subprocess.STDOUT) as shell:
        joined = shell.run("pwd; echo $MARK >&2; echo $0; exit")
        assert (joined.stdout, joined.stderr) == (f"{tmp_path}\nm\nbash\n".encode(), None)
        assert shell.run("pwd").stdout == f"{tmp_path}\n".encode()


TORTURE = [
    ("echo 'it'\\''s' \"a  b\" \\\n c", "it's a  b c\n", 0),
    ("# nothing", "", 0),
    ("", "", 0),
    ("printf nothing-at-the-end", "nothing-at-the-end", 0),
    ("cat <<EOF\n$((1 + 1))\nEOF\necho after", "2\nafter\n", 0),
    ("cat <<EOF\nnever closed", "never closed\n", 0),
    ("echo 'unbalanced", "", 2),
    ("if true; then", "", 2),
    ("echo first\n)", "first\n", 2),
    ("echo $(", "", 2),
    ("echo trailing \\", "trailing \\\n", 0),
    ("break; echo no", "", 1),
    ("continue", "", 0),
    ("continue 7", "", 1),
    ("return 3; echo on", "on\n", 0),
    ("no-such-program", "", 127),
    ("echo $((1 / 0))\necho next line", "next line\n", 0),
    ("sh -c 'kill -9 $$'", "", 137),
    ("false | true; echo ${PIPESTATUS[*]}", "1 0\n", 0),
    ("read -r line; echo \"[$line] $?\"", "[] 1\n", 0),
    ("cat; echo done", "done\n", 0),
    ("trap 'echo told' USR1; kill -USR1 $$", "told\n", 0),
    ("IFS=0123456789abcdef-; set -f", "", 0),
    ("set -u; echo ${1-none}", "none\n", 0),
    ("set -a; x=1; env | grep -c agentcgroup", "0\n", 1),
    ("set -o noclobber -o errexit; true", "", 0),
    ("printf() { :; }; read() { :; }; shopt -s expand_aliases; alias eval=false", "", 0),
    ("echo -n; ls /proc/self/fd", "0\n1\n2\n3\n", 0),
    ("set -rk; echo x=y z", "z\n", 0),
    ("unset PATH LC_ALL HOME; LC_ALL=C", "", 0),
    ("ulimit -n 60", "", 0),
    ("exec </dev/zero; head -c 1 | wc -c; exec </dev/null", "1\n", 0),
    ("echo ä\u20ac\x01\x7f\x1b", "ä\u20ac\x01\x7f\x1b\n", 0),
    ("coproc cat; kill $COPROC_PID; wait", "", None),
    ("(exit 4)", "", 4),
    ("test -t 0 || echo no terminal; tty", "no terminal\nnot a tty\n", 1),
]  # fmt: skip


@pytest.mark.parametrize(("command", "printed", "code"), TORTURE, ids=range(len(TORTURE)))
def test_nothing_breaks_the_framing(
    shell: Shell, command: str, printed: str, code: int | None
) -> None:
    shell.run("mark=still")
    result = shell.run(command)
    assert result.stdout == printed, result.stderr
    assert result.returncode == code or code is None
    after = shell.run("echo here $mark")
    assert (after.stdout, after.stderr, after.returncode) == ("here still\n", "", 0)
    assert not shell.restarted


def test_what_the_loop_does_itself_is_not_heard(shell: Shell) -> None:
    shell.run("set -x")
    traced = shell.run("echo a")
    shell.run("set +x")
    assert traced.stderr == "+ builtin eval 'echo a'\n++ echo a\n"
    shell.run("trap 'echo \"<$BASH_COMMAND>\"' DEBUG")
    debugged = shell.run("echo b")
    assert debugged.stdout.splitlines()[1:] == ["<echo b>", "b"]
    assert "agentcgroup_status" not in debugged.stdout


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 3", 3), ("echo x; exec true", 0), ("exec sh -c 'exit 5'", 5), ("kill -9 $$", -9),
     ("set -e; false; echo no", 1), ("set -u; echo $nothing", 127), ("set -n", 0),
     ("exec no-such-program", 127), (": ${x?}", 127), ("f() { exit 6; }; f", 6),
     ("break 2", 0), ("ulimit -n 10", 125)],
)  # fmt: skip
def test_a_shell_that_ends_is_told_and_replaced(
    daemon: FakeDaemon, shell: Shell, command: str, code: int
) -> None:
    shell.run("mark=lost; cd /")
    ended = shell.run(command)
    assert (ended.returncode, ended.shell_ended, shell.alive) == (code, True, False)
    status = {"exit_code": code} if code >= 0 else {"signal": -code}
    assert daemon.params("tool.end")[-1] == {"call": "c-2", **status}
    fresh = shell.run('echo "[$mark]"')
    assert (fresh.stdout, shell.restarted, fresh.shell_ended) == ("[]\n", True, False)
    shell.run("true")
    assert not shell.restarted and shell.alive


def test_a_shell_that_ended_in_between_is_replaced(shell: Shell) -> None:
    killer = shell.run("(sleep 0.1; kill -9 $$) >/dev/null 2>&1 &")
    assert not killer.shell_ended
    while shell.alive:
        pass
    assert shell.run("echo fresh").stdout == "fresh\n"
    assert shell.restarted


def test_much_output_and_binary_output(client: Client) -> None:
    with client.shell() as shell:
        code = "import os; os.write(1, bytes(range(256)) * 40960); os.write(2, b'x' * 300000)"
        big = shell.run(f"{sys.executable} -Sc {code!r}; printf '\\0\\377'")
        assert big.stdout == bytes(range(256)) * 40960 + b"\0\xff"
        assert big.stderr == b"x" * 300000
        given = bytes(range(256)) * 4096
        echoed = shell.run("cat", input=given)
        assert echoed.stdout == given
        assert shell.run("cat").stdout == b""
        assert shell.run(b"printf %s '\xff\xfe'").stdout == b"\xff\xfe"
        long = "x" * 300000
        assert shell.run(f"echo {long}").stdout == f"{long}\n".encode()


def test_input_is_what_commands_read(shell: Shell) -> None:
    read = shell.run("read -r one; read -r two; echo $two $one; cat", input="1\n2\n3\nä")
    assert read.stdout == "2 1\n3\nä"
    assert shell.run("exit 4", input="unread").returncode == 4
    with pytest.raises(TypeError):
        shell.run("cat", input=7)
    assert shell.run("echo goes on").stdout == "goes on\n"


def test_a_background_process_is_not_waited_for(shell: Shell) -> None:
    started = shell.run("(sleep 0.3; echo late; exec sleep 60) & echo started")
    assert started.stdout == "started\n"
    # Its output comes with the command that runs when it writes.
    assert shell.run("sleep 0.6; echo now").stdout == "late\nnow\n"
    endless = shell.run("yes & sleep 0.1; echo enough >&2")
    assert set(endless.stdout.split()) == {"y"} and endless.stderr == "enough\n"
    assert shell.run("kill %1 %2; wait; echo quiet").stdout.endswith("quiet\n")


def test_output_comes_as_it_is_written(shell: Shell) -> None:
    heard: list[tuple[str, str]] = []
    result = shell.run(
        "printf '\\303'; sleep 0.1; printf '\\244'; echo two >&2",
        on_output=lambda name, piece: heard.append((name, piece)),
    )
    assert (result.stdout, result.stderr) == ("ä", "two\n")
    assert sorted(heard) == [("stderr", "two\n"), ("stdout", "ä")]
    with pytest.raises(UnicodeDecodeError):
        shell.run("printf '\\377'")
    assert shell.run("exec >&-; true").stdout == ""
    assert shell.run("echo lost; echo heard >&2").stderr.endswith("heard\n")


def test_check_and_retries(daemon: FakeDaemon, shell: Shell) -> None:
    daemon.outcomes["c-1"] = {
        "call": "c-1", "session": "s", "reason": "oom_killed", "message": "too big",
        "retry": {"worthwhile": True, "intent": {"memory": "3G"}},
    }  # fmt: skip
    daemon.outcomes["c-2"] = {
        "call": "c-2", "session": "s", "reason": "failed", "message": "as before",
    }  # fmt: skip
    with pytest.raises(subprocess.CalledProcessError) as failed:
        shell.run("echo x; exit_code=4; false", memory="1G", retries=5, check=True)
    assert (failed.value.returncode, failed.value.stdout) == (1, "x\n")
    assert failed.value.__notes__ == ["as before"]
    first, second = (params["intent"] for params in daemon.params("tool.begin"))
    assert (second["memory"], second["retry_of"]) == (3 << 30, "c-1")
    assert "retry_of" not in first
    assert shell.run("echo $exit_code", check=True).stdout == "4\n"


def test_unusable_wishes_begin_nothing(daemon: FakeDaemon, client: Client, shell: Shell) -> None:
    for command, remedy in (
        ("echo a\0b", "NUL"), (b"\0", "NUL"), (["ls", "-l"], "shlex"), ("\ud800", "surrogates"),
    ):  # fmt: skip
        with pytest.raises(InvalidValueError, match=f"command.*{remedy}"):
            shell.run(command)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"intent\.tiemout"):
        shell.run("true", tiemout=3)
    with pytest.raises(InvalidValueError, match=r"stdin: .*a shell takes cwd, encoding"):
        client.shell(stdin=subprocess.PIPE)
    with pytest.raises(InvalidValueError, match=r"stderr.*STDOUT"):
        client.shell(stderr=subprocess.DEVNULL)
    with client.shell(env={"PATH": "/nowhere"}) as lost, pytest.raises(FileNotFoundError):
        lost.run("true")
    assert daemon.methods() == [] and not shell.alive
