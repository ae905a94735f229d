# SPDX-License-Identifier: Apache-2.0
"""What callers are told of sessions, calls and shells that can't be had."""

from __future__ import annotations

from ..protocol.errors import Kind, ProtocolError

__all__ = [
    "call_not_running", "session_ended", "session_exists", "shell_elsewhere", "shell_in_call",
    "shells_not_followed",
]  # fmt: skip


def session_ended(name: str) -> ProtocolError:
    return ProtocolError(
        Kind.REFUSED, "the session ended", field="session", value=name,
        remedy="begin it in another session",
    )  # fmt: skip


def session_exists(name: str) -> ProtocolError:
    return ProtocolError(
        Kind.ALREADY_EXISTS, f"there is a session '{name}' already", field="name", value=name,
        remedy="choose another name or end that session",
    )  # fmt: skip


def call_not_running(name: str) -> ProtocolError:
    return ProtocolError(
        Kind.NOT_FOUND, f"tool call '{name}' is not running", field="call", value=name,
        remedy="see: agentcgroup why " + name,
    )  # fmt: skip


def shells_not_followed(why: str) -> ProtocolError:
    return ProtocolError(
        Kind.NOT_SUPPORTED, "commands of a persistent shell can't be followed here",
        field="shell", value=True, remedy=f"begin a call for each command instead ({why})",
    )  # fmt: skip


def shell_elsewhere(pid: int) -> ProtocolError:
    return ProtocolError(
        Kind.TARGET_REFUSED, "the shell is not in its session's agent/", field="shell",
        value=pid, remedy="start it from an agent inside of the session",
    )  # fmt: skip


def shell_in_call(pid: int) -> ProtocolError:
    return ProtocolError(
        Kind.ALREADY_EXISTS, "this shell has a call that has not ended", field="shell",
        value=pid, remedy="end it first, or use another shell",
    )  # fmt: skip
