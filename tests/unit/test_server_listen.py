# SPDX-License-Identifier: Apache-2.0
"""Sockets take their place only where nobody answers, with exactly their mode."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from agentcgroup.daemon.server_listen import ListeningSocket
from agentcgroup.errors import ConfigError


def test_mode_and_directory_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        listening = ListeningSocket(str(tmp_path / "run" / "agent" / "a.sock"), 0o666)
    finally:
        os.umask(old)
    found = (tmp_path / "run" / "agent").stat(), (tmp_path / "run" / "agent" / "a.sock").stat()
    assert [stat.S_IMODE(x.st_mode) for x in found] == [0o755, 0o666]
    listening.close()
    assert list((tmp_path / "run" / "agent").iterdir()) == []


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    listening = ListeningSocket(str(path), 0o660)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listening.close()


@pytest.mark.parametrize("backlog", [0, 8])
def test_a_socket_in_use_is_left_alone(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(backlog)
        waiting.connect(str(path))  # with a backlog of 0 the queue is full now
        with pytest.raises(ConfigError) as refused:
            ListeningSocket(str(path), 0o660)
        assert (refused.value.field, refused.value.value) == ("socket", str(path))
        assert "in use" in refused.value.remedy
        assert refused.value.exit_code == 78
        assert [p.name for p in tmp_path.iterdir()] == ["a.sock"]


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        ListeningSocket(str(path), 0o660)
    assert path.read_text() == "precious"


def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as refused:
        ListeningSocket(str(tmp_path / "file" / "a.sock"), 0o660)
    assert refused.value.field == "socket"


def test_long_paths_work_up_to_the_kernels_limit(tmp_path: Path) -> None:
    name = "s" * (107 - len(str(tmp_path)) - 1)
    listening = ListeningSocket(str(tmp_path / name), 0o660)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / name))
    listening.close()


def test_close_leaves_a_successors_socket(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    first = ListeningSocket(str(path), 0o660)
    path.unlink()
    second = ListeningSocket(str(path), 0o660)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()
