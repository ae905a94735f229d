# SPDX-License-Identifier: Apache-2.0
"""Where the daemon's two sockets are. One name leads to both: the agents'.

Containers get the *directory* of the agents' socket (a bind-mounted socket file goes
stale when the daemon restarts), so the administrators' socket lives outside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePosixPath

from ..errors import ConfigError

__all__ = [
    "DEFAULT_AGENT_SOCKET",
    "MAX_PATH_BYTES",
    "SOCKET_VARIABLE",
    "admin_socket_path",
    "checked_socket_path",
    "socket_from_environment",
]

SOCKET_VARIABLE = "AGENTCGROUP_SOCKET"
DEFAULT_AGENT_SOCKET = "/run/agentcgroup/agent/agent.sock"
# sun_path of unix(7) has 108 bytes, the last one is the terminating zero.
MAX_PATH_BYTES = 107
_ADMIN_NAME = "admin.sock"


def admin_socket_path(agent_socket: str) -> str:
    """The administrators' socket that belongs to an agents' socket.

    `…/agent/agent.sock` → `…/admin.sock`; `X.sock` → `X.admin.sock`; a path that
    already ends with `admin.sock` is the administrators' own.
    """
    path = PurePosixPath(agent_socket)
    if path.name.endswith(_ADMIN_NAME):
        return agent_socket
    if path.parent.name == "agent":
        return str(path.parent.parent / _ADMIN_NAME)
    return str(path.parent / f"{path.name.removesuffix('.sock')}.{_ADMIN_NAME}")


def checked_socket_path(path: str, field: str = "socket") -> str:
    """`path` if bind() and connect() can use it, else ConfigError naming `field`."""
    if not path.startswith("/"):
        raise ConfigError(field, path, "use an absolute path, like " + DEFAULT_AGENT_SOCKET)
    if "\0" in path or path.endswith("/"):
        raise ConfigError(field, path, "name a socket file")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigError(field, path, f"a socket's path has at most {MAX_PATH_BYTES} bytes")
    return path


def socket_from_environment(environment: Mapping[str, str] | None = None) -> str:
    """The agents' socket: AGENTCGROUP_SOCKET, else the default place."""
    found = (os.environ if environment is None else environment).get(SOCKET_VARIABLE)
    if not found:
        return DEFAULT_AGENT_SOCKET
    return checked_socket_path(found, SOCKET_VARIABLE)
