# SPDX-License-Identifier: Apache-2.0
"""Put a listening Unix socket in place: never over one that somebody answers on.

A file that is no socket stays as well. A socket file whose owner is gone is replaced.
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from pathlib import Path

from ..errors import ConfigError
from ..log import get_logger
from ..protocol.sockets import checked_socket_path

__all__ = ["ListeningSocket", "check_free"]

_log = get_logger(__name__)
_BACKLOG = 4096


class ListeningSocket:
    """`sock` listens at `path`; close() removes the file if it is still this one."""

    def __init__(self, path: str, mode: int, group: str | None = None) -> None:
        self.path = checked_socket_path(path)
        _make_directory(Path(path).parent)
        check_free(path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._inode = _bind_and_listen(self.sock, path, mode, _group_id(group))
        except OSError as error:
            self.sock.close()
            raise ConfigError(
                "socket", path, f"choose a place where a socket can be made ({error.strerror})"
            ) from None
        except BaseException:
            self.sock.close()
            raise

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # While the socket is open nobody else's file gets its inode number.
            if Path(self.path).lstat().st_ino == self._inode:
                Path(self.path).unlink()
        self.sock.close()


def _make_directory(directory: Path) -> None:
    missing = [part for part in (directory, *directory.parents) if not part.exists()]
    try:
        for part in reversed(missing):
            part.mkdir(exist_ok=True)
            # Whatever the umask: agents of any uid have to get through.
            part.chmod(0o755)
    except OSError as error:
        raise ConfigError(
            "socket", str(directory), f"make this directory first ({error.strerror})"
        ) from None


def check_free(path: str) -> None:
    """ConfigError if a daemon answers at `path`, or something else is in the way."""
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError("socket", path, f"make it accessible ({error.strerror})") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError("socket", path, "move this file away: it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # somebody listens, with a full queue
        except OSError as error:
            raise ConfigError("socket", path, f"remove it ({error.strerror})") from None
    raise ConfigError(
        "socket", path, "a socket in use: stop the daemon that answers there, or use another path"
    )


def _group_id(group: str | None) -> int | None:
    """Only root may give a socket to a group it is not in; others keep their own."""
    if group is None or os.geteuid() != 0:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        _log.info("no group %s: only root reaches the administrators' socket", group)
        return None


def _bind_and_listen(sock: socket.socket, path: str, mode: int, group_id: int | None) -> int:
    target = Path(path)
    target.unlink(missing_ok=True)
    # Made with its final mode: no moment of wider rights, and of narrower ones neither.
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
    finally:
        os.umask(umask)
    try:
        if group_id is not None:
            os.chown(target, -1, group_id, follow_symlinks=False)
        sock.listen(_BACKLOG)
        return target.lstat().st_ino
    except BaseException:
        target.unlink()
        raise
