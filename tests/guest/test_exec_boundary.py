# SPDX-License-Identifier: Apache-2.0
"""The exec boundary: what an agent starts gets a leaf before its first instruction, without a
wrapper or a word of the agent; and nobody stands still for good, whatever happens to the daemon.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from boundary_agent import AGENT, WHERE, Agent, agent_of, boundary, counts, outcomes
from harness import PATIENCE_S, PrivateDaemon, alive, enter_cgroup, until

from agentcgroup.types.outcomes import Reason

pytestmark = pytest.mark.guest


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def mixed(number: int) -> list[list[str]]:
    """Command lines of several shells, and a program without any."""
    kinds = (["sh", "-c", WHERE], ["bash", "-c", WHERE], ["dash", "-c", WHERE],
             ["bash", "-lc", WHERE], ["cat", "/proc/self/cgroup"])  # fmt: skip
    return [kinds[i % len(kinds)] for i in range(number)]


def check_found(daemon: PrivateDaemon, number: int) -> None:
    with agent_of(daemon, boundary_programs="sh,bash,dash,cat") as agent:
        before = counts(daemon)["placed"]
        answers = agent.run(*mixed(number))
        places = [out.strip().rpartition("/tools/")[2] for _, out in answers]
        in_leaf = [place for place in places if place.startswith("c")]
        assert len(in_leaf) == number, [out for _, out in answers if "/tools/" not in out]
        assert len(set(in_leaf)) == number  # a leaf each
        found = outcomes(daemon, least=number)
        assert {o.reason for o in found} == {Reason.COMPLETED}
        assert {o.call for o in found} == set(in_leaf)
        assert all(status == 0 for status, _ in answers)
    told = counts(daemon)
    print(told)
    assert told["placed"] - before == number
    for count in ("not_told", "not_stopped", "no_lease", "continued_early", "unplaced"):
        assert told[count] == 0, told


@pytest.mark.smoke
def test_every_command_has_a_leaf_before_it_runs(daemon: PrivateDaemon) -> None:
    daemon.start()
    check_found(daemon, 30)
    status = daemon.client.status()
    assert status["layers"]["boundary"] == ["declared", "exec"]
    assert status["boundary"]["source"] == "bpf" and status["boundary"]["stops"]


@pytest.mark.long
def test_five_hundred_commands(daemon: PrivateDaemon) -> None:
    check_found(daemon.start(), 500)


@pytest.mark.long
def test_what_it_starts_and_leaves_and_its_end(daemon: PrivateDaemon) -> None:
    daemon.start()
    with agent_of(daemon) as agent:
        # What is no shell is the agent's own business.
        assert "/s/agent" in agent.run(["cat", "/proc/self/cgroup"])[0][1]
        inner = agent.run(["sh", "-c", "bash -c 'cat /proc/self/cgroup'; exit 7"])[0]
        assert inner[0] == 7 and inner[1].count("/s/tools/c") == 1
        assert outcomes(daemon)[0].exit_code == 7
        agent.run(["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"])
        kept = outcomes(daemon, least=2)[0]
        (survivor,) = kept.background_pids
        assert "/s/tools/background" in Path(f"/proc/{survivor}/cgroup").read_text()
        assert daemon.client.session("s").background_pids == [survivor]
        agent.run(["sh", "-c", "kill -9 $$"])
        assert outcomes(daemon, least=3)[0].signal == signal.SIGKILL
    assert daemon.leaves() == set()


@pytest.mark.long
def test_only_the_command_dies_and_why_is_known(daemon: PrivateDaemon) -> None:
    daemon.start()
    hog = f"exec {sys.executable} -S -c \"data = b'x' * (600 << 20)\""
    with agent_of(daemon, memory="200M") as agent:
        status, _ = agent.run(["bash", "-c", hog])[0]
        assert status == -signal.SIGKILL
        outcome = outcomes(daemon)[0]
        assert outcome.reason is Reason.OOM_KILLED and "Killed for memory" in outcome.message
        assert "python3" in str(outcome.biggest_process) and "bash -c" in str(outcome.command)
        # The very same again is refused before it runs.
        status, _ = agent.run(["bash", "-c", hog])[0]
        assert status == -signal.SIGKILL
        refused = outcomes(daemon, least=2)[0]
        assert refused.reason is Reason.REFUSED and counts(daemon)["refused"] == 1
        assert agent.run(["sh", "-c", "echo fine"]) == [(0, "fine\n")]


@pytest.mark.long
def test_a_declared_intent_is_for_the_next_exec_that_fits(daemon: PrivateDaemon) -> None:
    daemon.start()
    with agent_of(daemon) as agent:
        daemon.client.declare_intent({"memory_max": "77M"}, match="*echo here*", session="s")
        agent.run(["sh", "-c", "echo elsewhere"], ["sh", "-c", "echo here"])
        caps = [outcome.memory_limit_bytes for outcome in outcomes(daemon, least=2)]
        assert caps[0] == 77 << 20 and caps[1] != 77 << 20


@pytest.mark.long
def test_who_waits_for_memory_stands_still(daemon: PrivateDaemon) -> None:
    daemon.start()
    with agent_of(daemon, memory="300M") as first:
        second = Agent(daemon, "s")
        try:
            daemon.client.declare_intent({"memory": "220M"}, session="s")
            first.asks(["sh", "-c", "sleep 300; echo first"])
            pid = first.child()
            until(lambda: "/tools/c" in Path(f"/proc/{pid}/cgroup").read_text(), "placed")
            daemon.client.declare_intent({"memory": "150M"}, session="s")
            second.asks(["sh", "-c", WHERE])
            waiting = second.child()
            until(lambda: daemon.client.session("s").queued == 1, "it waits", daemon.log_text)
            assert state(waiting) == "T"
            # Longer than a process may stand still for a daemon that says nothing.
            time.sleep(5)
            assert state(waiting) == "T" and counts(daemon)["continued_by_guardian"] == 0
            os.kill(pid, signal.SIGTERM)
            assert "/s/tools/c" in second.answers()[0][1]
        finally:
            second.close()


def test_a_silent_daemon_stops_nobody_for_long(daemon: PrivateDaemon) -> None:
    daemon.start()
    with agent_of(daemon) as agent:
        daemon.signal(signal.SIGSTOP)
        agent.asks(["sh", "-c", WHERE])
        assert "/s/agent" in agent.answers()[0][1], "the guardian continues it"
        # By now the lease is over: nobody is stopped any more.
        assert "/s/agent" in agent.run(["sh", "-c", WHERE])[0][1]
        agent.asks(["sh", "-c", "sleep 3; cat /proc/self/cgroup"])
        time.sleep(1)
        daemon.signal(signal.SIGCONT)
        # Late is better than never.
        assert "/s/tools/c" in agent.answers()[0][1]
        assert "/s/tools/c" in until(
            lambda: [o for _, o in agent.run(["sh", "-c", WHERE]) if "tools" in o],
            "commands are placed again", daemon.log_text,
        )[0]  # fmt: skip
        assert counts(daemon)["no_lease"] > 0
    assert "stopped commands continued 1" in daemon.log_text()


@pytest.mark.long
def test_a_killed_daemon_stops_nobody_and_the_next_one_goes_on(daemon: PrivateDaemon) -> None:
    daemon.start()
    with agent_of(daemon) as agent:
        daemon.signal(signal.SIGSTOP)
        agent.asks(["sh", "-c", WHERE])
        until(lambda: state(agent.child()) == "T", "it stands still")
        daemon.kill()
        assert "/s/agent" in agent.answers()[0][1]
        assert "/s/agent" in agent.run(["sh", "-c", WHERE])[0][1]
        daemon.start()
        assert "/s/tools/c" in agent.run(["sh", "-c", WHERE])[0][1]


@pytest.mark.long
def test_a_successor_places_whom_its_predecessor_stopped() -> None:
    """With a guardian, and a patience, that leave it the time."""
    with (
        PrivateDaemon(daemon={"guardian_timeout_s": 60}, boundary={"patience_s": 60}) as daemon,
        agent_of(daemon.start()) as agent,
    ):
        daemon.signal(signal.SIGSTOP)
        agent.asks(["sh", "-c", WHERE])
        until(lambda: state(agent.child()) == "T", "it stands still")
        daemon.kill()
        time.sleep(1)
        assert state(agent.child()) == "T"
        daemon.start()
        assert "/s/tools/c" in agent.answers()[0][1]
        assert counts(daemon)["recovered"] == 1


@pytest.mark.long
def test_an_early_sigcont_is_counted(daemon: PrivateDaemon) -> None:
    daemon.start()
    with agent_of(daemon) as agent:
        daemon.signal(signal.SIGSTOP)
        agent.asks(["sh", "-c", "sleep 2; cat /proc/self/cgroup"])
        pid = agent.child()
        until(lambda: state(pid) == "T", "it stands still")
        os.kill(pid, signal.SIGCONT)
        until(lambda: state(pid) != "T", "it runs")
        daemon.signal(signal.SIGCONT)
        assert "/s/tools/c" in agent.answers()[0][1]
        assert counts(daemon)["continued_early"] == 1


@pytest.mark.long
def test_who_dies_while_it_stands_still(daemon: PrivateDaemon) -> None:
    daemon.start()
    with agent_of(daemon) as agent:
        daemon.signal(signal.SIGSTOP)
        agent.asks(["sh", "-c", WHERE])
        pid = agent.child()
        until(lambda: state(pid) == "T", "it stands still")
        os.kill(pid, signal.SIGKILL)
        assert agent.answers()[0][0] == -signal.SIGKILL
        daemon.signal(signal.SIGCONT)
        assert "/s/tools/c" in agent.run(["sh", "-c", WHERE])[0][1]
        assert boundary(daemon)["waiting"] == 0


@pytest.mark.long
def test_an_interactive_shell_sees_no_stopped_jobs(daemon: PrivateDaemon) -> None:
    """Its jobs are not stopped, so they are placed a moment after they began."""
    daemon.start()
    daemon.client.create_session("s", memory="400M", boundary="exec", boundary_programs="*")
    cgroup = daemon.root / "s" / "agent"
    pid, terminal = pty.fork()
    if pid == 0:
        enter_cgroup(cgroup)
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    try:
        os.write(
            terminal, b"PS1='> '; sleep 1; cat /proc/self/cgroup; sleep 0.2; jobs; echo en''d\n"
        )
        text = ""
        until_s = time.monotonic() + PATIENCE_S
        while "end\r\n" not in text and time.monotonic() < until_s:
            text += os.read(terminal, 4096).decode()
        assert "end\r\n" in text and "Stopped" not in text
    finally:
        os.close(terminal)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.long
def test_rules_change_while_it_runs(daemon: PrivateDaemon) -> None:
    daemon.start()
    with agent_of(daemon) as agent:
        daemon.client.update_session("s", boundary_programs="*", boundary_ignore="cat")
        where = ["cat", "/proc/self/cgroup"]
        assert "/s/agent" in agent.run(where)[0][1]
        daemon.client.update_session("s", boundary_ignore=[])
        assert "/s/tools/c" in agent.run(where)[0][1]
        daemon.client.update_session("s", boundary="declared")
        assert "/s/agent" in agent.run(["sh", "-c", WHERE])[0][1]


def test_adopted_agents_have_it_by_themselves(daemon: PrivateDaemon) -> None:
    daemon.start()
    elsewhere = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", AGENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    agent = Agent.__new__(Agent)
    agent.process = elsewhere
    try:
        assert "/tools/" not in agent.run(["sh", "-c", WHERE])[0][1]
        daemon.client.adopt(elsewhere.pid, name="found")
        assert daemon.client.session("found").boundary == "exec"
        assert "/found/tools/c" in agent.run(["sh", "-c", WHERE])[0][1]
        daemon.client.detach("found")
        assert "/tools/" not in agent.run(["sh", "-c", WHERE])[0][1]
        assert alive(elsewhere.pid)
    finally:
        agent.close()


def test_the_process_connector_is_the_second_best() -> None:
    settings = {"boundary": {"source": "connector"}, "daemon": {"memory_layers": "files"}}
    with PrivateDaemon(**settings) as daemon, agent_of(daemon.start()) as agent:
        slow = ["sh", "-c", "sleep 1; cat /proc/self/cgroup; exit 5"]
        status, out = agent.run(slow)[0]
        assert status == 5 and "/s/tools/c" in out
        assert outcomes(daemon)[0].exit_code == 5
        # What it forked before it was placed was moved with it.
        out = agent.run(["bash", "-c", "(sleep 1; cat /proc/self/cgroup) & wait"])[0][1]
        assert "/s/tools/c" in out
        told = boundary(daemon)
        assert told["source"] == "process connector" and not told["stops"]
