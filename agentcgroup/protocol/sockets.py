# SPDX-License-Identifier: Apache-2.0
"""Where the daemon listens: one socket for agents, one for administrators.

The agent socket is the only one ever offered to agents and containers; the admin
socket's path follows from it, so that one setting (AGENTCGROUP_SOCKET) names both.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = [
    "DEFAULT_AGENT_SOCKET",
    "SOCKET_ENVIRONMENT",
    "admin_socket_path",
    "socket_from_environment",
]

SOCKET_ENVIRONMENT = "AGENTCGROUP_SOCKET"
DEFAULT_AGENT_SOCKET = "/run/agentcgroup/agent/agent.sock"


def socket_from_environment() -> str:
    """The agent socket this process was told to use, else the default."""
    return os.environ.get(SOCKET_ENVIRONMENT) or DEFAULT_AGENT_SOCKET


def admin_socket_path(agent_socket: str) -> str:
    """`…/agent/X` → `…/admin.sock`; `…admin.sock` → itself; `…/X.sock` → `…/X.admin.sock`."""
    path = Path(agent_socket)
    if path.name.endswith("admin.sock"):
        return agent_socket
    if path.parent.name == "agent":
        return str(path.parent.parent / "admin.sock")
    return str(path.with_name(path.name.removesuffix(".sock") + ".admin.sock"))
