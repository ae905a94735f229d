# SPDX-License-Identifier: Apache-2.0
"""What one tool call says to the daemon, whichever client it belongs to.

The first command starts the call: its waiting child's pidfd travels with `tool.begin`,
and only the daemon's yes lets it execute. Further commands of the same call are placed
by `tool.update`.

An absent daemon costs at most two seconds and one warning; then commands run unmanaged
(unless `require`). A connection lost in between is made again and the call resumed by
its key, which makes `tool.begin` idempotent.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Protocol

from ..errors import (
    ConfigError,
    DaemonUnavailableError,
    IntentRejectedError,
    RefusedError,
    RemoteError,
)
from ..log import get_logger, warn_once
from ..protocol.errors import Kind
from ..protocol.messages import BeginResult, CallInfo, CallResult, OutcomeResult, UpdateResult
from ..types.intents import Intent
from ..types.outcomes import Outcome, Reason
from .channels import Channels
from .endpoint import RETRY_PAUSE_S, RETRY_S, Endpoint
from .steps import Ask, Conversation, Pause
from .wire import ConnectionLostError, Wire

__all__ = ["CallDialog"]

_log = get_logger(__name__)
_REFUSALS = frozenset({Kind.REFUSED, Kind.WAIT_TIMEOUT, Kind.OVER_BUDGET, Kind.TOO_MANY})
_DEFAULT_MAX_WAIT_S = 300.0
_RECONNECT_ENVIRONMENT = "AGENTCGROUP_RECONNECT_S"
_RECONNECT_S = 30.0


class Ended(Protocol):
    """A command: its return code as subprocess has it, None while it runs."""

    def poll(self) -> int | None: ...


class CallDialog:
    """One at a time may talk: whoever holds conversations of it sees to that."""

    def __init__(
        self,
        channels: Channels,
        intent: Intent,
        *,
        session: str | None,
        key: str | None,
        intent_id: str | None,
        require: bool,
        shell: bool = False,
    ) -> None:
        self.key = key or os.urandom(16).hex()
        self.intent = intent
        self.info: BeginResult | None = None
        self.outcome: Outcome | None = None
        self.processes: list[Ended] = []
        self.state = "new"  # new, managed, unmanaged, ended
        self._channels = channels
        self._session = session
        self._intent_id = intent_id
        self._require = require
        self._shell = shell
        self._endpoint: Endpoint = channels.agent
        self._connection: Wire | None = None
        self._unanswered: Endpoint | None = None

    @property
    def id(self) -> str | None:
        return self.info.call if self.info else None

    def place(self, pidfd: int, command: str) -> Conversation[None]:
        """Have the waiting child placed (or what the shell starts); on return it may run.

        `command` is what learning and feedback know it by, unless the intent says it.
        """
        if self.state == "managed":
            # In a nested call every child is born in the leaf already.
            if self.info is not None and not self.info.nested:
                yield from self._ask("tool.update", {}, pidfd=pidfd)
            return
        if self.state == "unmanaged":
            return
        if self.intent.command is None:
            self.intent = self.intent.model_copy(update={"command": command})
        try:
            yield from self._begin(pidfd)
        except DaemonUnavailableError as problem:
            if self._require:
                raise
            warn_once(_log, self._channels.note_absent(problem))
            self.state = "unmanaged"
        except RemoteError as refusal:
            raise self._refused(refusal) from None
        else:
            self._channels.note_present()
            self.state = "managed"

    def update(self, wish: Intent) -> Conversation[UpdateResult | None]:
        """New wishes for the running call; None: unmanaged."""
        if self.state == "unmanaged":
            return None
        if self.state != "managed":
            raise RuntimeError("no command of this tool call is running")
        wishes = wish.model_dump(mode="json", exclude_none=True)
        answer = yield from self._ask("tool.update", {"intent": wishes})
        return UpdateResult.model_validate(answer)

    def end(self) -> Conversation[None]:
        """End the call and what runs in it; afterwards the outcome is known. Twice is once."""
        state, self.state = self.state, "ended"
        if state == "managed":
            self.outcome = yield from self._end()
        elif state == "unmanaged":
            self.outcome = self._own_outcome("It ran without limits: no daemon answered.")
        if self._unanswered is not None:
            yield from self._revoke(self._unanswered)
        if self._connection is not None:
            self._endpoint.release(self._connection)
            self._connection = None

    # Begin

    def _begin(self, pidfd: int) -> Conversation[None]:
        params: dict[str, Any] = {
            "key": self.key,
            "intent": self.intent.model_dump(mode="json", exclude_none=True),
        }
        if self._intent_id is not None:
            params["intent_id"] = self._intent_id
        if self._session is not None:
            params["session"] = self._session
        if self._shell:
            params["shell"] = True
        try:
            yield from self._begin_at(self._channels.agent, params, pidfd)
        except RemoteError as refusal:
            if not self._channels.worth_asking_admin(refusal):
                raise
            try:
                yield from self._begin_at(self._channels.admin, params, pidfd, retry_s=0.0)
            except (DaemonUnavailableError, PermissionError):
                raise refusal from None

    def _begin_at(
        self,
        endpoint: Endpoint,
        params: dict[str, Any],
        pidfd: int,
        retry_s: float | None = None,
    ) -> Conversation[None]:
        wait_s = (self.intent.max_wait_s or _DEFAULT_MAX_WAIT_S) + self._channels.timeout_s
        retry_s = self._channels.tool_retry_s if retry_s is None else retry_s
        give_up_s: float | None = None
        while True:
            connection = yield from endpoint.acquire(retry_s)
            self._unanswered = endpoint
            try:
                result = yield Ask(connection, "tool.begin", params, wait_s, pidfd)
            except (ConnectionLostError, RemoteError) as problem:
                endpoint.release(connection)
                if isinstance(problem, RemoteError):
                    self._unanswered = None
                if isinstance(problem, RemoteError) and problem.kind != Kind.SHUTTING_DOWN:
                    raise
                # Perhaps begun, perhaps not: the same key asks for the same call again.
                now_s = time.monotonic()
                give_up_s = give_up_s or now_s + RETRY_S
                if now_s >= give_up_s:
                    raise DaemonUnavailableError(str(problem)) from None
                retry_s = give_up_s - now_s
                yield Pause(RETRY_PAUSE_S)
            else:
                self._endpoint, self._connection = endpoint, connection
                self._unanswered = None
                self.info = BeginResult.model_validate(result)
                return

    def _revoke(self, endpoint: Endpoint) -> Conversation[None]:
        """End what a begin may have begun whose answer nobody waited for.

        Its connection is closed, which ends a queued one; one that was placed meanwhile would
        else last as long as this process.
        """
        self._unanswered = None
        found = yield from self._killed_by_key(endpoint)
        if not found:
            yield Pause(RETRY_PAUSE_S)
            yield from self._killed_by_key(endpoint)

    def _killed_by_key(self, endpoint: Endpoint) -> Conversation[bool]:
        """Whether the daemon knew the key, or can't be asked."""
        params = {"key": self.key, "signal": signal.SIGKILL.value}
        try:
            # Not one kept from before: what is asked on it could overtake the begin.
            connection = yield from endpoint.fresh()
            try:
                yield Ask(connection, "tool.resume", params, self._channels.timeout_s)
            finally:
                endpoint.release(connection)
        except RemoteError as refusal:
            return refusal.kind != Kind.NOT_FOUND
        except DaemonUnavailableError:
            pass
        return True

    def _refused(self, refusal: RemoteError) -> Exception:
        if refusal.kind == Kind.INVALID_PARAMS and refusal.field.startswith("intent"):
            return IntentRejectedError(refusal.field, refusal.value, refusal.remedy)
        if refusal.kind not in _REFUSALS:
            return refusal
        error = RefusedError(
            refusal.kind, str(refusal),
            field=refusal.field, value=refusal.value, remedy=refusal.remedy,
        )  # fmt: skip
        error.outcome = self.outcome = Outcome(
            call="", session=self._session or "", reason=Reason.REFUSED,
            label=self.intent.label, command=self.intent.command,
            message=f"{refusal} {refusal.remedy}".strip(),
        )  # fmt: skip
        return error

    # Requests of a running call, and its end

    def _ask(
        self, method: str, params: dict[str, Any], *, pidfd: int | None = None
    ) -> Conversation[dict[str, Any]]:
        params = {"call": self.id, **params}
        try:
            return (yield from self._request(method, params, pidfd))
        except ConnectionLostError:
            yield from self._resume({})
            return (yield from self._request(method, params, pidfd))

    def _request(
        self, method: str, params: dict[str, Any], pidfd: int | None = None
    ) -> Conversation[dict[str, Any]]:
        if self._connection is None:
            raise ConnectionLostError("the call's connection was lost")
        answer: dict[str, Any] = yield Ask(
            self._connection, method, params, self._channels.timeout_s, pidfd
        )
        return answer

    def _resume(self, status: dict[str, int]) -> Conversation[CallInfo]:
        """Bind the call to a new connection; a status ends it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        deadline_s = time.monotonic() + _reconnect_s()
        while True:
            left_s = max(0.0, deadline_s - time.monotonic())
            connection = yield from self._endpoint.acquire(left_s)
            params = {"key": self.key, **status}
            try:
                result = yield Ask(connection, "tool.resume", params, self._channels.timeout_s)
            except ConnectionLostError:
                if time.monotonic() >= deadline_s:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                self._connection = connection
                return CallResult.model_validate(result).call

    def _end(self) -> Conversation[Outcome]:
        status = self._status()
        try:
            try:
                return (yield from self._end_request(status))
            except ConnectionLostError:
                pass
            except RemoteError as refusal:
                if refusal.kind != Kind.SHUTTING_DOWN:
                    raise
            resumed = yield from self._resume(status)
            return resumed.outcome or (yield from self._end_request(status))
        except (DaemonUnavailableError, RemoteError) as problem:
            _log.warning("the outcome of tool call %s is not known: %s", self.id, problem)
            return self._own_outcome(f"The daemon could not say how it ended: {problem}")

    def _end_request(self, status: dict[str, int]) -> Conversation[Outcome]:
        result = yield from self._request("tool.end", {"call": self.id, **status})
        return OutcomeResult.model_validate(result).outcome

    def _status(self) -> dict[str, int]:
        """Status of the last command that ended, as a shell script's would be."""
        for process in reversed(self.processes):
            code = process.poll()
            if code is not None:
                return {"exit_code": code} if code >= 0 else {"signal": -code}
        return {}

    def _own_outcome(self, message: str) -> Outcome:
        status = self._status()
        return Outcome(
            call=self.id or "", session=self.info.session if self.info else "",
            reason=Reason.FAILED if any(status.values()) else Reason.COMPLETED,
            label=self.intent.label, command=self.intent.command,
            exit_code=status.get("exit_code"), signal=status.get("signal"), message=message,
        )  # fmt: skip


def _reconnect_s() -> float:
    """How long a running call looks for a daemon that went away (as agentcgroup-run does)."""
    text = os.environ.get(_RECONNECT_ENVIRONMENT)
    if not text:
        return _RECONNECT_S
    try:
        return max(0.0, float(text))
    except ValueError:
        raise ConfigError(
            _RECONNECT_ENVIRONMENT, text, "write seconds as a number, such as 30 or 0.5"
        ) from None
