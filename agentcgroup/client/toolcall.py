# SPDX-License-Identifier: Apache-2.0
"""One tool call: placed before it runs, ended with a reason.

The first command starts the call: its waiting child's pidfd travels with `tool.begin`,
and only the daemon's yes lets it execute. Further commands of the same call are placed
by `tool.update`. Leaving the `with` block ends the call and what is left in it.

An absent daemon costs at most two seconds and one warning; then commands run unmanaged
(unless `require`). A connection lost in between is made again and the call resumed by
its key, which makes `tool.begin` idempotent.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from types import TracebackType
from typing import Any

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
from ..types.validation import parse
from .channels import Channels
from .child import WaitingChild, command_line, normalize
from .transport import RETRY_PAUSE_S, RETRY_S, Connection, ConnectionLostError, Endpoint

__all__ = ["CompletedCall", "ToolCall"]

_log = get_logger(__name__)
_REFUSALS = frozenset({Kind.REFUSED, Kind.WAIT_TIMEOUT, Kind.OVER_BUDGET, Kind.TOO_MANY})
_DEFAULT_MAX_WAIT_S = 300.0
_RECONNECT_ENVIRONMENT = "AGENTCGROUP_RECONNECT_S"
_RECONNECT_S = 30.0


class CompletedCall(subprocess.CompletedProcess[Any]):
    """subprocess.CompletedProcess, plus the outcome of the call it belongs to."""

    def __init__(self, call: ToolCall, args: Any, returncode: int, out: Any, err: Any) -> None:
        super().__init__(args, returncode, out, err)
        self.call = call

    @property
    def outcome(self) -> Outcome | None:
        """None until the call has ended."""
        return self.call.outcome


class ToolCall:
    """Made by Client.tool_call; `run` and `popen` take what subprocess takes."""

    def __init__(
        self,
        channels: Channels,
        intent: Intent,
        *,
        session: str | None,
        key: str | None,
        intent_id: str | None,
        require: bool,
    ) -> None:
        self.key = key or os.urandom(16).hex()
        self.intent = intent
        self.info: BeginResult | None = None
        self.outcome: Outcome | None = None
        self._channels = channels
        self._session = session
        self._intent_id = intent_id
        self._require = require
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._state = "new"  # new, managed, unmanaged, ended
        self._processes: list[subprocess.Popen[Any]] = []
        self._endpoint: Endpoint = channels.agent
        self._connection: Connection | None = None

    @property
    def id(self) -> str | None:
        """The daemon's name of the call; None before the first command and unmanaged."""
        return self.info.call if self.info else None

    @property
    def managed(self) -> bool:
        """True once the daemon has placed the call."""
        return self.info is not None

    def popen(self, args: Any, *, shell: bool = False, **options: Any) -> subprocess.Popen[Any]:
        """subprocess.Popen inside the call; what still runs when the call ends is killed."""
        argv = normalize(args, shell=shell)
        with self._lock:
            if self._state == "ended":
                raise RuntimeError("this tool call has ended; start another with tool_call()")
            child = WaitingChild(argv, options)
            try:
                self._place(child, argv)
            except BaseException:
                child.abandon()
                raise
            process = child.release()
            self._processes.append(process)
        return process

    def run(
        self,
        args: Any,
        *,
        input: Any = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        **options: Any,
    ) -> CompletedCall:
        """subprocess.run inside the call; its result knows the call's outcome."""
        if input is not None:
            if options.get("stdin") is not None:
                raise ValueError("stdin and input arguments may not both be used.")
            options["stdin"] = subprocess.PIPE
        if capture_output:
            if options.get("stdout") is not None or options.get("stderr") is not None:
                raise ValueError("stdout and stderr may not be used with capture_output.")
            options["stdout"] = options["stderr"] = subprocess.PIPE
        with self.popen(args, **options) as process:
            try:
                out, err = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()
                process.wait()
                raise
        completed = CompletedCall(self, process.args, process.returncode, out, err)
        if check:
            completed.check_returncode()
        return completed

    def update(self, intent: Intent | dict[str, Any]) -> UpdateResult | None:
        """Tell new wishes for the running call; the limits it has now (None: unmanaged)."""
        wish = intent if isinstance(intent, Intent) else parse(Intent, intent, "intent")
        with self._lock:
            if self._state == "unmanaged":
                return None
            if self._state != "managed":
                raise RuntimeError("no command of this tool call is running")
            wishes = wish.model_dump(mode="json", exclude_none=True)
            return UpdateResult.model_validate(self._ask("tool.update", {"intent": wishes}))

    def __enter__(self) -> ToolCall:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pid != os.getpid():
            return  # a forked child leaves the block too; the call is its parent's
        with self._lock:
            if self._state == "managed":
                self.outcome = self._end()
            elif self._state == "unmanaged":
                self.outcome = self._own_outcome("It ran without limits: no daemon answered.")
            self._state = "ended"
            if self._connection is not None:
                self._endpoint.release(self._connection)
                self._connection = None

    # Begin

    def _place(self, child: WaitingChild, argv: list[str]) -> None:
        if self._state == "managed":
            # In a nested call every child is born in the leaf already.
            if self.info is not None and not self.info.nested:
                self._ask("tool.update", {}, pidfd=child.pidfd)
            return
        if self._state == "unmanaged":
            return
        if self.intent.command is None:
            self.intent = self.intent.model_copy(update={"command": command_line(argv)})
        try:
            self._begin(child.pidfd)
        except DaemonUnavailableError as problem:
            if self._require:
                raise
            warn_once(_log, self._channels.note_absent(problem))
            self._state = "unmanaged"
        except RemoteError as refusal:
            raise self._refused(refusal) from None
        else:
            self._channels.note_present()
            self._state = "managed"

    def _begin(self, pidfd: int) -> None:
        params: dict[str, Any] = {
            "key": self.key,
            "intent": self.intent.model_dump(mode="json", exclude_none=True),
        }
        if self._intent_id is not None:
            params["intent_id"] = self._intent_id
        if self._session is not None:
            params["session"] = self._session
        try:
            self._begin_at(self._channels.agent, params, pidfd)
        except RemoteError as refusal:
            if not self._channels.worth_asking_admin(refusal):
                raise
            try:
                self._begin_at(self._channels.admin, params, pidfd, retry_s=0.0)
            except (DaemonUnavailableError, PermissionError):
                raise refusal from None

    def _begin_at(
        self,
        endpoint: Endpoint,
        params: dict[str, Any],
        pidfd: int,
        retry_s: float | None = None,
    ) -> None:
        wait_s = (self.intent.max_wait_s or _DEFAULT_MAX_WAIT_S) + self._channels.timeout_s
        retry_s = self._channels.tool_retry_s if retry_s is None else retry_s
        give_up_s: float | None = None
        while True:
            connection = endpoint.acquire(retry_s)
            try:
                result = connection.request("tool.begin", params, pidfd=pidfd, timeout_s=wait_s)
            except (ConnectionLostError, RemoteError) as problem:
                endpoint.release(connection)
                if isinstance(problem, RemoteError) and problem.kind != Kind.SHUTTING_DOWN:
                    raise
                # Perhaps begun, perhaps not: the same key asks for the same call again.
                now_s = time.monotonic()
                give_up_s = give_up_s or now_s + RETRY_S
                if now_s >= give_up_s:
                    raise DaemonUnavailableError(str(problem)) from None
                retry_s = give_up_s - now_s
                time.sleep(RETRY_PAUSE_S)
            else:
                self._endpoint, self._connection = endpoint, connection
                self.info = BeginResult.model_validate(result)
                return

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
    ) -> dict[str, Any]:
        params = {"call": self.id, **params}
        try:
            return self._request(method, params, pidfd)
        except ConnectionLostError:
            self._resume({})
            return self._request(method, params, pidfd)

    def _request(
        self, method: str, params: dict[str, Any], pidfd: int | None = None
    ) -> dict[str, Any]:
        if self._connection is None:
            raise ConnectionLostError("the call's connection was lost")
        timeout_s = self._channels.timeout_s
        return self._connection.request(method, params, pidfd=pidfd, timeout_s=timeout_s)

    def _resume(self, status: dict[str, int]) -> CallInfo:
        """Bind the call to a new connection; a status ends it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        deadline_s = time.monotonic() + _reconnect_s()
        while True:
            connection = self._endpoint.acquire(max(0.0, deadline_s - time.monotonic()))
            try:
                result = connection.request(
                    "tool.resume", {"key": self.key, **status}, timeout_s=self._channels.timeout_s
                )
            except ConnectionLostError:
                if time.monotonic() >= deadline_s:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                self._connection = connection
                return CallResult.model_validate(result).call

    def _end(self) -> Outcome:
        status = self._status()
        try:
            try:
                return self._end_request(status)
            except ConnectionLostError:
                pass
            except RemoteError as refusal:
                if refusal.kind != Kind.SHUTTING_DOWN:
                    raise
            return self._resume(status).outcome or self._end_request(status)
        except (DaemonUnavailableError, RemoteError) as problem:
            _log.warning("the outcome of tool call %s is not known: %s", self.id, problem)
            return self._own_outcome(f"The daemon could not say how it ended: {problem}")

    def _end_request(self, status: dict[str, int]) -> Outcome:
        result = self._request("tool.end", {"call": self.id, **status})
        return OutcomeResult.model_validate(result).outcome

    def _status(self) -> dict[str, int]:
        """Status of the last command that ended, as a shell script's would be."""
        for process in reversed(self._processes):
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
