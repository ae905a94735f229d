# SPDX-License-Identifier: Apache-2.0
"""What both clients are made of."""

from __future__ import annotations

import functools
from typing import Any

from ..types.intents import Intent
from .call_dialog import CallDialog
from .channels import Channels
from .questions import Questions
from .shell_dialog import ShellDialog

__all__ = ["DEFAULT_TIMEOUT_S", "AnyClient"]

DEFAULT_TIMEOUT_S = 30.0


class AnyClient:
    def __init__(
        self,
        socket: str | None = None,
        *,
        require: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """`socket` names the agent socket (default: AGENTCGROUP_SOCKET, else the system's);
        the admin socket follows from it. With `require`, tool calls fail instead of running
        unmanaged when no daemon answers. `timeout_s` bounds every answer but a queued begin's.
        """
        self._channels = Channels(socket, timeout_s)
        self._ask = Questions(self._channels)
        self._require = require

    def close(self) -> None:
        """Give back idle connections; a later request makes new ones."""
        self._channels.close()

    def _dialog(
        self,
        intent: Intent,
        session: str | None,
        key: str | None,
        intent_id: str | None,
        *,
        shell: bool = False,
    ) -> CallDialog:
        return CallDialog(
            self._channels, intent,
            session=session, key=key, intent_id=intent_id, require=self._require, shell=shell,
        )  # fmt: skip

    def _shell_dialog(self, session: str | None, options: dict[str, Any]) -> ShellDialog:
        new_call = functools.partial(
            self._dialog, session=session, key=None, intent_id=None, shell=True
        )
        return ShellDialog(new_call, options)
