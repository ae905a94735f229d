# SPDX-License-Identifier: Apache-2.0
"""One name leads to both sockets."""

from __future__ import annotations

import pytest

from agentcgroup.errors import ConfigError
from agentcgroup.protocol.sockets import (
    DEFAULT_AGENT_SOCKET,
    MAX_PATH_BYTES,
    admin_socket_path,
    checked_socket_path,
    socket_from_environment,
)


@pytest.mark.parametrize(
    ("agent", "admin"),
    [
        (DEFAULT_AGENT_SOCKET, "/run/agentcgroup/admin.sock"),
        ("/run/x/agent/other.sock", "/run/x/admin.sock"),
        ("/run/x/admin.sock", "/run/x/admin.sock"),
        ("/run/x/t.admin.sock", "/run/x/t.admin.sock"),
        ("/run/x/t.sock", "/run/x/t.admin.sock"),
        ("/run/x/noextension", "/run/x/noextension.admin.sock"),
    ],
)
def test_admin_socket_follows_from_the_agents(agent: str, admin: str) -> None:
    assert admin_socket_path(agent) == admin
    assert admin_socket_path(admin) == admin


def test_environment_names_the_socket() -> None:
    assert socket_from_environment({}) == DEFAULT_AGENT_SOCKET
    assert socket_from_environment({"AGENTCGROUP_SOCKET": ""}) == DEFAULT_AGENT_SOCKET
    assert socket_from_environment({"AGENTCGROUP_SOCKET": "/x/a.sock"}) == "/x/a.sock"


@pytest.mark.parametrize("path", ["a.sock", "/x/", "/x\0y", "/" + "x" * MAX_PATH_BYTES])
def test_unusable_paths_are_refused_by_name(path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked_socket_path(path)
    assert (refused.value.field, refused.value.value) == ("socket", path)
    assert refused.value.remedy
