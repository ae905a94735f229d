# SPDX-License-Identifier: Apache-2.0
"""Errors a caller can act on.

AgentCgroupError
 +- InvalidValueError        (ValueError)       a field, its value, the remedy
 |   +- ConfigError                             configuration file or environment
 |   +- FormatError                             a trace or record that can't be read
 |   +- IntentRejectedError                     an intent that can't be honoured
 +- NotSupportedError        (OSError)          the kernel lacks a capability
 +- InconclusiveError        (OSError)          a probe could not tell
 +- CgroupGoneError          (FileNotFoundError) the cgroup was removed meanwhile
 +- NotPermittedError        (PermissionError)  the caller may not do this
 +- DaemonUnavailableError   (ConnectionError)  nobody answers on the socket
 +- RemoteError                                 the daemon refused a request
     +- RefusedError                            a tool call that may not start now
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AgentCgroupError",
    "CgroupGoneError",
    "ConfigError",
    "DaemonUnavailableError",
    "FormatError",
    "InconclusiveError",
    "IntentRejectedError",
    "InvalidValueError",
    "NotPermittedError",
    "NotSupportedError",
    "RefusedError",
    "RemoteError",
]

EXIT_USAGE = 2
EXIT_DAEMON_ABSENT = 69
EXIT_REFUSED = 75
EXIT_NOT_PERMITTED = 77
EXIT_BAD_CONFIG = 78


class AgentCgroupError(Exception):
    """Root of every error this package raises on purpose."""

    exit_code: int = 1


class InvalidValueError(AgentCgroupError, ValueError):
    """A value from outside is unusable.

    `field` names it as the user wrote it, `remedy` says what would be accepted.
    """

    exit_code = EXIT_USAGE

    def __init__(self, field: str, value: object, remedy: str) -> None:
        self.field = field
        self.value = value
        self.remedy = remedy
        super().__init__(f"{field}: cannot use {printable(value)}: {remedy}")


class ConfigError(InvalidValueError):
    """Configuration file, environment or command line that can't be used."""

    exit_code = EXIT_BAD_CONFIG


class FormatError(InvalidValueError):
    """A trace, record or data file that can't be read."""

    exit_code = EXIT_BAD_CONFIG


class IntentRejectedError(InvalidValueError):
    """An intent that is well-formed but can't be honoured here."""


class NotSupportedError(AgentCgroupError, OSError):
    """The running kernel lacks a capability; callers fall back."""

    exit_code = EXIT_BAD_CONFIG


class InconclusiveError(AgentCgroupError, OSError):
    """A probe could not tell; ask again, remember nothing."""


class CgroupGoneError(AgentCgroupError, FileNotFoundError):
    """The cgroup was removed meanwhile. An ordinary result, not a fault."""


class NotPermittedError(AgentCgroupError, PermissionError):
    """The caller lacks the right; the text says which one."""

    exit_code = EXIT_NOT_PERMITTED


class DaemonUnavailableError(AgentCgroupError, ConnectionError):
    """Nobody answers on the daemon's socket."""

    exit_code = EXIT_DAEMON_ABSENT


class RemoteError(AgentCgroupError):
    """The daemon refused a request. `kind` is from the protocol's closed list."""

    def __init__(
        self, kind: str, message: str, *, field: str = "", value: Any = None, remedy: str = ""
    ) -> None:
        self.kind = kind
        self.field = field
        self.value = value
        self.remedy = remedy
        super().__init__(message)


class RefusedError(RemoteError):
    """A tool call that may not start now; `outcome` (if any) says what to try next."""

    exit_code = EXIT_REFUSED
    outcome: Any = None


def printable(text: object, limit: int = 64) -> str:
    """Quote foreign text for a message: printable, at most `limit` characters."""
    plain = text if isinstance(text, str) else repr(text)
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in plain)
    if len(clean) > limit:
        clean = clean[: limit - 1] + "…"
    return f"'{clean}'"
