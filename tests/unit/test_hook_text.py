# SPDX-License-Identifier: Apache-2.0
"""What a model may say about a command, the rewritten command, and JSON edited as text."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.errors import InvalidValueError
from agentcgroup.integrations import json_text
from agentcgroup.integrations.hook_rewrite import options_for, rewritten, runs_managed
from agentcgroup.integrations.wishes import FREE, parse_pairs, wishes_for

LAUNCHER = "/opt/agent cgroup/agentcgroup-run"


@pytest.mark.parametrize(
    ("command", "environment", "expected"),
    [
        ("pytest", {}, {}),
        ("x -q # agentcgroup: memory=2G timeout=10m", {}, {"memory": "2G", "timeout_s": "10m"}),
        ("# agentcgroup: memory=2G,cpu=2\npytest", {}, {"memory": "2G", "cpu": "2"}),
        ("AGENTCGROUP_INTENT='memory=2G cpu-max=1' pytest", {}, {"memory": "2G", "cpu_max": "1"}),
        ("cd x && AGENTCGROUP_INTENT=memory=2G pytest", {}, {"memory": "2G"}),
        ("export AGENT_RESOURCE_HINT=memory:low; ls", {}, {"memory": "256M"}),
        ('AGENT_RESOURCE_HINT="memory:medium" pytest', {}, {"memory": "1G"}),
        ("AGENT_RESOURCE_HINT=memory:high pytest", {}, {"memory": FREE}),
        ("AGENT_RESOURCE_HINT=memory:3g pytest", {}, {"memory": "3g"}),
        ("pytest", {"AGENTCGROUP_INTENT": "memory=1G"}, {"memory": "1G"}),
        ("pytest", {"AGENT_RESOURCE_HINT": "memory:512m"}, {"memory": "512m"}),
        ("AGENT_RESOURCE_HINT=memory:low x", {"AGENTCGROUP_INTENT": "memory=9G"},
         {"memory": "256M"}),
        ("AGENTCGROUP_INTENT=memory=1G x # agentcgroup: memory=2G", {}, {"memory": "2G"}),
        ("echo $AGENTCGROUP_INTENT", {}, {}),
        ("MY_AGENT_RESOURCE_HINT=x ls", {}, {}),
    ],
)  # fmt: skip
def test_what_is_said(command: str, environment: dict[str, str], expected: Any) -> None:
    assert wishes_for(command, environment) == expected


@pytest.mark.parametrize(
    "command",
    ["x # agentcgroup: memory", "x # agentcgroup: memry=1G", "AGENTCGROUP_INTENT=2G x",
     "AGENT_RESOURCE_HINT=cpu:high x", "AGENT_RESOURCE_HINT=memory:lots x"],
)  # fmt: skip
def test_wrong_words_are_named(command: str) -> None:
    with pytest.raises(InvalidValueError) as wrong:
        wishes_for(command, {})
    assert wrong.value.field in ("# agentcgroup:", "AGENTCGROUP_INTENT", "AGENT_RESOURCE_HINT")
    assert wrong.value.remedy


@given(st.text(max_size=60))
def test_any_text_is_wishes_or_a_clear_error(text: str) -> None:
    for place in (f"x # agentcgroup: {text}", f"AGENTCGROUP_INTENT='{text}' x"):
        try:
            wishes = wishes_for(place, {"AGENT_RESOURCE_HINT": text})
        except InvalidValueError as wrong:
            assert wrong.remedy
        else:
            assert all(isinstance(value, str) for value in wishes.values())


@pytest.mark.parametrize("command", ["", "  ", "cd /tmp", "cd", "cd 'a b';", "cd x && "])
def test_nothing_to_rewrite(command: str) -> None:
    assert rewritten(command, LAUNCHER, []) is None


@pytest.mark.parametrize(
    "command",
    ["agentcgroup-run --memory 1G -- pytest", "cd x && /opt/bin/agentcgroup run -- pytest",
     "agentcgroup run -- ls"],
)  # fmt: skip
def test_what_is_managed_already_stays(command: str) -> None:
    assert runs_managed(command) and rewritten(command, LAUNCHER, []) is None


def test_cd_stays_outside() -> None:
    new = rewritten("cd 'a b' && make test", "run", ["--label", "x"])
    assert new == "cd 'a b' && run --label x -c 'make test'"
    assert rewritten("cd $(pwd) && make", "run", []) == "run -c 'cd $(pwd) && make'"


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=80))
def test_the_shell_gets_the_same_command(command: str) -> None:
    new = rewritten(command, LAUNCHER, options_for({"memory": "2G"}, "toolu_1"))
    if new is None:
        return
    before, _, rest = new.partition(shlex.quote(LAUNCHER) + " ")
    words = shlex.split(rest)
    assert words[-2] == "-c"
    assert before + words[-1] == command
    assert runs_managed(new)


def test_the_shell_ends_as_before() -> None:
    for command in (
        "exit 3",
        "kill -TERM $$",
        "false || exit 4",
        "cat <<'E'\na 'b'\nE",
        "cd / && pwd",
    ):
        new = rewritten(command, "bash", [])
        assert new is not None
        plain, managed = (
            subprocess.run(["bash", "-c", text], capture_output=True, check=False)
            for text in (command, new)
        )
        expected = plain.returncode if plain.returncode >= 0 else 128 - plain.returncode
        got = managed.returncode if managed.returncode >= 0 else 128 - managed.returncode
        assert (got, managed.stdout) == (expected, plain.stdout), command


def test_options_are_those_of_the_static_program() -> None:
    wishes = parse_pairs("memory=1G timeout=5m io-weight=10 background=kill", "x")
    assert options_for(wishes, "") == [
        "--background", "kill", "--memory", "1G", "--timeout", "5m", "--io-weight", "10",
    ]  # fmt: skip


# JSON as text

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
styles = st.sampled_from(
    [{}, {"indent": 2}, {"indent": "\t"}, {"indent": 4, "separators": (" ,", " : ")},
     {"separators": (",", ":")}]
)  # fmt: skip


@given(values, styles)
def test_read_is_json(value: Any, style: Any) -> None:
    text = json.dumps(value, **style)
    assert json_text.read("\ufeff " + text + "\r\n").value == json.loads(text)


@given(st.dictionaries(st.text(max_size=4), values, max_size=3), styles, values)
def test_a_member_comes_and_goes(record: dict[str, Any], style: Any, value: Any) -> None:
    record.pop("new", None)
    text = json.dumps(record, **style) + "\n"
    more = json_text.append(text, json_text.read(text), "new", value, 0)
    assert json.loads(more) == {**record, "new": json.loads(json.dumps(value))}
    node = json_text.read(more)
    assert json_text.without(more, node, len(node.parts) - 1) == text


@given(st.lists(values, min_size=1, max_size=4), styles, st.data())
def test_an_item_comes_and_goes(items: list[Any], style: Any, data: st.DataObject) -> None:
    text = json.dumps(items, **style)
    more = json_text.append(text, json_text.read(text), None, {"a": [1]}, 0)
    assert json.loads(more) == [*items, {"a": [1]}]
    assert json_text.without(more, json_text.read(more), len(items)) == text
    at = data.draw(st.integers(0, len(items)))
    rest = json.loads(json_text.without(more, json_text.read(more), at))
    expected = [*items, {"a": [1]}]
    del expected[at]
    assert rest == json.loads(json.dumps(expected))


@given(st.text(alphabet='{}[]",:\\ \n1ae', max_size=20))
def test_what_json_refuses_is_refused(text: str) -> None:
    try:
        expected = json.loads(text)
    except json.JSONDecodeError:
        with pytest.raises(json.JSONDecodeError):
            json_text.read(text)
    else:
        assert json_text.read(text).value == expected
