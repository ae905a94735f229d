# SPDX-License-Identifier: Apache-2.0
"""The synchronous SDK: every method of the protocol, and `with client.tool_call(…)`.

Nothing connects before the first request. A Client may be shared between threads; after
a fork the child makes connections of its own. Sizes are bytes or strings such as "2G",
cores are CPUs, times seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..protocol.messages import (
    AdviceResult,
    BudgetResult,
    CallInfo,
    EndResult,
    SessionInfo,
    VersionResult,
)
from ..types.intents import Intent
from ..types.outcomes import Outcome
from ..types.steps import StepReport
from .base import AnyClient
from .questions import intent_of, next_try
from .shell import Shell
from .steps import in_thread
from .toolcall import CompletedCall, ToolCall, checked

__all__ = ["Client"]

P = ParamSpec("P")
R = TypeVar("R")


class Client(AnyClient):
    """A daemon as its agents and operators see it; every method waits for its answer."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Tool calls

    def tool_call(
        self,
        intent: Intent | Mapping[str, Any] | None = None,
        *,
        session: str | None = None,
        key: str | None = None,
        intent_id: str | None = None,
        **fields: Any,
    ) -> ToolCall:
        """One unit of work with its own limits; use it as a context manager.

        The intent is an Intent, a mapping, keywords (memory="2G", timeout_s=600), or an
        Intent with keywords on top. `key` makes a repeated begin the same call.
        """
        return ToolCall(self._dialog(intent_of(intent, fields), session, key, intent_id))

    def run(
        self,
        args: Any,
        intent: Intent | Mapping[str, Any] | None = None,
        *,
        session: str | None = None,
        check: bool = False,
        retries: int = 0,
        **options: Any,
    ) -> CompletedCall:
        """subprocess.run as a tool call of its own; `.outcome` says how it ended.

        A call whose outcome says that a retry is worthwhile is tried again, at most
        `retries` times, with the intent that the outcome names and as `retry_of` it.
        """
        wish: Intent | None = intent_of(intent, {})
        while wish is not None:
            with self.tool_call(wish, session=session) as call:
                result = call.run(args, **options)
            wish = next_try(wish, call.outcome) if retries > 0 else None
            retries -= 1
        return checked(result) if check else result

    def shell(self, *, session: str | None = None, **options: Any) -> Shell:
        """One bash for many commands: `with client.shell() as shell: shell.run(…)`.

        Directory, variables and functions stay from command to command, each of which is a
        tool call of its own, begun by `run`. `options` are Popen's: cwd, env, text, encoding,
        errors, and stderr=subprocess.STDOUT for one output of both.
        """
        return Shell(self._shell_dialog(session, options))

    def tool(
        self,
        intent: Intent | Mapping[str, Any] | None = None,
        *,
        session: str | None = None,
        **fields: Any,
    ) -> Callable[[Callable[Concatenate[ToolCall, P], R]], Callable[P, R]]:
        """Decorator: each use of the function is a tool call, which it gets as first argument."""
        base = intent_of(intent, fields)

        def made(function: Callable[Concatenate[ToolCall, P], R]) -> Callable[P, R]:
            wish = base if base.label else intent_of(base, {"label": function.__name__})

            @functools.wraps(function)
            def called(*args: P.args, **kwargs: P.kwargs) -> R:
                with self.tool_call(wish, session=session) as call:
                    return function(call, *args, **kwargs)

            return called

        return made

    def declare_intent(
        self,
        intent: Intent | Mapping[str, Any],
        *,
        match: str | None = None,
        ttl_s: float = 60.0,
        session: str | None = None,
    ) -> str:
        """Announce the next matching call; the id of the declaration."""
        wish = intent_of(intent, {})
        return in_thread(self._ask.declare_intent(wish, match=match, ttl_s=ttl_s, session=session))

    def calls(
        self, session: str | None = None, *, ended: bool = True, limit: int = 100
    ) -> list[CallInfo]:
        """Tool calls of a session, running and (with `ended`) kept ones, newest first."""
        return in_thread(self._ask.calls(session, ended=ended, limit=limit))

    def live_calls(self, session: str | None = None) -> list[CallInfo]:
        """What runs or waits on the whole host, with figures; for administrators."""
        return in_thread(self._ask.live_calls(session))

    def call(self, call: str | None = None) -> CallInfo:
        """One tool call with its outcome once it has ended; without a name, one's own."""
        return in_thread(self._ask.call(call))

    def outcome(self, call: str) -> Outcome | None:
        """How a call ended; None while it runs."""
        return self.call(call).outcome

    def report_step(self, report: StepReport | None = None, /, **fields: Any) -> AdviceResult:
        """Tell the supervisor about one step of the agent's loop."""
        return in_thread(self._ask.report_step(report, fields))

    # Sessions

    def create_session(
        self, name: str | None = None, *, pidfd: int | None = None, **fields: Any
    ) -> SessionInfo:
        """A new session: memory, memory_reserve, cpu, pids_max, priority, kind, mode, labels.

        The process of `pidfd` becomes its agent: placed into it, or (kind="outside") bound.
        """
        return in_thread(self._ask.create_session(name, fields, pidfd))

    def adopt(self, pid: int | None = None, name: str | None = None, **fields: Any) -> SessionInfo:
        """Make a session of a running process and what it starts from now on.

        With `container` (name or id) or `cgroup` (its path), of that, in place; `pid` is then an
        agent outside of it (kind="outside").
        """
        return in_thread(self._ask.adopt(pid, name, fields))

    def detach(self, session: str) -> SessionInfo:
        """Give an adopted session's processes back as they were."""
        return in_thread(self._ask.detach(session))

    def sessions(self) -> list[SessionInfo]:
        return in_thread(self._ask.sessions())

    def session(self, name: str | None = None) -> SessionInfo:
        """A session by name; without one, the caller's own."""
        return in_thread(self._ask.session(name))

    def update_session(self, session: str, **fields: Any) -> SessionInfo:
        """Change priority, memory, memory_reserve, cpu, pids_max or mode."""
        return in_thread(self._ask.update_session(session, fields))

    def end_session(self, session: str) -> EndResult:
        """End its calls and remove it."""
        return in_thread(self._ask.end_session(session))

    def budget(self, session: str | None = None) -> BudgetResult:
        """What the session has and what is free of it."""
        return in_thread(self._ask.budget(session))

    # Host and events

    def version(self, *, retry: bool = True) -> VersionResult:
        """The daemon's version; with `retry` an absent one is waited for, two seconds."""
        return in_thread(self._ask.version(retry=retry))

    def status(self) -> dict[str, Any]:
        """The daemon's report on itself (docs/protocol.md, host.status)."""
        return in_thread(self._ask.status())

    def probe(self) -> dict[str, Any]:
        """What the host can do (docs/protocol.md, host.probe); takes a while."""
        return in_thread(self._ask.probe())

    def events(
        self, session: str | None = None, *, kinds: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Trace records as they happen, on a connection of their own, until closed."""
        connection: Any = in_thread(self._ask.events(session, kinds))
        try:
            while True:
                message = connection.next_message()
                if isinstance(message.get("params"), dict):
                    yield message["params"]
        finally:
            connection.close()
