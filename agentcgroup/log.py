# SPDX-License-Identifier: Apache-2.0
"""Logging: one line an event on stderr, with the syslog level that journald understands.

Layers that fall back say so once: `warn_once` remembers what was said.
"""

from __future__ import annotations

import logging
import os
import sys

__all__ = ["get_logger", "setup_logging", "warn_once"]

_SYSLOG_LEVEL = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
_said: set[str] = set()


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record).replace("\n", " | ")
        return f"<{_SYSLOG_LEVEL.get(record.levelname, 6)}>{line}"


def setup_logging(level: str = "INFO") -> None:
    """Send this package's log to stderr; journald gets levels instead of time stamps."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("agentcgroup")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def get_logger(name: str) -> logging.Logger:
    return logging.getLogger(name)


def warn_once(logger: logging.Logger, message: str) -> bool:
    """Log a warning the first time this text is seen; True if it was logged."""
    if message in _said:
        return False
    _said.add(message)
    logger.warning("%s", message)
    return True
