# SPDX-License-Identifier: Apache-2.0
"""Every method, every role, own and foreign: what is not written here is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.daemon import access
from agentcgroup.daemon.identity import Identity
from agentcgroup.protocol.errors import ProtocolError
from agentcgroup.protocol.messages import METHODS, Access
from agentcgroup.types.validation import parse

CALLS = {"c1": "A", "c2": "A", "c9": "B"}
STEP = {"step": 1, "prompt_tokens": 1, "completion_tokens": 1}

# Least parameters of every method, without session or call.
PARAMS: dict[str, dict[str, Any]] = {
    "host.version": {}, "host.status": {}, "host.probe": {},
    "session.create": {}, "session.adopt": {}, "session.detach": {"session": "A"},
    "session.get": {}, "session.list": {}, "session.update": {"session": "A"},
    "session.budget": {}, "session.end": {"session": "A"},
    "intent.declare": {"intent": {}},
    "tool.begin": {"key": "k"}, "tool.update": {"call": "c1"}, "tool.get": {"call": "c1"},
    "tool.list": {}, "tool.end": {"call": "c1", "exit_code": 0}, "tool.resume": {"key": "k"},
    "step.report": STEP, "events.subscribe": {},
}  # fmt: skip

# The outcome for a peer of session A (leaf: in call c1) that speaks of its own things.
ALLOWED = {
    Access.ANYONE: {"host.version"},
    Access.LEAF: {"host.version", "session.budget", "tool.begin", "tool.get"},
    Access.AGENT: {
        "host.version", "session.get", "session.budget", "intent.declare", "step.report",
        "events.subscribe", "tool.begin", "tool.update", "tool.get", "tool.list", "tool.end",
        "tool.resume",
    },
    Access.ADMIN: set(METHODS),
}  # fmt: skip
IDENTITIES = {
    Access.ANYONE: Identity(Access.ANYONE, 10, 0, 0),
    Access.LEAF: Identity(Access.LEAF, 10, 0, 0, "A", "c1"),
    Access.AGENT: Identity(Access.AGENT, 10, 0, 0, "A"),
    Access.ADMIN: Identity(Access.ADMIN, 10, 0, 0),
}


def kind(who: Identity, method: str, params: dict[str, Any]) -> str:
    parsed = parse(METHODS[method].params, params)
    try:
        access.allow(who, METHODS[method], parsed, CALLS.get)
    except ProtocolError as refused:
        assert refused.field and refused.remedy
        return refused.kind.value
    return "ok"


def test_the_table_speaks_of_every_method() -> None:
    assert PARAMS.keys() == METHODS.keys()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("role", list(Access))
def test_own_things(role: Access, method: str) -> None:
    found = kind(IDENTITIES[role], method, PARAMS[method])
    if method in ALLOWED[role]:
        assert found == "ok"
    elif role is Access.ANYONE:
        assert found == "no_session"
    else:
        assert found == "not_permitted"


def _takes(method: str, field: str) -> bool:
    return field in METHODS[method].params.model_fields


@pytest.mark.parametrize("role", [Access.ANYONE, Access.LEAF, Access.AGENT])
@pytest.mark.parametrize("method", [m for m in METHODS if _takes(m, "session")])
def test_a_foreign_session_is_refused_whether_it_exists_or_not(role: Access, method: str) -> None:
    foreign = [kind(IDENTITIES[role], method, PARAMS[method] | {"session": s}) for s in ("B", "no")]
    assert foreign[0] == foreign[1] != "ok"
    own = kind(IDENTITIES[role], method, PARAMS[method] | {"session": "A"})
    assert (own == "ok") == (method in ALLOWED[role])


@pytest.mark.parametrize("role", [Access.ANYONE, Access.LEAF, Access.AGENT])
@pytest.mark.parametrize("method", [m for m in METHODS if _takes(m, "call")])
def test_a_foreign_call_is_refused_whether_it_exists_or_not(role: Access, method: str) -> None:
    foreign = [kind(IDENTITIES[role], method, PARAMS[method] | {"call": c}) for c in ("c9", "no")]
    assert foreign[0] == foreign[1] != "ok"


def test_refusals_use_the_same_words() -> None:
    texts = set()
    for call in ("c9", "no"):
        with pytest.raises(ProtocolError) as refused:
            access.allow(IDENTITIES[Access.AGENT], METHODS["tool.end"],
                         parse(METHODS["tool.end"].params, {"call": call}), CALLS.get)  # fmt: skip
        texts.add((str(refused.value), refused.value.remedy, refused.value.field))
    assert len(texts) == 1


def test_a_leaf_sees_itself_only() -> None:
    leaf = IDENTITIES[Access.LEAF]
    assert kind(leaf, "tool.get", {}) == "ok"
    assert kind(leaf, "tool.get", {"call": "c2"}) == "not_permitted"
    background = Identity(Access.LEAF, 10, 0, 0, "A", None)
    assert kind(background, "tool.get", {}) == "not_permitted"
    assert kind(background, "session.budget", {}) == "ok"


def test_a_leaf_ends_only_what_it_began_nested() -> None:
    leaf = IDENTITIES[Access.LEAF]
    nested = access.nested_call("c1", 3)
    assert access.is_nested(nested) and not access.is_nested("c1")
    assert kind(leaf, "tool.end", {"call": nested, "exit_code": 0}) == "ok"
    for other in ("c1", "c2", access.nested_call("c2", 3), access.nested_call(None, 3)):
        assert kind(leaf, "tool.end", {"call": other, "exit_code": 0}) == "not_permitted"
    background = Identity(Access.LEAF, 10, 0, 0, "A", None)
    own = access.nested_call(None, 1)
    assert kind(background, "tool.end", {"call": own, "exit_code": 0}) == "ok"


@given(
    role=st.sampled_from(list(Access)),
    session=st.sampled_from(["A", "B", "", "a", "A ", None]),
    call=st.sampled_from(["c1", "c2", "c9", "C1", "", None]),
    method=st.sampled_from(list(METHODS)),
)
def test_nothing_foreign_gets_through(
    role: Access, session: str | None, call: str | None, method: str
) -> None:
    who = IDENTITIES[role]
    params = METHODS[method].params.model_construct(session=session, call=call)
    try:
        access.allow(who, METHODS[method], params, CALLS.get)
    except ProtocolError:
        return
    assert method in ALLOWED[role]
    if role in (Access.LEAF, Access.AGENT):
        assert not _takes(method, "session") or session in (None, "A")
        assert not _takes(method, "call") or call is None or CALLS.get(call) == "A"
